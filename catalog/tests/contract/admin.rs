//! What administrators ask for: everyone's backups, jobs, a new try, who did what.

use catalog::{
    AllBackupsFilter, AuditEntry, AuditFilter, BackupState, CatalogError, JobCondition, JobFilter,
    JobKind, JobState, NewAgent, NewBackup, PageRequest, Trigger,
};

use crate::fixture::{Fixture, NOW, new_agent, new_backup, unavailable};

const HOUR_MS: i64 = 3_600_000;

async fn ids(fixture: &Fixture, filter: &AllBackupsFilter) -> Vec<String> {
    let page = PageRequest::first(100);
    let found = fixture.catalog.list_all_backups(filter, &page).await;
    let found = found.unwrap().items.into_iter();
    found.map(|backup| backup.backup_id).collect()
}

#[tokio::test]
async fn all_backups_are_found_by_whose_they_are_and_when() {
    let fixture = Fixture::with_agent().await;
    let other = NewAgent {
        owner_id: "bob".into(),
        workspace_id: "elsewhere".into(),
        ..new_agent("other")
    };
    let registered = fixture.catalog.register_agent(other, None, NOW).await;
    registered.unwrap();
    let at = |agent: &str, owner: &str, trigger, time_ms| {
        let backup = NewBackup {
            owner_id: owner.to_owned(),
            trigger,
            ..new_backup(agent)
        };
        let catalog = fixture.catalog.clone();
        async move {
            catalog
                .create_backup(backup, time_ms)
                .await
                .unwrap()
                .backup_id
        }
    };
    let first = at("agent", "owner", Trigger::Manual, NOW).await;
    let second = at("agent", "owner", Trigger::Schedule, NOW + HOUR_MS).await;
    let third = at("other", "bob", Trigger::Manual, NOW + 2 * HOUR_MS).await;
    let canceled = fixture
        .catalog
        .cancel_backup(&first, NOW + 1)
        .await
        .unwrap();
    assert_eq!(canceled.state, BackupState::Canceled);
    let all = AllBackupsFilter::default();
    let newest_first = [third.clone(), second.clone(), first.clone()];
    assert_eq!(ids(&fixture, &all).await, newest_first);
    let cases = [
        (
            AllBackupsFilter {
                owner_id: Some("bob".into()),
                ..all.clone()
            },
            vec![&third],
        ),
        (
            AllBackupsFilter {
                agent_id: Some("agent".into()),
                ..all.clone()
            },
            vec![&second, &first],
        ),
        (
            AllBackupsFilter {
                workspace_id: Some("elsewhere".into()),
                ..all.clone()
            },
            vec![&third],
        ),
        (
            AllBackupsFilter {
                states: vec![BackupState::Canceled],
                ..all.clone()
            },
            vec![&first],
        ),
        (
            AllBackupsFilter {
                trigger: Some(Trigger::Schedule),
                ..all.clone()
            },
            vec![&second],
        ),
        (
            AllBackupsFilter {
                from_ms: Some(NOW + HOUR_MS),
                ..all.clone()
            },
            vec![&third, &second],
        ),
        (
            AllBackupsFilter {
                before_ms: Some(NOW + HOUR_MS),
                ..all.clone()
            },
            vec![&first],
        ),
        (
            AllBackupsFilter {
                from_ms: Some(i64::MAX),
                ..all.clone()
            },
            vec![],
        ),
        (
            AllBackupsFilter {
                before_ms: Some(0),
                ..all.clone()
            },
            vec![],
        ),
    ];
    for (filter, expected) in cases {
        let expected: Vec<String> = expected.into_iter().cloned().collect();
        assert_eq!(ids(&fixture, &filter).await, expected, "{filter:?}");
    }
    let mut page = PageRequest::first(2);
    let found = fixture.catalog.list_all_backups(&all, &page).await.unwrap();
    assert_eq!(found.next.as_deref(), Some(second.as_str()));
    page.after = found.next;
    let found = fixture.catalog.list_all_backups(&all, &page).await.unwrap();
    assert_eq!((found.items.len(), found.next), (1, None));
}

async fn jobs(fixture: &Fixture, filter: JobFilter, now_ms: i64) -> Vec<String> {
    let page = PageRequest::first(100);
    let found = fixture.catalog.list_jobs(&filter, &page, now_ms).await;
    let mut ids = Vec::new();
    for job in found.unwrap().items {
        if let Some(condition) = filter.condition {
            assert_eq!(JobCondition::of(&job, now_ms), Some(condition));
        }
        ids.push(job.job_id);
    }
    ids
}

