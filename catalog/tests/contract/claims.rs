//! Claims, leases, fences.

use catalog::{BackupState, CatalogError, ClaimOutcome, JobState, Renewal};

use crate::fixture::{Fixture, LEASE_MS, NOW, result, unavailable};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_claims_of_a_job_one_wins() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let claims: Vec<_> = (0..30)
        .map(|number| {
            let (catalog, job_id) = (fixture.catalog.clone(), backup.job_id.clone());
            tokio::spawn(async move {
                let owner = format!("worker-{number}");
                catalog.claim_job(&job_id, &owner, LEASE_MS, NOW).await
            })
        })
        .collect();
    let mut won = 0;
    for claim in claims {
        match claim.await.unwrap().unwrap() {
            ClaimOutcome::Claimed(lease) => {
                won += 1;
                assert_eq!(lease.attempt, 1);
            }
            other => assert_eq!(other, ClaimOutcome::Gone),
        }
    }
    assert_eq!(won, 1);
    let backup = fixture.get_backup(&backup.backup_id).await;
    assert_eq!(backup.state, BackupState::Running);
    assert_eq!(backup.start_time_ms, Some(NOW));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_exclusive_jobs_of_an_agent_one_runs() {
    let fixture = Fixture::with_agent().await;
    let mut claims = Vec::new();
    for _ in 0..12 {
        let job_id = fixture.backup("agent").await.job_id;
        let catalog = fixture.catalog.clone();
        claims.push(tokio::spawn(async move {
            catalog.claim_job(&job_id, "worker", LEASE_MS, NOW).await
        }));
    }
    let mut running = 0;
    for claim in claims {
        match claim.await.unwrap().unwrap() {
            ClaimOutcome::Claimed(_) => running += 1,
            other => assert_eq!(other, ClaimOutcome::Busy),
        }
    }
    assert_eq!(running, 1);
}

#[tokio::test]
async fn a_job_that_found_its_agent_busy_is_woken_by_the_end_of_the_other() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let first = fixture.backup("agent").await;
    let second = fixture.backup("agent").await;
    let third = fixture.backup("agent").await;
    let fence = fixture.claim(&first.job_id, NOW).await.fence();
    for waiting in [&second, &third] {
        let claim = catalog.claim_job(&waiting.job_id, "worker", LEASE_MS, NOW);
        assert_eq!(claim.await.unwrap(), ClaimOutcome::Busy);
    }
    assert_eq!(catalog.undispatched_jobs(10, NOW).await.unwrap(), []);
    let shown = fixture.get_backup(&second.backup_id).await;
    assert_eq!(shown.state, BackupState::Pending);
    assert!(shown.progress.waiting_reason.contains("another job"));
    catalog
        .complete_backup(&fence, result(1), NOW)
        .await
        .unwrap();
    let due = fixture.only_due_job(NOW).await;
    assert!(due == second.job_id || due == third.job_id);
    // The other one comes back by itself, whatever becomes of the first.
    let later = NOW + catalog::limits::BUSY_RETRY_MS;
    assert_eq!(catalog.undispatched_jobs(10, later).await.unwrap().len(), 2);
}

#[tokio::test]
async fn other_agents_do_not_wait() {
    let fixture = Fixture::with_agent().await;
    fixture.agent("other").await;
    let one = fixture.backup("agent").await;
    let other = fixture.backup("other").await;
    fixture.claim(&one.job_id, NOW).await;
    fixture.claim(&other.job_id, NOW).await;
}

#[tokio::test]
async fn a_job_is_not_claimed_before_its_time() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    fixture.fail(&fence, NOW).await;
    let early = fixture
        .catalog
        .claim_job(&backup.job_id, "worker", LEASE_MS, NOW);
    assert_eq!(early.await.unwrap(), ClaimOutcome::NotDue);
    let due = fixture.catalog.next_due_ms().await.unwrap().unwrap();
    assert!(due > NOW);
    assert_eq!(fixture.claim(&backup.job_id, due).await.attempt, 2);
}

#[tokio::test]
async fn what_an_older_attempt_writes_is_refused() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let old = fixture.claim(&backup.job_id, NOW).await.fence();
    let later = NOW + LEASE_MS + 1;
    catalog.reap_expired(10, later).await.unwrap();
    for round in 0..2 {
        let lost = catalog.renew_lease(&old, LEASE_MS, later, None).await;
        assert_eq!(lost.unwrap(), Renewal::Lost);
        let is_fenced = |error: &CatalogError| matches!(error, CatalogError::Fenced { .. });
        let refused = catalog.complete_backup(&old, result(1), later).await;
        assert!(is_fenced(&refused.unwrap_err()));
        let refused = catalog.fail_job(&old, unavailable(), true, later).await;
        assert!(is_fenced(&refused.unwrap_err()));
        let refused = catalog.cancel_job_done(&old, later).await;
        assert!(is_fenced(&refused.unwrap_err()));
        let refused = catalog.hand_back(&old, later).await;
        assert!(is_fenced(&refused.unwrap_err()));
        let refused = catalog.note_paused(&old, Some("c")).await;
        assert!(is_fenced(&refused.unwrap_err()));
        if round == 0 {
            let due = catalog.next_due_ms().await.unwrap().unwrap();
            let new = fixture.claim(&backup.job_id, due).await;
            assert_eq!(new.attempt, 2);
        }
    }
    let now = fixture.get_backup(&backup.backup_id).await;
    assert_eq!(now.state, BackupState::Running);
    assert_eq!(now.sequence, None);
}

#[tokio::test]
async fn a_job_of_another_kind_is_not_completed() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    let refused = fixture.catalog.complete_compact(&fence, 0, None, NOW).await;
    assert!(matches!(refused, Err(CatalogError::Fenced { .. })));
    let job = fixture.catalog.get_job(&backup.job_id).await.unwrap();
    assert_eq!(job.unwrap().state, JobState::Running);
}

#[tokio::test]
async fn a_job_that_never_was_is_unknown() {
    let fixture = Fixture::new().await;
    let claim = fixture.catalog.claim_job("absent", "worker", LEASE_MS, NOW);
    assert_eq!(claim.await.unwrap(), ClaimOutcome::Unknown);
}
