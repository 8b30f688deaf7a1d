//! Restores.

use std::collections::HashMap;

use catalog::{
    CatalogError, ClaimOutcome, Lease, PageRequest, Restore, RestoreFilter, RestoreResult,
    RestoreState,
};

use crate::fixture::{Fixture, LEASE_MS, NOW, draft, new_agent, request, unavailable};

fn choices() -> HashMap<String, String> {
    HashMap::from([("port:80/tcp".to_owned(), "drop".to_owned())])
}

fn made(agent_id: &str) -> RestoreResult {
    RestoreResult {
        agent: new_agent(agent_id),
        warnings: vec!["a port was dropped".to_owned()],
        progress: None,
    }
}

/// A started restore to agent "copy".
async fn started(fixture: &Fixture) -> (Restore, Lease) {
    let backup = fixture.completed("agent", 1).await;
    let plan = draft(&backup.backup_id, "copy");
    let draft = fixture.catalog.create_draft(plan, NOW).await.unwrap();
    let restore = fixture
        .catalog
        .start_restore(&draft.restore_id, &choices(), NOW)
        .await
        .unwrap();
    assert_eq!(restore.state, RestoreState::Pending);
    let lease = fixture.claim(restore.job_id.as_deref().unwrap(), NOW).await;
    (restore, lease)
}

#[tokio::test]
async fn a_restore_goes_from_draft_to_a_new_agent() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let (restore, lease) = started(&fixture).await;
    let running = lease.restore.clone().unwrap();
    assert_eq!(running.state, RestoreState::Running);
    assert_eq!(running.decisions[0].choice, "drop");
    assert_eq!(lease.backup.as_ref().unwrap().sequence, Some(1));
    let completed = catalog
        .complete_restore(&lease.fence(), made("copy"), NOW + 5)
        .await
        .unwrap();
    assert_eq!(completed.state, RestoreState::Completed);
    assert_eq!(completed.warnings, ["a port was dropped"]);
    let agent = catalog.get_agent("copy").await.unwrap().unwrap();
    assert_eq!(agent.restore_id, Some(restore.restore_id));
    fixture.backup("copy").await;
}

#[tokio::test]
async fn a_draft_needs_a_readable_backup_and_a_free_agent_id() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let pending = fixture.backup("agent").await;
    let refused = catalog.create_draft(draft(&pending.backup_id, "copy"), NOW);
    let refused = refused.await.unwrap_err();
    assert!(matches!(refused, CatalogError::BackupNotCompleted { .. }));
    fixture
        .catalog
        .cancel_backup(&pending.backup_id, NOW)
        .await
        .unwrap();
    let backup = fixture.completed("agent", 1).await;
    let taken = catalog.create_draft(draft(&backup.backup_id, "agent"), NOW);
    let taken = taken.await.unwrap_err();
    assert!(matches!(taken, CatalogError::AgentExists { .. }));
    let mut foreign = draft(&backup.backup_id, "copy");
    foreign.owner_id = "somebody else".to_owned();
    let foreign = catalog.create_draft(foreign, NOW).await.unwrap_err();
    assert!(matches!(foreign, CatalogError::BackupNotFound { .. }));
}

#[tokio::test]
async fn a_repeated_request_returns_the_first_draft() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.completed("agent", 1).await;
    let mut plan = draft(&backup.backup_id, "copy");
    plan.request = Some(request("r-1", b"draft"));
    let first = fixture.catalog.create_draft(plan.clone(), NOW).await;
    let again = fixture.catalog.create_draft(plan, NOW).await;
    assert_eq!(first.unwrap(), again.unwrap());
}

#[tokio::test]
async fn a_draft_is_not_started_without_its_decisions() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.completed("agent", 1).await;
    let plan = draft(&backup.backup_id, "copy");
    let id = catalog.create_draft(plan, NOW).await.unwrap().restore_id;
    let missing = catalog.start_restore(&id, &HashMap::new(), NOW).await;
    let missing = missing.unwrap_err();
    assert!(
        matches!(&missing, CatalogError::DecisionMissing { decision_ids, .. }
        if *decision_ids == ["port:80/tcp"])
    );
    let unknown = HashMap::from([("port:81/tcp".to_owned(), "drop".to_owned())]);
    let unknown = catalog.start_restore(&id, &unknown, NOW).await.unwrap_err();
    assert!(matches!(unknown, CatalogError::DecisionUnknown { .. }));
    let first = catalog.start_restore(&id, &choices(), NOW).await.unwrap();
    // Once started, starting changes nothing.
    let again = catalog.start_restore(&id, &HashMap::new(), NOW).await;
    assert_eq!(again.unwrap(), first);
}