#[tokio::test]
async fn jobs_are_found_by_what_is_the_matter_with_them() {
    let fixture = Fixture::with_agent().await;
    for agent in ["retrying", "dead", "silent", "well"] {
        fixture.agent(agent).await;
    }
    let untaken = fixture.backup("agent").await.job_id;
    let retrying = fixture.backup("retrying").await.job_id;
    let dead = fixture.backup("dead").await.job_id;
    let silent = fixture.backup("silent").await.job_id;
    let later = NOW + 10 * 60_000;
    fixture.claim(&silent, NOW).await;
    let fence = fixture.claim(&retrying, later).await.fence();
    fixture.fail(&fence, later).await;
    let fence = fixture.claim(&dead, later).await.fence();
    let failed = fixture
        .catalog
        .fail_job(&fence, unavailable(), false, later);
    failed.await.unwrap();
    let well = fixture
        .catalog
        .create_backup(new_backup("well"), later)
        .await;
    let well = well.unwrap().job_id;
    let with = |condition| JobFilter {
        condition: Some(condition),
        ..JobFilter::default()
    };
    // Made in the same millisecond, these two have no order.
    let mut stuck = jobs(&fixture, with(JobCondition::Stuck), later).await;
    stuck.sort();
    let mut both = [silent.clone(), untaken.clone()];
    both.sort();
    assert_eq!(stuck, both);
    assert_eq!(
        jobs(&fixture, with(JobCondition::Retrying), later).await,
        [retrying]
    );
    assert_eq!(
        jobs(&fixture, with(JobCondition::Dead), later).await,
        [dead]
    );
    let of = JobFilter {
        kind: Some(JobKind::Backup),
        state: Some(JobState::Queued),
        pool: Some("default".into()),
        agent_id: Some("well".into()),
        ..JobFilter::default()
    };
    assert_eq!(jobs(&fixture, of.clone(), later).await, [well]);
    let none = JobFilter {
        pool: Some("other".into()),
        ..of
    };
    assert_eq!(jobs(&fixture, none, later).await, [] as [String; 0]);
    // What is under way of an owner: all but the one that has failed.
    assert_eq!(fixture.catalog.open_jobs("owner").await.unwrap(), 4);
    assert_eq!(fixture.catalog.open_jobs("nobody").await.unwrap(), 0);
}

#[tokio::test]
async fn a_failed_backup_gets_a_new_try_and_can_complete() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let early = catalog.retry_job(&backup.job_id, NOW).await.unwrap_err();
    assert!(
        matches!(
            early,
            CatalogError::JobNotFailed {
                state: "QUEUED",
                ..
            }
        ),
        "{early:?}"
    );
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    let running = catalog.retry_job(&backup.job_id, NOW).await.unwrap_err();
    assert!(matches!(
        running,
        CatalogError::JobNotFailed {
            state: "RUNNING",
            ..
        }
    ));
    catalog
        .fail_job(&fence, unavailable(), false, NOW)
        .await
        .unwrap();
    let failed = fixture.get_backup(&backup.backup_id).await;
    assert_eq!(failed.state, BackupState::Failed);

    let again = catalog.retry_job(&backup.job_id, NOW + 5).await.unwrap();
    assert_eq!(
        (again.state, again.tries, again.attempt),
        (JobState::Queued, 0, 1)
    );
    assert_eq!((again.failure, again.end_time_ms), (None, None));
    let pending = fixture.get_backup(&backup.backup_id).await;
    assert_eq!(pending.state, BackupState::Pending);
    assert_eq!((pending.failure, pending.end_time_ms), (None, None));
    assert_eq!(fixture.only_due_job(NOW + 5).await, backup.job_id);
    // The attempt that failed can write nothing any more.
    let late = catalog
        .fail_job(&fence, unavailable(), false, NOW + 6)
        .await;
    assert!(matches!(late, Err(CatalogError::Fenced { .. })));
    let fence = fixture.claim(&backup.job_id, NOW + 7).await.fence();
    assert_eq!(fence.attempt, 2);
    let result = crate::fixture::result(1);
    catalog
        .complete_backup(&fence, result, NOW + 8)
        .await
        .unwrap();
    let done = fixture.get_backup(&backup.backup_id).await;
    assert_eq!(done.state, BackupState::Completed);
    let over = catalog
        .retry_job(&backup.job_id, NOW + 9)
        .await
        .unwrap_err();
    assert!(matches!(
        over,
        CatalogError::JobNotFailed {
            state: "COMPLETED",
            ..
        }
    ));
    let unknown = catalog.retry_job("none", NOW).await.unwrap_err();
    assert!(matches!(unknown, CatalogError::JobNotFound { .. }));
}

