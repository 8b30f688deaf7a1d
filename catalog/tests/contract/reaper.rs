//! Lost workers.

use std::collections::HashMap;

use catalog::{BackupState, JobState, ReapOutcome, RestoreState};

use crate::fixture::{Fixture, LEASE_MS, NOW, draft};

#[tokio::test]
async fn a_lost_job_is_tried_again_and_fails_when_no_try_is_left() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let mut now = NOW;
    for attempt in 1..=3 {
        assert_eq!(fixture.claim(&backup.job_id, now).await.attempt, attempt);
        assert_eq!(catalog.reap_expired(10, now + LEASE_MS).await.unwrap(), []);
        now += LEASE_MS + 1;
        let reaped = catalog.reap_expired(10, now).await.unwrap();
        assert_eq!(reaped.len(), 1);
        match reaped[0].outcome {
            ReapOutcome::Requeued { at_ms } => {
                assert!(attempt < 3 && at_ms > now);
                now = at_ms;
            }
            outcome => assert_eq!((outcome, attempt), (ReapOutcome::Failed, 3)),
        }
    }
    let shown = fixture.get_backup(&backup.backup_id).await;
    assert_eq!(shown.state, BackupState::Failed);
    let failure = shown.failure.unwrap();
    assert_eq!(failure.reason, "WORKER_LOST");
    assert!(failure.message.contains("worker-1"), "{}", failure.message);
}

#[tokio::test]
async fn a_renewed_lease_is_not_reaped() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    let renewal = fixture
        .catalog
        .renew_lease(&fence, LEASE_MS, NOW + LEASE_MS, None);
    renewal.await.unwrap();
    let reaped = fixture.catalog.reap_expired(10, NOW + LEASE_MS + 1).await;
    assert_eq!(reaped.unwrap(), []);
}

#[tokio::test]
async fn a_canceled_job_of_a_lost_worker_ends_canceled() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    fixture.claim(&backup.job_id, NOW).await;
    let asked = fixture.catalog.cancel_backup(&backup.backup_id, NOW).await;
    asked.unwrap();
    let reaped = fixture.catalog.reap_expired(10, NOW + LEASE_MS + 1).await;
    let reaped = reaped.unwrap();
    assert_eq!(reaped[0].outcome, ReapOutcome::Canceled);
    assert_eq!(reaped[0].job.state, JobState::Canceled);
    let shown = fixture.get_backup(&backup.backup_id).await;
    assert_eq!(shown.state, BackupState::Canceled);
}

#[tokio::test]
async fn a_container_paused_by_a_dead_attempt_is_handed_on() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    catalog
        .note_paused(&fence, Some("container"))
        .await
        .unwrap();
    let later = NOW + LEASE_MS + 1;
    let reaped = catalog.reap_expired(10, later).await.unwrap();
    assert_eq!(reaped[0].job.paused_container.as_deref(), Some("container"));
    let due = catalog.next_due_ms().await.unwrap().unwrap();
    let lease = fixture.claim(&backup.job_id, due).await;
    assert_eq!(lease.job.paused_container.as_deref(), Some("container"));
    catalog.note_paused(&lease.fence(), None).await.unwrap();
    let job = catalog.get_job(&backup.job_id).await.unwrap().unwrap();
    assert_eq!(job.paused_container, None);
    // It pauses again, is canceled and lost: a worker of the pool cleans up.
    let fence = lease.fence();
    catalog
        .note_paused(&fence, Some("container"))
        .await
        .unwrap();
    catalog.cancel_backup(&backup.backup_id, due).await.unwrap();
    assert_eq!(catalog.leftovers("default", 10).await.unwrap(), []);
    catalog.reap_expired(10, due + LEASE_MS + 1).await.unwrap();
    let left = catalog.leftovers("default", 10).await.unwrap();
    assert_eq!(left[0].paused_container.as_deref(), Some("container"));
    assert_eq!(catalog.leftovers("elsewhere", 10).await.unwrap(), []);
    catalog.leftover_cleaned(&left[0].job_id).await.unwrap();
    assert_eq!(catalog.leftovers("default", 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_restore_that_a_lost_worker_left_half_made_is_to_be_cleaned_up() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.completed("agent", 1).await;
    let mut plan = draft(&backup.backup_id, "copy");
    plan.decisions.clear();
    let restore = catalog.create_draft(plan, NOW).await.unwrap();
    let id = restore.restore_id.as_str();
    let restore = catalog.start_restore(id, &HashMap::new(), NOW).await;
    fixture.claim(&restore.unwrap().job_id.unwrap(), NOW).await;
    catalog.reap_expired(10, NOW + LEASE_MS + 1).await.unwrap();
    // It waits for its next attempt, which would clean up. But it is canceled.
    assert_eq!(catalog.leftovers("default", 10).await.unwrap(), []);
    let canceled = catalog.cancel_restore(id, NOW).await.unwrap();
    assert_eq!(canceled.state, RestoreState::Canceled);
    let left = catalog.leftovers("default", 10).await.unwrap();
    assert_eq!(left[0].restore_id.as_deref(), Some(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_reapers_reap_each_job_once() {
    let fixture = Fixture::with_agent().await;
    for number in 0..5 {
        let agent_id = format!("agent-{number}");
        fixture.agent(&agent_id).await;
        let backup = fixture.backup(&agent_id).await;
        fixture.claim(&backup.job_id, NOW).await;
    }
    let reapers: Vec<_> = (0..4)
        .map(|_| {
            let catalog = fixture.catalog.clone();
            tokio::spawn(async move { catalog.reap_expired(10, NOW + LEASE_MS + 1).await })
        })
        .collect();
    let mut reaped = 0;
    for reaper in reapers {
        reaped += reaper.await.unwrap().unwrap().len();
    }
    assert_eq!(reaped, 5);
}
