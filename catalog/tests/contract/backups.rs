//! Backups: creation, idempotency, cancellation, who sees what.

use std::collections::HashSet;

use catalog::{
    BackupFilter, BackupState, CatalogError, ClaimOutcome, JobState, PageRequest, Renewal, Trigger,
    Urgency,
};
use proto::backup::v1::{Phase, Progress};

use crate::fixture::{Fixture, LEASE_MS, NOW, new_agent, new_backup, request, result};

#[tokio::test]
async fn a_created_backup_is_pending_with_its_job() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    assert_eq!(backup.state, BackupState::Pending);
    assert_eq!(backup.progress.phase(), Phase::Queued);
    assert_eq!(fixture.get_backup(&backup.backup_id).await, backup);
    let job = fixture.catalog.get_job(&backup.job_id).await.unwrap();
    let job = job.unwrap();
    assert_eq!(job.state, JobState::Queued);
    assert_eq!(job.subject_id(), backup.backup_id);
    let mut scheduled = new_backup("agent");
    scheduled.trigger = Trigger::Schedule;
    let scheduled = fixture.catalog.create_backup(scheduled, NOW).await.unwrap();
    let job = fixture.catalog.get_job(&scheduled.job_id).await.unwrap();
    assert_eq!(job.unwrap().urgency, Urgency::Scheduled);
}

#[tokio::test]
async fn a_foreign_agent_does_not_exist() {
    let fixture = Fixture::with_agent().await;
    for (agent_id, owner_id) in [("agent", "somebody else"), ("absent", "owner")] {
        let mut backup = new_backup(agent_id);
        backup.owner_id = owner_id.to_owned();
        let refused = fixture
            .catalog
            .create_backup(backup, NOW)
            .await
            .unwrap_err();
        assert!(matches!(refused, CatalogError::AgentNotFound { .. }));
    }
}

#[tokio::test]
async fn foreign_backups_are_in_no_list_and_no_sum() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    fixture.completed("agent", 1).await;
    let mut other = new_agent("other");
    other.owner_id = "other".to_owned();
    catalog.register_agent(other, None, NOW).await.unwrap();
    let mine = BackupFilter {
        owner_id: Some("other".to_owned()),
        ..BackupFilter::default()
    };
    let page = catalog.list_backups(&mine, &PageRequest::first(10)).await;
    assert_eq!(page.unwrap().items, []);
    let both = BackupFilter {
        agent_id: Some("agent".to_owned()),
        ..mine
    };
    let page = catalog.list_backups(&both, &PageRequest::first(10)).await;
    assert_eq!(page.unwrap().items, []);
    let usage = catalog.storage_usage(Some("other"), None).await.unwrap();
    assert_eq!(usage, catalog::StorageUsage::default());
    let usage = catalog.storage_usage(Some("owner"), None).await.unwrap();
    assert_eq!(
        (
            usage.backups,
            usage.size_bytes,
            usage.stored_bytes,
            usage.agents
        ),
        (1, 1_000, 100, 1)
    );
}

#[tokio::test]
async fn a_repeated_request_returns_the_first_backup() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let mut backup = new_backup("agent");
    backup.request = Some(request("r-1", b"same"));
    let first = catalog.create_backup(backup.clone(), NOW).await.unwrap();
    let again = catalog.create_backup(backup.clone(), NOW + 1).await;
    assert_eq!(again.unwrap().backup_id, first.backup_id);
    let mut different = backup.clone();
    different.request = Some(request("r-1", b"different"));
    let refused = catalog.create_backup(different, NOW).await.unwrap_err();
    assert!(matches!(refused, CatalogError::RequestIdReused { .. }));
    // Of another caller it is another request.
    let mut other = backup.clone();
    other.request.as_mut().unwrap().caller = "admin".to_owned();
    let other = catalog.create_backup(other, NOW).await.unwrap();
    assert_ne!(other.backup_id, first.backup_id);
    // After a day it is forgotten, whether or not somebody swept.
    let later = NOW + catalog::limits::REQUEST_TTL_MS;
    let new = catalog.create_backup(backup, later).await.unwrap();
    assert_ne!(new.backup_id, first.backup_id);
    assert_eq!(catalog.expire_requests(10, later).await.unwrap(), 1);
}

#[tokio::test]
async fn a_request_sent_by_many_at_once_makes_one_backup() {
    let fixture = Fixture::with_agent().await;
    let mut backup = new_backup("agent");
    backup.request = Some(request("r-1", b"same"));
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let (catalog, backup) = (fixture.catalog.clone(), backup.clone());
            tokio::spawn(async move { catalog.create_backup(backup, NOW).await })
        })
        .collect();
    let mut ids = HashSet::new();
    for call in calls {
        ids.insert(call.await.unwrap().unwrap().backup_id);
    }
    assert_eq!(ids.len(), 1);
    let due = fixture.catalog.undispatched_jobs(10, NOW).await.unwrap();
    assert_eq!(due.len(), 1);
}

