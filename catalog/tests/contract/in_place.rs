//! Restores in place: the safety backup first, in one transaction each.

use catalog::{
    AfterHook, Backup, BackupState, CatalogError, InPlaceResult, NewInPlace, Restore, RestoreState,
    Trigger, retention::Rules,
};
use proto::backup::v1::{HookCommand, RestorePlan};

use crate::fixture::{Fixture, NOW, request, result, unavailable};

fn in_place(backup: &Backup) -> NewInPlace {
    NewInPlace {
        agent_id: backup.agent_id.clone(),
        backup_id: backup.backup_id.clone(),
        safety_name: "before".to_owned(),
        plan: RestorePlan {
            agent_id: backup.agent_id.clone(),
            ..RestorePlan::default()
        },
        decisions: Vec::new(),
        warnings: Vec::new(),
        request: Some(request("once", b"x")),
    }
}

async fn begun(fixture: &Fixture) -> (Backup, Restore, Backup) {
    let backup = fixture.completed("agent", 1).await;
    let new = in_place(&backup);
    let restore = fixture.catalog.restore_in_place(new, NOW).await.unwrap();
    let safety = restore.safety_backup_id.clone().unwrap();
    let safety = fixture.get_backup(&safety).await;
    (backup, restore, safety)
}

async fn now(fixture: &Fixture, restore: &Restore) -> Restore {
    let found = fixture.catalog.get_restore(&restore.restore_id).await;
    found.unwrap().unwrap()
}

#[tokio::test]
async fn the_safety_backup_comes_first_and_is_protected_until_the_restore_has_succeeded() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let (backup, restore, safety) = begun(&fixture).await;
    assert_eq!((safety.trigger, safety.protected), (Trigger::Safety, true));
    assert_eq!(restore.state, RestoreState::Pending);
    assert!(restore.in_place && restore.job_id.as_ref() == Some(&safety.job_id));
    let again = catalog.restore_in_place(in_place(&backup), NOW).await;
    assert_eq!(again.unwrap().restore_id, restore.restore_id);
    let mut another = in_place(&backup);
    another.request = None;
    let busy = catalog.restore_in_place(another, NOW).await;
    assert!(matches!(busy, Err(CatalogError::AgentBusy { .. })));

    // What is restored can't go meanwhile: not by a caller, not by a rule.
    let refused = catalog.delete_backup(&backup.backup_id, NOW).await;
    assert!(matches!(refused, Err(CatalogError::BackupInUse { .. })));
    let lease = fixture.claim(&safety.job_id, NOW).await;
    catalog
        .complete_backup(&lease.fence(), result(2), NOW)
        .await
        .unwrap();
    let rules = Rules {
        limit: Some(1),
        ..Rules::default()
    };
    assert_eq!(catalog.prune("agent", rules, NOW, NOW).await.unwrap(), []);

    let queued = now(&fixture, &restore).await;
    let job_id = queued.job_id.clone().unwrap();
    assert_ne!(job_id, safety.job_id);
    let lease = fixture.claim(&job_id, NOW).await;
    assert_eq!(lease.backup.as_ref().unwrap().backup_id, backup.backup_id);
    let before = catalog.get_agent("agent").await.unwrap().unwrap();
    let ended = InPlaceResult {
        source: before.source.clone(),
        warnings: vec!["one".to_owned()],
        progress: None,
    };
    let done = catalog.complete_in_place(&lease.fence(), ended, NOW).await;
    let done = done.unwrap();
    assert_eq!(
        (done.state, done.warnings),
        (RestoreState::Completed, vec!["one".to_owned()])
    );
    let after = catalog.get_agent("agent").await.unwrap().unwrap();
    assert_eq!(before, after, "the same agent, unchanged");
    let safety = fixture.get_backup(&safety.backup_id).await;
    assert_eq!(
        (safety.state, safety.protected),
        (BackupState::Completed, false)
    );
    let left = catalog.leftovers("default", 10).await.unwrap();
    assert_eq!(left.len(), 1, "what was there before, to be removed");
    assert_eq!(
        catalog.prune("agent", rules, NOW, NOW).await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn without_its_safety_backup_nothing_is_replaced() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let (_, restore, safety) = begun(&fixture).await;
    let lease = fixture.claim(&safety.job_id, NOW).await;
    catalog
        .fail_job(&lease.fence(), unavailable(), false, NOW)
        .await
        .unwrap();
    let ended = now(&fixture, &restore).await;
    assert_eq!(ended.state, RestoreState::Failed);
    let failure = ended.failure.unwrap();
    assert_eq!(failure.reason, "SAFETY_BACKUP_FAILED");
    assert!(
        failure.message.contains(&unavailable().message),
        "{failure:?}"
    );
}

#[tokio::test]
async fn canceling_while_the_safety_backup_is_made_ends_both() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let (backup, restore, safety) = begun(&fixture).await;
    let canceled = catalog.cancel_restore(&restore.restore_id, NOW).await;
    assert_eq!(canceled.unwrap().state, RestoreState::Canceled);
    let safety = fixture.get_backup(&safety.backup_id).await;
    assert_eq!(safety.state, BackupState::Canceled);
    catalog.delete_backup(&backup.backup_id, NOW).await.unwrap();
}

#[tokio::test]
async fn only_an_agents_own_backups_are_put_in_its_place() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    fixture.agent("other").await;
    let backup = fixture.completed("agent", 1).await;
    let mut new = in_place(&backup);
    new.agent_id = "other".to_owned();
    let refused = catalog.restore_in_place(new, NOW).await;
    assert!(matches!(refused, Err(CatalogError::BackupNotFound { .. })));
}

#[tokio::test]
async fn a_command_that_is_owed_is_kept_until_it_was_run() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let lease = fixture.claim(&backup.job_id, NOW).await;
    let owed = AfterHook {
        container: "c".to_owned(),
        command: Some(HookCommand {
            argv: vec!["thaw".to_owned()],
            ..HookCommand::default()
        }),
    };
    let fence = lease.fence();
    catalog.note_after_hook(&fence, Some(&owed)).await.unwrap();
    fixture.fail(&fence, NOW).await;
    let later = NOW + 24 * 60 * 60 * 1_000;
    let lease = fixture.claim(&backup.job_id, later).await;
    assert_eq!(lease.job.after_hook, Some(owed.clone()));
    let stale = catalog.note_after_hook(&fence, None).await;
    assert!(matches!(stale, Err(CatalogError::Fenced { .. })));
    catalog
        .fail_job(&lease.fence(), unavailable(), false, later)
        .await
        .unwrap();
    let left = catalog.leftovers("default", 10).await.unwrap();
    assert_eq!(left[0].after_hook, Some(owed));
    catalog.leftover_cleaned(&left[0].job_id).await.unwrap();
    assert_eq!(catalog.leftovers("default", 10).await.unwrap(), []);
}
