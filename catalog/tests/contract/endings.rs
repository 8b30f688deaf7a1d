//! How attempts end: retries, failures, handing back, cancellation.

use catalog::{BackupState, FailOutcome, JobState};
use proto::backup::v1::BackupWarning;

use crate::fixture::{Fixture, LEASE_MS, NOW, result, unavailable};

#[tokio::test]
async fn a_failed_attempt_is_retried_with_growing_waits_then_fails_for_good() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let mut now = NOW;
    for (attempt, longest_ms) in [(1, 2_000), (2, 4_000)] {
        let lease = fixture.claim(&backup.job_id, now).await;
        assert_eq!(lease.attempt, attempt);
        let FailOutcome::WillRetry { at_ms } = fixture.fail(&lease.fence(), now).await else {
            panic!("attempt {attempt} is not the last");
        };
        let wait_ms = at_ms - now;
        assert!(wait_ms <= longest_ms && wait_ms >= longest_ms * 3 / 4);
        let shown = fixture.get_backup(&backup.backup_id).await;
        assert_eq!(shown.state, BackupState::Running);
        assert_eq!(shown.failure, None);
        assert_eq!(shown.progress.waiting_reason, unavailable().message);
        assert_eq!(fixture.catalog.undispatched_jobs(9, now).await.unwrap(), []);
        now = at_ms;
    }
    let fence = fixture.claim(&backup.job_id, now).await.fence();
    let ended = fixture.fail(&fence, now).await;
    assert_eq!(ended, FailOutcome::Ended(JobState::Failed));
    let shown = fixture.get_backup(&backup.backup_id).await;
    assert_eq!(shown.state, BackupState::Failed);
    assert_eq!(shown.failure, Some(unavailable()));
    assert_eq!(shown.end_time_ms, Some(now));
    assert_eq!(fixture.catalog.next_due_ms().await.unwrap(), None);
}

#[tokio::test]
async fn what_trying_again_does_not_help_fails_at_once() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    let ended = fixture.catalog.fail_job(&fence, unavailable(), false, NOW);
    assert_eq!(ended.await.unwrap(), FailOutcome::Ended(JobState::Failed));
}

#[tokio::test]
async fn a_failure_after_a_cancellation_is_the_cancellation() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    fixture
        .catalog
        .cancel_backup(&backup.backup_id, NOW)
        .await
        .unwrap();
    let ended = fixture.fail(&fence, NOW).await;
    assert_eq!(ended, FailOutcome::Ended(JobState::Canceled));
    let shown = fixture.get_backup(&backup.backup_id).await;
    assert_eq!(shown.state, BackupState::Canceled);
}

#[tokio::test]
async fn a_handed_back_job_is_due_at_once_and_loses_no_try() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    for attempt in 1..=10 {
        let lease = fixture.claim(&backup.job_id, NOW).await;
        assert_eq!((lease.attempt, lease.job.tries), (attempt, 1));
        let state = fixture.catalog.hand_back(&lease.fence(), NOW).await;
        assert_eq!(state.unwrap(), JobState::Queued);
    }
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    let outcome = fixture.fail(&fence, NOW).await;
    assert!(matches!(outcome, FailOutcome::WillRetry { .. }));
}

#[tokio::test]
async fn a_retry_that_waits_is_canceled_at_once() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    fixture.fail(&fence, NOW).await;
    let canceled = fixture.catalog.cancel_backup(&backup.backup_id, NOW).await;
    assert_eq!(canceled.unwrap().state, BackupState::Canceled);
}

#[tokio::test]
async fn a_retry_that_waits_lets_the_agents_next_job_begin() {
    let fixture = Fixture::with_agent().await;
    let first = fixture.backup("agent").await;
    let second = fixture.backup("agent").await;
    let fence = fixture.claim(&first.job_id, NOW).await.fence();
    let busy = fixture
        .catalog
        .claim_job(&second.job_id, "worker", LEASE_MS, NOW);
    busy.await.unwrap();
    fixture.fail(&fence, NOW).await;
    assert_eq!(fixture.only_due_job(NOW).await, second.job_id);
}

#[tokio::test]
async fn a_completed_backup_keeps_its_figures_and_its_first_warnings() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    let mut stored = result(3);
    stored.warnings_total = 250;
    stored.warnings = (0..250)
        .map(|number| BackupWarning {
            path: format!("file-{number}"),
            message: "changed while it was read".to_owned(),
        })
        .collect();
    let completed = fixture
        .catalog
        .complete_backup(&fence, stored, NOW + 7)
        .await
        .unwrap();
    assert_eq!(completed.state, BackupState::Completed);
    assert_eq!(completed.warnings.len(), catalog::limits::WARNINGS_MAX);
    assert_eq!(completed.warnings_total, 250);
    assert_eq!(completed.end_time_ms, Some(NOW + 7));
    assert_eq!(fixture.get_backup(&backup.backup_id).await, completed);
    let agent = fixture.catalog.get_agent("agent").await.unwrap().unwrap();
    assert_eq!(agent.vault_bytes, 300);
    let again = fixture
        .catalog
        .complete_backup(&fence, result(4), NOW)
        .await;
    assert!(again.is_err(), "it ends once");
}
