//! Deletion, pins, compaction.

use catalog::{BackupState, CatalogError, FailOutcome, JobKind, JobState};

use crate::fixture::{Fixture, NOW, unavailable};

#[tokio::test]
async fn a_deleted_backup_is_gone_once_its_job_is_done() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.completed("agent", 1).await;
    let deleting = catalog.delete_backup(&backup.backup_id, NOW).await.unwrap();
    assert_eq!(deleting.state, BackupState::Deleting);
    // Again: nothing changes, there is one job.
    catalog.delete_backup(&backup.backup_id, NOW).await.unwrap();
    let job_id = fixture.only_due_job(NOW).await;
    let lease = fixture.claim(&job_id, NOW).await;
    assert_eq!(lease.job.kind, JobKind::Delete);
    assert_eq!(lease.backup.as_ref().unwrap().backup_id, backup.backup_id);
    catalog
        .complete_delete(&lease.fence(), Some(7), Some(NOW + 60_000), NOW)
        .await
        .unwrap();
    assert_eq!(catalog.get_backup(&backup.backup_id).await.unwrap(), None);
    assert_eq!(catalog.get_job(&backup.job_id).await.unwrap(), None);
    let agent = catalog.get_agent("agent").await.unwrap().unwrap();
    assert_eq!(agent.vault_bytes, 7);
    assert_eq!(catalog.next_due_ms().await.unwrap(), Some(NOW + 60_000));
    let absent = catalog.delete_backup(&backup.backup_id, NOW).await;
    assert!(matches!(absent, Err(CatalogError::BackupNotFound { .. })));
}

#[tokio::test]
async fn a_backup_that_has_not_ended_is_not_deleted() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let refused = fixture.catalog.delete_backup(&backup.backup_id, NOW).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, CatalogError::BackupNotEnded { .. }));
    assert_eq!(refused.reason(), "AGENT_BUSY");
}

#[tokio::test]
async fn a_pinned_backup_is_not_deleted() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.completed("agent", 1).await;
    let id = backup.backup_id.as_str();
    let pin = catalog
        .pin_backup(id, "download", 1_000, NOW)
        .await
        .unwrap();
    let live = catalog.agent_pins("agent", NOW).await.unwrap();
    assert_eq!(live, std::slice::from_ref(&pin));
    let refused = catalog.delete_backup(id, NOW + 999).await.unwrap_err();
    assert!(matches!(refused, CatalogError::BackupInUse { .. }));
    let refused = catalog
        .deregister_agent("agent", catalog::BackupsOfGone::Deleted, NOW)
        .await;
    assert!(matches!(refused, Err(CatalogError::BackupInUse { .. })));
    catalog
        .renew_pin(&pin.pin_id, 1_000, NOW + 900)
        .await
        .unwrap();
    assert!(catalog.delete_backup(id, NOW + 1_500).await.is_err());
    // A pin ends by itself, and cannot be brought back.
    let lost = catalog.renew_pin(&pin.pin_id, 1_000, NOW + 1_900).await;
    assert!(matches!(lost, Err(CatalogError::PinLost { .. })));
    assert_eq!(catalog.agent_pins("agent", NOW + 1_900).await.unwrap(), []);
    catalog.delete_backup(id, NOW + 1_900).await.unwrap();
    let late = catalog.pin_backup(id, "download", 1_000, NOW).await;
    assert!(matches!(late, Err(CatalogError::BackupNotCompleted { .. })));
    assert_eq!(catalog.expire_pins(10, NOW + 1_900).await.unwrap(), 1);
    catalog.unpin(&pin.pin_id).await.unwrap();
}

#[tokio::test]
async fn a_backup_to_be_verified_is_not_deleted() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.completed("agent", 1).await;
    let verification = catalog::NewVerification {
        backup_id: backup.backup_id.clone(),
        owner_id: "owner".to_owned(),
        depth: catalog::VerifyDepth::Full,
        destination_id: String::new(),
        request: None,
    };
    let job = fixture.catalog.create_verification(verification, NOW).await;
    let refused = fixture.catalog.delete_backup(&backup.backup_id, NOW).await;
    assert!(matches!(refused, Err(CatalogError::BackupInUse { .. })));
    let fence = fixture.claim(&job.unwrap().job_id, NOW).await.fence();
    let done = fixture.catalog.complete_verify(&fence, None, None, NOW);
    done.await.unwrap();
    let deleted = fixture.catalog.delete_backup(&backup.backup_id, NOW).await;
    assert!(deleted.is_ok());
}

#[tokio::test]
async fn a_deletion_that_failed_says_why_and_can_be_repeated() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.completed("agent", 1).await;
    let id = backup.backup_id.as_str();
    catalog.delete_backup(id, NOW).await.unwrap();
    let job_id = fixture.only_due_job(NOW).await;
    let fence = fixture.claim(&job_id, NOW).await.fence();
    let ended = catalog.fail_job(&fence, unavailable(), false, NOW).await;
    assert_eq!(ended.unwrap(), FailOutcome::Ended(JobState::Failed));
    let shown = fixture.get_backup(id).await;
    assert_eq!(shown.state, BackupState::Deleting);
    assert_eq!(shown.failure, Some(unavailable()));
    let again = catalog.delete_backup(id, NOW).await.unwrap();
    assert_eq!(again.failure, None);
    assert_ne!(fixture.only_due_job(NOW).await, job_id);
}

#[tokio::test]
async fn one_compaction_of_an_agent_waits_at_a_time() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let first = catalog.enqueue_compact("agent", NOW + 9, NOW).await;
    let first = first.unwrap().expect("queued");
    let second = catalog.enqueue_compact("agent", NOW, NOW).await.unwrap();
    assert_eq!(second, None);
    // The second is wanted sooner than the first.
    assert_eq!(fixture.only_due_job(NOW).await, first);
    let fence = fixture.claim(&first, NOW + 9).await.fence();
    // One that runs may have passed what is garbage now: another may wait.
    let third = catalog.enqueue_compact("agent", NOW, NOW).await.unwrap();
    assert!(third.is_some());
    catalog
        .complete_compact(&fence, 5, None, NOW + 9)
        .await
        .unwrap();
    let agent = catalog.get_agent("agent").await.unwrap().unwrap();
    assert_eq!(agent.vault_bytes, 5);
    let unknown = catalog.enqueue_compact("absent", NOW, NOW).await.unwrap();
    assert_eq!(unknown, None);
}

#[tokio::test]
async fn compaction_learns_which_manifests_count() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let kept = fixture.completed("agent", 1).await;
    let deleting = fixture.completed("agent", 2).await;
    catalog
        .delete_backup(&deleting.backup_id, NOW)
        .await
        .unwrap();
    let pending = fixture.backup("agent").await;
    let mut known = catalog.known_manifests("agent").await.unwrap();
    known.sort_by_key(|manifest| manifest.state as u8);
    let states: Vec<_> = known
        .iter()
        .map(|manifest| (manifest.backup_id.as_str(), manifest.manifest_attempt))
        .collect();
    let expected = [
        (pending.backup_id.as_str(), None),
        (kept.backup_id.as_str(), Some(1)),
        (deleting.backup_id.as_str(), Some(1)),
    ];
    assert_eq!(states, expected);
    assert_eq!(catalog.known_manifests("absent").await.unwrap(), []);
}