#[tokio::test]
async fn what_is_gone_is_not_tried_again_and_what_waits_is_hurried() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();
    fixture.fail(&fence, NOW).await;
    let job = catalog.get_job(&backup.job_id).await.unwrap().unwrap();
    assert!(job.due_time_ms > NOW, "it waits for its next attempt");
    let hurried = catalog.retry_job(&backup.job_id, NOW + 1).await.unwrap();
    assert_eq!((hurried.due_time_ms, hurried.tries), (NOW + 1, 1));
    let fence = fixture.claim(&backup.job_id, NOW + 1).await.fence();
    catalog
        .fail_job(&fence, unavailable(), false, NOW + 1)
        .await
        .unwrap();
    // Its removal takes the backup out of reach.
    catalog
        .delete_backup(&backup.backup_id, NOW + 2)
        .await
        .unwrap();
    let gone = catalog
        .retry_job(&backup.job_id, NOW + 3)
        .await
        .unwrap_err();
    assert!(
        matches!(gone, CatalogError::BackupNotFound { .. }),
        "{gone:?}"
    );
}

fn called(caller: &str, method: &str, about: &[&str], time_ms: i64) -> AuditEntry {
    AuditEntry {
        time_ms,
        caller_id: caller.to_owned(),
        role: "user".to_owned(),
        method: method.to_owned(),
        resources: about
            .iter()
            .map(|id| ("agent_id".to_owned(), (*id).to_owned()))
            .collect(),
        peer: "192.0.2.1:4711".to_owned(),
        request_id: "r-1".to_owned(),
        listener: "public".to_owned(),
        code: "OK".to_owned(),
        sent_bytes: 7,
        ..AuditEntry::default()
    }
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what_and_forgets_in_batches() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let day = 24 * HOUR_MS;
    let rows = [
        called("ann", "A/Create", &["one"], NOW),
        called("bob", "A/Delete", &["one", "two", "two"], NOW + day),
        called("ann", "A/Delete", &[], NOW + 2 * day),
    ];
    catalog.write_audit(&rows).await.unwrap();
    catalog.write_audit(&[]).await.unwrap();
    let list = async |filter: AuditFilter| {
        let found = catalog.list_audit(&filter, &PageRequest::first(10)).await;
        let found = found.unwrap().items.into_iter();
        found
            .map(|entry| format!("{} {}", entry.caller_id, entry.method))
            .collect::<Vec<_>>()
    };
    let all = AuditFilter::default();
    assert_eq!(
        list(all.clone()).await,
        ["ann A/Delete", "bob A/Delete", "ann A/Create"]
    );
    let by = AuditFilter {
        caller_id: Some("ann".into()),
        ..all.clone()
    };
    assert_eq!(list(by).await, ["ann A/Delete", "ann A/Create"]);
    let by = AuditFilter {
        method: Some("A/Delete".into()),
        ..all.clone()
    };
    assert_eq!(list(by).await, ["ann A/Delete", "bob A/Delete"]);
    let by = AuditFilter {
        resource_id: Some("one".into()),
        ..all.clone()
    };
    assert_eq!(list(by).await, ["bob A/Delete", "ann A/Create"]);
    let by = AuditFilter {
        from_ms: Some(NOW + 1),
        before_ms: Some(NOW + 2 * day),
        ..all.clone()
    };
    assert_eq!(list(by).await, ["bob A/Delete"]);

    let page = catalog
        .list_audit(&all, &PageRequest::first(2))
        .await
        .unwrap();
    let mut shown = page.items[1].clone();
    let next = page.next.unwrap();
    assert_eq!(next, shown.audit_id);
    shown.audit_id.clear();
    let mut written = rows[1].clone();
    written.resources.pop();
    assert_eq!(shown, written, "what is named twice is shown once");
    let rest = catalog.list_audit(&all, &PageRequest::after(2, next)).await;
    assert_eq!(rest.unwrap().items.len(), 1);

    assert_eq!(catalog.expire_audit(1, NOW + 2 * day).await.unwrap(), 1);
    assert_eq!(catalog.expire_audit(10, NOW + 2 * day).await.unwrap(), 1);
    assert_eq!(catalog.expire_audit(10, NOW + 2 * day).await.unwrap(), 0);
    assert_eq!(list(all.clone()).await, ["ann A/Delete"]);
    let by = AuditFilter {
        resource_id: Some("one".into()),
        ..all
    };
    assert_eq!(list(by).await, [] as [String; 0]);
}
