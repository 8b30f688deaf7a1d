//! The file: what is acknowledged is there after a crash, and only ours to read.

use std::os::unix::fs::PermissionsExt as _;

use catalog::{BackupState, Catalog, JobState};

use crate::fixture::{Fixture, LEASE_MS, NOW};

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let fixture = Fixture::with_agent().await;
    let backup = fixture.backup("agent").await;
    let running = fixture.backup("agent").await;
    fixture.claim(&running.job_id, NOW).await;
    // The crash: another process opens the database while the first neither
    // closed it nor wrote its log back.
    let reopened = Catalog::connect(&fixture.settings).await.unwrap();
    reopened.migrate().await.unwrap();
    reopened.ping().await.unwrap();
    let backup = reopened.get_backup(&backup.backup_id).await.unwrap();
    assert_eq!(backup.unwrap().state, BackupState::Pending);
    let reaped = reopened.reap_expired(10, NOW + LEASE_MS + 1).await.unwrap();
    assert_eq!(reaped.len(), 1);
    assert_eq!(reaped[0].job.state, JobState::Queued);
    reopened.close().await.unwrap();
}

#[tokio::test]
async fn a_copy_of_the_files_of_a_live_database_opens() {
    let fixture = Fixture::with_agent().await;
    if !fixture.settings.database_url.is_sqlite() {
        return;
    }
    let backup = fixture.backup("agent").await;
    let copy = tempfile::tempdir().unwrap();
    for name in ["catalog.db", "catalog.db-wal"] {
        let from = fixture.folder.path().join(name);
        std::fs::copy(from, copy.path().join(name)).unwrap();
    }
    let settings = catalog::CatalogSettings::sqlite(copy.path().join("catalog.db"));
    let copied = Catalog::connect(&settings).await.unwrap();
    assert!(
        copied
            .get_backup(&backup.backup_id)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn only_the_owner_of_the_file_reads_it() {
    let fixture = Fixture::with_agent().await;
    if !fixture.settings.database_url.is_sqlite() {
        return;
    }
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let file = std::fs::metadata(fixture.folder.path().join(name)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_processes_may_migrate_at_once() {
    let fixture = Fixture::new().await;
    let path = fixture.folder.path().join("other.db");
    let starts: Vec<_> = (0..4)
        .map(|_| {
            let settings = catalog::CatalogSettings::sqlite(&path);
            tokio::spawn(async move {
                let catalog = Catalog::connect(&settings).await?;
                catalog.migrate().await
            })
        })
        .collect();
    for start in starts {
        start.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let settings = catalog::CatalogSettings::sqlite("/nonexistent/catalog.db");
    let error = Catalog::connect(&settings).await.unwrap_err().to_string();
    assert!(error.contains("NORA_BACKUP_DATABASE_URL"), "{error}");
    assert!(error.contains("/nonexistent/catalog.db"), "{error}");
}