#[tokio::test]
async fn a_pending_backup_is_canceled_at_once() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let canceled = catalog.cancel_backup(&backup.backup_id, NOW + 1).await;
    let canceled = canceled.unwrap();
    assert_eq!(canceled.state, BackupState::Canceled);
    assert_eq!(canceled.end_time_ms, Some(NOW + 1));
    assert_eq!(canceled.progress.phase(), Phase::Ended);
    let claimed = catalog.claim_job(&backup.job_id, "worker", LEASE_MS, NOW + 1);
    assert_eq!(claimed.await.unwrap(), ClaimOutcome::Gone);
    let again = catalog.cancel_backup(&backup.backup_id, NOW).await;
    assert!(matches!(again, Err(CatalogError::AlreadyEnded { .. })));
    let absent = catalog.cancel_backup("absent", NOW).await;
    assert!(matches!(absent, Err(CatalogError::BackupNotFound { .. })));
}

#[tokio::test]
async fn a_running_backup_is_canceled_by_its_worker() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    let asked = catalog.cancel_backup(&backup.backup_id, NOW).await.unwrap();
    assert_eq!(asked.state, BackupState::Running);
    let renewal = catalog.renew_lease(&fence, LEASE_MS, NOW, None).await;
    let expected = Renewal::Held {
        cancel_requested: true,
    };
    assert_eq!(renewal.unwrap(), expected);
    catalog.cancel_job_done(&fence, NOW + 1).await.unwrap();
    let canceled = fixture.get_backup(&backup.backup_id).await;
    assert_eq!(canceled.state, BackupState::Canceled);
}

#[tokio::test]
async fn a_backup_that_was_faster_than_its_cancellation_counts() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    catalog.cancel_backup(&backup.backup_id, NOW).await.unwrap();
    let completed = catalog.complete_backup(&fence, result(1), NOW).await;
    assert_eq!(completed.unwrap().state, BackupState::Completed);
}

/// Whoever comes first, the backup and its job agree in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancellation_that_races_with_a_claim_leaves_no_third_state() {
    let fixture = Fixture::with_agent().await;
    for round in 0..15 {
        let agent_id = format!("agent-{round}");
        fixture.agent(&agent_id).await;
        let backup = fixture.backup(&agent_id).await;
        let (canceled, claimed) = tokio::join!(
            fixture.catalog.cancel_backup(&backup.backup_id, NOW),
            fixture
                .catalog
                .claim_job(&backup.job_id, "w", LEASE_MS, NOW),
        );
        let state = canceled.unwrap().state;
        match claimed.unwrap() {
            ClaimOutcome::Claimed(lease) => {
                assert_eq!(state, BackupState::Running);
                let fence = lease.fence();
                let now = fixture.catalog.renew_lease(&fence, 1, NOW, None);
                let expected = Renewal::Held {
                    cancel_requested: true,
                };
                assert_eq!(now.await.unwrap(), expected);
            }
            ClaimOutcome::Gone => assert_eq!(state, BackupState::Canceled),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn progress_is_kept_and_shown() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    let progress = Progress {
        bytes_done: 42,
        phase: Phase::Transferring.into(),
        ..Progress::default()
    };
    let renewal = fixture
        .catalog
        .renew_lease(&fence, LEASE_MS, NOW, Some(&progress));
    renewal.await.unwrap();
    let shown = fixture.get_backup(&backup.backup_id).await.progress;
    assert_eq!((shown.bytes_done, shown.attempt), (42, 1));
    fixture
        .catalog
        .complete_backup(&fence, result(1), NOW)
        .await
        .unwrap();
    let shown = fixture.get_backup(&backup.backup_id).await.progress;
    assert_eq!((shown.bytes_done, shown.phase()), (42, Phase::Ended));
}

#[tokio::test]
async fn the_latest_completed_backup_is_the_one_of_the_highest_sequence() {
    let fixture = Fixture::with_agent().await;
    assert_eq!(
        fixture
            .catalog
            .latest_completed("agent", None)
            .await
            .unwrap(),
        None
    );
    for sequence in [1, 9, 4] {
        fixture.completed("agent", sequence).await;
    }
    fixture.backup("agent").await;
    let latest = fixture
        .catalog
        .latest_completed("agent", None)
        .await
        .unwrap();
    let latest = latest.unwrap();
    assert_eq!(latest.sequence, Some(9));
    assert_eq!(latest.manifest_digest, Some([9; 32]));
    assert_eq!(latest.manifest_attempt, Some(1));
}
