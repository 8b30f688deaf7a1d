//! Several dispatchers, announcers and workers side by side.

use catalog::{Catalog, CatalogError, Worker};
use sea_orm::{ConnectionTrait as _, Database};

use crate::fixture::{Fixture, NOW, result};

#[tokio::test]
async fn what_one_dispatcher_has_in_its_hands_another_leaves_alone() {
    let fixture = Fixture::new().await;
    for number in 0..20 {
        let agent = format!("agent-{number}");
        fixture.agent(&agent).await;
        fixture.backup(&agent).await;
    }
    let catalog = &fixture.catalog;
    let (one, other) = tokio::join!(
        catalog.claim_undispatched(10, 1_000, NOW),
        catalog.claim_undispatched(10, 1_000, NOW)
    );
    let mut claimed: Vec<String> = [one.unwrap(), other.unwrap()]
        .concat()
        .into_iter()
        .map(|item| item.job_id)
        .collect();
    // One that finds the other's rows locked may get fewer, never the same.
    claimed.extend(
        catalog
            .claim_undispatched(20, 1_000, NOW)
            .await
            .unwrap()
            .into_iter()
            .map(|item| item.job_id),
    );
    claimed.sort();
    let total = claimed.len();
    claimed.dedup();
    assert_eq!((claimed.len(), total), (20, 20));
    let none = catalog.claim_undispatched(20, 1_000, NOW).await.unwrap();
    assert_eq!(none, []);
}

#[tokio::test]
async fn what_was_not_sent_is_free_after_its_time_or_when_released() {
    let fixture = Fixture::with_agent().await;
    fixture.backup("agent").await;
    let catalog = &fixture.catalog;
    let claimed = catalog.claim_undispatched(10, 1_000, NOW).await.unwrap();
    assert_eq!(claimed.len(), 1);
    let later = catalog.claim_undispatched(10, 1_000, NOW + 1_000).await;
    assert_eq!(later.unwrap(), claimed);
    catalog.release_undispatched(&claimed).await.unwrap();
    let again = catalog.claim_undispatched(10, 1_000, NOW + 1_001).await;
    assert_eq!(again.unwrap(), claimed);
    assert!(catalog.mark_dispatched(&claimed[0], NOW).await.unwrap());
    let none = catalog.claim_undispatched(10, 1_000, NOW + 9_000).await;
    assert_eq!(none.unwrap(), []);
}

#[tokio::test]
async fn each_end_is_announced_until_it_was() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.completed("agent", 1).await;
    let page = catalog.claim_announcements(10, 1_000, NOW).await.unwrap();
    let [announcement] = &page[..] else {
        panic!("{page:?}");
    };
    assert_eq!(announcement.ended.kind, "backup");
    assert_eq!(announcement.ended.state, "completed");
    assert_eq!(announcement.ended.subject_id, backup.backup_id);
    let held = catalog.claim_announcements(10, 1_000, NOW).await.unwrap();
    assert_eq!(held, []);
    let ids = [announcement.announcement_id.clone()];
    catalog.release_announcements(&ids).await.unwrap();
    let again = catalog.claim_announcements(10, 1_000, NOW).await.unwrap();
    assert_eq!(again, page);
    catalog.announced(&ids).await.unwrap();
    let none = catalog.claim_announcements(10, 0, NOW + 9_000).await;
    assert_eq!(none.unwrap(), []);
}

#[tokio::test]
async fn a_job_of_a_pool_without_workers_says_so() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let backup = fixture.backup("agent").await;
    let claimed = catalog.claim_undispatched(10, 1_000, NOW).await.unwrap();
    catalog.mark_dispatched(&claimed[0], NOW).await.unwrap();
    let later = NOW + 200_000;
    let early = catalog.explain_unserved(120_000, 10, NOW + 60_000).await;
    assert_eq!(early.unwrap(), []);
    let seen = |pool: &str| Worker {
        worker: "worker-1".to_owned(),
        pool: pool.to_owned(),
        concurrency: 2,
        version: "1".to_owned(),
        start_time_ms: NOW,
        seen_time_ms: later,
    };
    catalog.see_worker(&[seen("other")]).await.unwrap();
    let explained = catalog.explain_unserved(120_000, 10, later).await.unwrap();
    assert_eq!(explained.len(), 1);
    let waiting = fixture.get_backup(&backup.backup_id).await;
    let reason = waiting.progress.waiting_reason;
    assert!(
        reason.starts_with("no worker has served pool default for 120 s"),
        "{reason}"
    );
    let told = catalog.explain_unserved(120_000, 10, later).await.unwrap();
    assert_eq!(told, [], "once is enough");
    // Somebody comes.
    catalog.see_worker(&[seen("default")]).await.unwrap();
    assert_eq!(catalog.workers_since(later).await.unwrap().len(), 2);
    let fence = fixture.claim(&backup.job_id, later).await.fence();
    let completed = catalog.complete_backup(&fence, result(1), later).await;
    completed.unwrap();
    catalog.forget_worker("worker-1").await.unwrap();
    assert_eq!(catalog.workers_since(0).await.unwrap(), []);
}

#[tokio::test]
async fn many_processes_may_bring_the_schema_up_to_date_at_once() {
    let fixture = Fixture::new().await;
    let admin = Database::connect(fixture.url()).await.unwrap();
    for table in ["jobs", "workers", "announcements", "seaql_migrations"] {
        let drop = format!("DROP TABLE {table}");
        admin.execute_unprepared(&drop).await.unwrap();
    }
    let starts = (0..5).map(|_| async {
        let catalog = Catalog::connect(&fixture.settings).await.unwrap();
        catalog.migrate().await
    });
    for started in futures::future::join_all(starts).await {
        started.unwrap();
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let fixture = Fixture::new().await;
    let admin = Database::connect(fixture.url()).await.unwrap();
    admin
        .execute_unprepared(
            "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m2099_the_future', 1)",
        )
        .await
        .unwrap();
    let error = fixture.catalog.migrate().await.unwrap_err();
    assert!(matches!(error, CatalogError::Newer { .. }), "{error:?}");
    assert!(error.to_string().contains("m2099_the_future"), "{error}");
}
