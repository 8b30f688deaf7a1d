//! The outbox.

use std::time::Duration;

use catalog::ClaimOutcome;

use crate::fixture::{Fixture, LEASE_MS, NOW};

#[tokio::test]
async fn a_dispatched_job_is_not_dispatched_again_until_it_is_stale() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let due = catalog.undispatched_jobs(10, NOW).await.unwrap();
    assert_eq!(due[0].job_id, backup.job_id);
    assert!(catalog.mark_dispatched(&due[0], NOW).await.unwrap());
    assert_eq!(catalog.undispatched_jobs(10, NOW).await.unwrap(), []);
    assert_eq!(catalog.next_due_ms().await.unwrap(), None);
    assert_eq!(catalog.stale_dispatched(NOW, 10).await.unwrap(), []);
    let stale = catalog.stale_dispatched(NOW + 1, 10).await.unwrap();
    assert_eq!(stale, due);
    assert!(catalog.mark_dispatched(&stale[0], NOW + 1).await.unwrap());
    assert_eq!(catalog.stale_dispatched(NOW + 1, 10).await.unwrap(), []);
    assert_eq!(catalog.redispatch_all().await.unwrap(), 1);
    assert_eq!(fixture.only_due_job(NOW).await, backup.job_id);
}

#[tokio::test]
async fn a_late_mark_does_not_hide_a_newer_wish() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let item = catalog.undispatched_jobs(10, NOW).await.unwrap().remove(0);
    // The message was fast: claimed and handed back before it was marked.
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    catalog.hand_back(&fence, NOW).await.unwrap();
    assert!(!catalog.mark_dispatched(&item, NOW).await.unwrap());
    assert_eq!(fixture.only_due_job(NOW).await, backup.job_id);
}

#[tokio::test]
async fn a_message_that_came_too_early_is_sent_again_in_time() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let job_id = catalog.enqueue_compact("agent", NOW + 500, NOW).await;
    let job_id = job_id.unwrap().unwrap();
    let early = catalog.claim_job(&job_id, "worker", LEASE_MS, NOW).await;
    assert_eq!(early.unwrap(), ClaimOutcome::NotDue);
    assert_eq!(catalog.next_due_ms().await.unwrap(), Some(NOW + 500));
    assert_eq!(fixture.only_due_job(NOW + 500).await, job_id);
}

#[tokio::test]
async fn a_worker_whose_clock_is_behind_takes_what_was_dispatched() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let item = catalog.undispatched_jobs(1, NOW).await.unwrap();
    catalog.mark_dispatched(&item[0], NOW).await.unwrap();
    fixture.claim(&backup.job_id, NOW - 5_000).await;
}

#[tokio::test]
async fn new_work_wakes_the_dispatcher() {
    let fixture = Fixture::with_agent().await;
    // Each of those who listen, whether it waits already or not.
    let (mut waits, mut looks_later) = (fixture.catalog.work(), fixture.catalog.clone().work());
    let waiting = tokio::spawn(async move { waits.added().await });
    fixture.backup("agent").await;
    tokio::time::timeout(Duration::from_secs(10), async {
        waiting.await.unwrap();
        looks_later.added().await;
    })
    .await
    .expect("woken");
}
