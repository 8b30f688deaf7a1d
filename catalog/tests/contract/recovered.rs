//! What vaults tell is taken in once, and never over what the catalog knows better.

use catalog::{
    Adopt, BackupFilter, BackupResult, BackupState, NewAgent, PageRequest, RecoveredAgent,
    RecoveredBackup,
};
use proto::backup::v1::Source;

use crate::fixture::{Fixture, NOW};

fn agent(agent_id: &str, owner_id: &str) -> NewAgent {
    NewAgent {
        agent_id: agent_id.to_owned(),
        display_name: "An agent".to_owned(),
        owner_id: owner_id.to_owned(),
        workspace_id: "w".to_owned(),
        source: Source::default(),
        integrations: Vec::new(),
        pool: "default".to_owned(),
        patterns: Vec::new(),
        size_warning_bytes: 0,
        destination_id: String::new(),
        second_destination_id: String::new(),
    }
}

fn backup(backup_id: &str, sequence: u64, digest: u8) -> RecoveredBackup {
    RecoveredBackup {
        backup_id: backup_id.to_owned(),
        name: format!("number {sequence}"),
        result: BackupResult {
            manifest_attempt: 1,
            manifest_digest: [digest; 32],
            sequence,
            size_bytes: 1000,
            stored_bytes: 100,
            new_bytes: 200,
            entries: 7,
            warnings: Vec::new(),
            warnings_total: 0,
            vault_bytes: 0,
            progress: None,
        },
        start_time_ms: 1_000 * sequence as i64,
        end_time_ms: 1_000 * sequence as i64 + 500,
    }
}

fn found(backups: Vec<RecoveredBackup>) -> RecoveredAgent {
    RecoveredAgent {
        agent: agent("lost", "owner"),
        destination_id: catalog::DEFAULT_DESTINATION.to_owned(),
        vault_bytes: 12_345,
        backups,
    }
}

#[tokio::test]
async fn what_vaults_tell_is_added_once() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let two = found(vec![backup("b1", 1, 1), backup("b2", 2, 2)]);
    let looked = catalog.adopt(&two, Adopt::Look, NOW).await.unwrap();
    assert!(looked.agent_added && looked.added == ["b1", "b2"]);
    assert_eq!(catalog.get_agent("lost").await.unwrap(), None);

    let added = catalog.adopt(&two, Adopt::Add, NOW).await.unwrap();
    assert_eq!(added, looked);
    let known = catalog.get_agent("lost").await.unwrap().unwrap();
    assert_eq!(
        (known.owner_id.as_str(), known.vault_bytes),
        ("owner", 12_345)
    );
    assert_eq!(known.create_time_ms, 1_000);
    let latest = catalog
        .latest_completed("lost", None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(latest.backup_id, "b2");
    assert_eq!(
        (latest.sequence, latest.state),
        (Some(2), BackupState::Completed)
    );
    assert_eq!(latest.manifest_digest, Some([2; 32]));
    assert_eq!(
        (latest.start_time_ms, latest.end_time_ms),
        (Some(2_000), Some(2_500))
    );

    // Once more changes nothing; a further backup is added.
    let three = found(vec![
        backup("b1", 1, 1),
        backup("b2", 2, 2),
        backup("b3", 3, 3),
    ]);
    let again = catalog.adopt(&three, Adopt::Add, NOW).await.unwrap();
    assert!(!again.agent_added && again.added == ["b3"] && again.known == 2);
    let again = catalog.adopt(&three, Adopt::Add, NOW).await.unwrap();
    assert!(again.added.is_empty() && again.known == 3 && again.conflicts.is_empty());
    let filter = BackupFilter {
        agent_id: Some("lost".to_owned()),
        ..BackupFilter::default()
    };
    let page = PageRequest::first(100);
    let listed = catalog.list_backups(&filter, &page).await.unwrap();
    assert_eq!(listed.items.len(), 3);
}

#[tokio::test]
async fn what_the_catalog_knows_differently_stays_unless_told() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let before = found(vec![backup("b1", 1, 1)]);
    catalog.adopt(&before, Adopt::Add, NOW).await.unwrap();
    let other = found(vec![backup("b1", 1, 9), backup("b2", 2, 2)]);
    let refused = catalog.adopt(&other, Adopt::Add, NOW).await.unwrap();
    assert_eq!(refused.conflicts.len(), 1, "{refused:?}");
    assert!(
        refused.conflicts[0].contains("another manifest"),
        "{refused:?}"
    );
    assert_eq!(catalog.get_backup("b2").await.unwrap(), None);
    let kept = catalog.get_backup("b1").await.unwrap().unwrap();
    assert_eq!(kept.manifest_digest, Some([1; 32]));

    let replaced = catalog.adopt(&other, Adopt::Replace, NOW).await.unwrap();
    assert_eq!(replaced.added, ["b2"]);
    let now = catalog.get_backup("b1").await.unwrap().unwrap();
    assert_eq!(now.manifest_digest, Some([9; 32]));

    let mut stranger = found(Vec::new());
    stranger.agent.owner_id = "somebody else".to_owned();
    let refused = catalog.adopt(&stranger, Adopt::Add, NOW).await.unwrap();
    assert!(refused.conflicts[0].contains("belongs to"), "{refused:?}");
    let kept = catalog.get_agent("lost").await.unwrap().unwrap();
    assert_eq!(kept.owner_id, "owner");
}
