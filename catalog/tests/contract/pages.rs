//! Pages.

use std::collections::HashSet;

use catalog::{AgentFilter, BackupFilter, BackupState, PageRequest};

use crate::fixture::{Fixture, NOW, new_backup};

#[tokio::test]
async fn pages_of_backups_hold_each_once_though_new_ones_come() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let mut expected = Vec::new();
    for number in 0..25 {
        let created = catalog.create_backup(new_backup("agent"), NOW + number);
        expected.insert(0, created.await.unwrap().backup_id);
    }
    let filter = BackupFilter {
        owner_id: Some("owner".to_owned()),
        ..BackupFilter::default()
    };
    let mut request = PageRequest::first(10);
    let mut seen = Vec::new();
    loop {
        let page = catalog.list_backups(&filter, &request).await.unwrap();
        assert!(page.items.len() <= 10);
        seen.extend(page.items.into_iter().map(|backup| backup.backup_id));
        // Newer ones come before the first page, never into a later one.
        let newer = catalog.create_backup(new_backup("agent"), NOW + 1_000);
        newer.await.unwrap();
        match page.next {
            Some(after) => request = PageRequest::after(10, after),
            None => break,
        }
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_full_last_page_has_no_next() {
    let fixture = Fixture::new().await;
    for number in 0..4 {
        fixture.agent(&format!("agent-{number}")).await;
    }
    let filter = AgentFilter {
        owner_id: Some("owner".to_owned()),
        workspace_id: Some("workspace".to_owned()),
    };
    let page = PageRequest::first(2);
    let first = fixture.catalog.list_agents(&filter, &page);
    let first = first.await.unwrap();
    let after = PageRequest::after(2, first.next.expect("a next page"));
    let second = fixture.catalog.list_agents(&filter, &after).await.unwrap();
    assert_eq!(second.next, None);
    let ids: HashSet<_> = first
        .items
        .iter()
        .chain(&second.items)
        .map(|agent| agent.agent_id.clone())
        .collect();
    assert_eq!(ids.len(), 4);
    let none = AgentFilter {
        owner_id: Some("somebody else".to_owned()),
        ..AgentFilter::default()
    };
    let none = fixture.catalog.list_agents(&none, &page);
    assert_eq!(none.await.unwrap().items, []);
}

#[tokio::test]
async fn a_page_of_nothing_or_of_everything_is_brought_into_bounds() {
    let fixture = Fixture::with_agent().await;
    fixture.agent("b").await;
    for (limit, expected) in [(0, 1), (u64::MAX, 2)] {
        let page = PageRequest::first(limit);
        let all = AgentFilter::default();
        let agents = fixture.catalog.list_agents(&all, &page);
        assert_eq!(agents.await.unwrap().items.len(), expected);
    }
}

#[tokio::test]
async fn backups_are_filtered_by_state() {
    let fixture = Fixture::with_agent().await;
    let completed = fixture.completed("agent", 1).await;
    fixture.backup("agent").await;
    let filter = BackupFilter {
        states: vec![BackupState::Completed, BackupState::Failed],
        ..BackupFilter::default()
    };
    let page = PageRequest::first(10);
    let page = fixture.catalog.list_backups(&filter, &page);
    assert_eq!(page.await.unwrap().items, [completed]);
}
