//! Agents.

use std::collections::HashMap;

use catalog::{BackupsOfGone, CatalogError};

use crate::fixture::{Fixture, NOW, draft, new_agent, new_backup};

#[tokio::test]
async fn registering_is_an_upsert_and_the_etag_tells_of_changes() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let (first, created) = catalog
        .register_agent(new_agent("a"), None, NOW)
        .await
        .unwrap();
    assert!(created);
    let (same, created) = catalog
        .register_agent(new_agent("a"), None, NOW + 1)
        .await
        .unwrap();
    assert!(!created);
    assert_eq!(same, first);
    let mut changed = new_agent("a");
    changed.display_name = "other".to_owned();
    let (changed, created) = catalog
        .register_agent(changed, Some(&first.etag), NOW + 2)
        .await
        .unwrap();
    assert!(!created);
    assert_ne!(changed.etag, first.etag);
    assert_eq!(changed.create_time_ms, NOW);
    assert_eq!(changed.update_time_ms, NOW + 2);
    assert_eq!(catalog.get_agent("a").await.unwrap(), Some(changed));
}

#[tokio::test]
async fn a_stale_etag_and_another_owner_are_refused() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let stale = catalog.register_agent(new_agent("agent"), Some("old"), NOW);
    let stale = stale.await.unwrap_err();
    assert!(matches!(stale, CatalogError::EtagMismatch { .. }));
    let absent = catalog.register_agent(new_agent("absent"), Some("old"), NOW);
    let absent = absent.await.unwrap_err();
    assert!(matches!(absent, CatalogError::EtagMismatch { .. }));
    let mut other = new_agent("agent");
    other.owner_id = "somebody else".to_owned();
    let other = catalog.register_agent(other, None, NOW).await.unwrap_err();
    assert!(matches!(other, CatalogError::OwnerMismatch { .. }));
    assert_eq!(other.reason(), "OWNER_MISMATCH");
}

#[tokio::test]
async fn an_agent_registered_by_many_at_once_is_created_once() {
    let fixture = Fixture::new().await;
    let registrations = (0..8).map(|_| {
        let catalog = fixture.catalog.clone();
        tokio::spawn(async move { catalog.register_agent(new_agent("a"), None, NOW).await })
    });
    let mut created = 0;
    for registration in registrations.collect::<Vec<_>>() {
        created += u32::from(registration.await.unwrap().unwrap().1);
    }
    assert_eq!(created, 1);
}

#[tokio::test]
async fn an_agent_that_moves_takes_its_waiting_jobs_along() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let mut moved = new_agent("agent");
    moved.pool = "elsewhere".to_owned();
    fixture
        .catalog
        .register_agent(moved, None, NOW)
        .await
        .unwrap();
    let due = fixture.catalog.undispatched_jobs(10, NOW).await.unwrap();
    assert_eq!(due[0].job_id, backup.job_id);
    assert_eq!(due[0].pool, "elsewhere");
}

#[tokio::test]
async fn an_agent_without_backups_is_forgotten_at_once() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    catalog
        .deregister_agent("agent", BackupsOfGone::None, NOW)
        .await
        .unwrap();
    assert_eq!(catalog.get_agent("agent").await.unwrap(), None);
    let again = catalog
        .deregister_agent("agent", BackupsOfGone::None, NOW)
        .await;
    let again = again.unwrap_err();
    assert!(matches!(again, CatalogError::AgentNotFound { .. }));
    fixture.agent("agent").await;
}

#[tokio::test]
async fn an_agent_with_backups_goes_with_the_last_of_them() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    fixture.completed("agent", 1).await;
    fixture.completed("agent", 2).await;
    let kept = catalog
        .deregister_agent("agent", BackupsOfGone::None, NOW)
        .await;
    let kept = kept.unwrap_err();
    assert!(matches!(kept, CatalogError::AgentHasBackups { .. }));
    catalog
        .deregister_agent("agent", BackupsOfGone::Deleted, NOW)
        .await
        .unwrap();
    assert_eq!(catalog.get_agent("agent").await.unwrap(), None);
    let returning = catalog.register_agent(new_agent("agent"), None, NOW).await;
    assert!(matches!(returning, Err(CatalogError::AgentBusy { .. })));
    for _ in 0..2 {
        let due = catalog.undispatched_jobs(10, NOW).await.unwrap();
        let lease = fixture.claim(&due[0].job_id, NOW).await;
        assert!(lease.agent.is_some(), "a worker still sees the agent");
        let fence = lease.fence();
        let deleted = catalog.complete_delete(&fence, Some(0), Some(NOW + 5), NOW);
        deleted.await.unwrap();
    }
    // What is left is one compaction of the vault, though the agent is gone.
    assert_eq!(catalog.undispatched_jobs(10, NOW).await.unwrap(), []);
    let compact = fixture.only_due_job(NOW + 5).await;
    assert!(fixture.claim(&compact, NOW + 5).await.agent.is_none());
    fixture.agent("agent").await;
}

#[tokio::test]
async fn an_agent_with_waiting_or_running_work_is_not_deregistered() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    for _ in 0..2 {
        let busy = catalog
            .deregister_agent("agent", BackupsOfGone::Deleted, NOW)
            .await;
        assert!(matches!(busy, Err(CatalogError::AgentBusy { .. })));
        let _ = catalog
            .claim_job(&backup.job_id, "worker", 1_000, NOW)
            .await;
    }
}

#[tokio::test]
async fn kept_backups_outlive_their_agent_and_are_taken_up_again() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.completed("agent", 1).await;
    let keep = || catalog.deregister_agent("agent", BackupsOfGone::Kept, NOW);
    keep().await.unwrap();
    assert!(catalog.get_agent("agent").await.unwrap().is_none());
    assert!(catalog.get_agent_or_kept("agent").await.unwrap().is_some());
    let gone = keep().await;
    assert!(matches!(gone, Err(CatalogError::AgentNotFound { .. })));
    let refused = catalog.create_backup(new_backup("agent"), NOW).await;
    assert!(matches!(refused, Err(CatalogError::AgentNotFound { .. })));
    // Still restored and protected, and nobody else gets the id.
    let plan = draft(&backup.backup_id, "again");
    let draft = catalog.create_draft(plan, NOW).await.unwrap();
    let choices = HashMap::from([("port:80/tcp".to_owned(), "drop".to_owned())]);
    catalog
        .start_restore(&draft.restore_id, &choices, NOW)
        .await
        .unwrap();
    catalog
        .cancel_restore(&draft.restore_id, NOW)
        .await
        .unwrap();
    let mut anothers = new_agent("agent");
    anothers.owner_id = "another".to_owned();
    let taken = catalog.register_agent(anothers, None, NOW).await;
    assert!(matches!(taken, Err(CatalogError::OwnerMismatch { .. })));

    let (agent, created) = catalog
        .register_agent(new_agent("agent"), None, NOW + 5)
        .await
        .unwrap();
    assert!(created && agent.create_time_ms == NOW + 5);
    assert_eq!(
        catalog.get_agent("agent").await.unwrap().unwrap().agent_id,
        "agent"
    );
    keep().await.unwrap();
    // Deleted after all: the row goes with the last of them.
    catalog
        .deregister_agent("agent", BackupsOfGone::Deleted, NOW)
        .await
        .unwrap();
    assert!(catalog.get_agent_or_kept("agent").await.unwrap().is_none());
    let busy = catalog.register_agent(new_agent("agent"), None, NOW).await;
    assert!(matches!(busy, Err(CatalogError::AgentBusy { .. })));
}