#[tokio::test]
async fn two_restores_do_not_make_the_same_agent() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.completed("agent", 1).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let plan = draft(&backup.backup_id, "copy");
        ids.push(catalog.create_draft(plan, NOW).await.unwrap().restore_id);
    }
    catalog
        .start_restore(&ids[0], &choices(), NOW)
        .await
        .unwrap();
    let second = catalog.start_restore(&ids[1], &choices(), NOW).await;
    assert!(matches!(second, Err(CatalogError::AgentExists { .. })));
}

#[tokio::test]
async fn an_agent_registered_meanwhile_is_not_replaced() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let (restore, lease) = started(&fixture).await;
    let registered = fixture.agent("copy").await;
    let fence = lease.fence();
    let taken = catalog.complete_restore(&fence, made("copy"), NOW);
    let taken = taken.await.unwrap_err();
    assert!(matches!(taken, CatalogError::AgentExists { .. }));
    catalog
        .fail_job(&fence, unavailable(), false, NOW)
        .await
        .unwrap();
    let failed = catalog.get_restore(&restore.restore_id).await.unwrap();
    assert_eq!(failed.unwrap().state, RestoreState::Failed);
    assert_eq!(catalog.get_agent("copy").await.unwrap(), Some(registered));
}

#[tokio::test]
async fn restores_are_canceled_in_every_state() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.completed("agent", 1).await;
    let plan = draft(&backup.backup_id, "copy");
    let drafted = catalog.create_draft(plan.clone(), NOW).await.unwrap();
    let canceled = catalog.cancel_restore(&drafted.restore_id, NOW).await;
    assert_eq!(canceled.unwrap().state, RestoreState::Canceled);
    let ended = catalog
        .start_restore(&drafted.restore_id, &choices(), NOW)
        .await;
    assert!(matches!(ended, Err(CatalogError::AlreadyEnded { .. })));
    let pending = catalog.create_draft(plan.clone(), NOW).await.unwrap();
    let id = pending.restore_id.as_str();
    let pending = catalog.start_restore(id, &choices(), NOW).await.unwrap();
    let canceled = catalog.cancel_restore(id, NOW).await.unwrap();
    assert_eq!(canceled.state, RestoreState::Canceled);
    let claim = pending.job_id.unwrap();
    let claim = catalog.claim_job(&claim, "worker", LEASE_MS, NOW).await;
    assert_eq!(claim.unwrap(), ClaimOutcome::Gone);
    let running = catalog.create_draft(plan, NOW).await.unwrap();
    let id = running.restore_id.as_str();
    let running = catalog.start_restore(id, &choices(), NOW).await.unwrap();
    let fence = fixture.claim(&running.job_id.unwrap(), NOW).await.fence();
    let asked = catalog.cancel_restore(id, NOW).await.unwrap();
    assert_eq!(asked.state, RestoreState::Running);
    catalog.cancel_job_done(&fence, NOW).await.unwrap();
    let again = catalog.cancel_restore(id, NOW).await;
    assert!(matches!(again, Err(CatalogError::AlreadyEnded { .. })));
}

#[tokio::test]
async fn drafts_go_away_and_started_ones_do_not() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let (restore, _) = started(&fixture).await;
    let plan = draft(&restore.backup_id, "other");
    let drafted = catalog.create_draft(plan, NOW).await.unwrap();
    let later = drafted.expire_time_ms.unwrap();
    assert!(
        catalog
            .expire_drafts(10, later - 1)
            .await
            .unwrap()
            .is_empty()
    );
    let decided = choices();
    let late = catalog.start_restore(&drafted.restore_id, &decided, later);
    let late = late.await.unwrap_err();
    assert!(matches!(late, CatalogError::RestoreNotFound { .. }));
    let gone = catalog.expire_drafts(10, later).await.unwrap();
    assert_eq!(gone, [drafted.restore_id]);
    let filter = RestoreFilter {
        owner_id: Some("owner".to_owned()),
        backup_id: Some(restore.backup_id),
    };
    let page = PageRequest::first(10);
    let left = catalog.list_restores(&filter, &page);
    let left = left.await.unwrap().items;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].restore_id, restore.restore_id);
}

#[tokio::test]
async fn a_restore_runs_beside_the_agents_backup() {
    let fixture = Fixture::with_agent().await;
    started(&fixture).await;
    let backup = fixture.backup("agent").await;
    fixture.claim(&backup.job_id, NOW).await;
    let deleted = fixture.catalog.delete_backup(&backup.backup_id, NOW).await;
    assert!(deleted.is_err());
}
