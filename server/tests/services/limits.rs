//! How much one user may ask for.

use proto::backup::v1::{CreateBackupRequest, DownloadBackupRequest};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::{Rig, eventually, file, folder, noise, reason};

fn backup_of(agent_id: &str) -> CreateBackupRequest {
    CreateBackupRequest {
        agent_id: agent_id.to_owned(),
        ..CreateBackupRequest::default()
    }
}

#[tokio::test]
async fn creates_are_limited_by_the_minute_and_say_when_to_come_again() {
    let rig = Rig::start_with(|settings| settings.access.creates_per_minute = 3).await;
    rig.register("one", "ann").await;
    rig.register("two", "bob").await;
    for _ in 0..3 {
        rig.create("one", "ann").await;
    }
    let refused = rig.backups("ann").create_backup(backup_of("one")).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refused), "TOO_MANY_CREATES");
    let violation = &refused.get_details_quota_failure().unwrap().violations[0];
    assert_eq!(
        (violation.subject.as_str(), violation.description.as_str()),
        ("user:ann", "3 creates a minute")
    );
    let retry = refused
        .get_details_retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!((1..=20).contains(&retry.as_secs()), "{retry:?}");
    // Others, and who runs the platform, are not concerned.
    rig.create("two", "bob").await;
    for _ in 0..5 {
        let admin = rig
            .backups_as("ann", "admin")
            .create_backup(backup_of("one"))
            .await;
        admin.unwrap();
    }
}

#[tokio::test]
async fn jobs_that_wait_or_run_are_limited() {
    let rig = Rig::start_with(|settings| settings.access.jobs_per_owner = 2).await;
    rig.register("one", "ann").await;
    let first = rig.create("one", "ann").await;
    rig.create("one", "ann").await;
    let refused = rig.backups("ann").create_backup(backup_of("one")).await;
    let refused = refused.unwrap_err();
    assert_eq!(reason(&refused), "TOO_MANY_JOBS");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_details_retry_info().is_some());
    assert!(refused.get_details_quota_failure().is_some());
    assert!(refused.message().contains("2 jobs of ann"), "{refused:?}");
    let request = proto::backup::v1::CancelBackupRequest {
        backup_id: first.backup_id,
    };
    rig.backups("ann").cancel_backup(request).await.unwrap();
    rig.create("one", "ann").await;
}

#[tokio::test]
async fn downloads_at_the_same_time_are_limited_and_give_their_places_back() {
    let rig = Rig::start_with(|settings| settings.access.downloads_per_caller = 1).await;
    rig.register("one", "ann").await;
    // More than fits into a connection's buffers: the stream stays open while it is not read.
    let files = [folder(""), file("a", noise(8 * 1024 * 1024))];
    let backup_id = rig.completed("one", "ann", &files).await.backup_id;
    let request = DownloadBackupRequest {
        backup_id,
        ..DownloadBackupRequest::default()
    };
    let mut ann = rig.backups("ann");
    let held = ann.download_backup(request.clone()).await.unwrap();
    let refused = ann.download_backup(request.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "TOO_MANY_DOWNLOADS");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(held);
    eventually("a place for the next download", || async {
        let mut ann = rig.backups("ann");
        ann.download_backup(request.clone()).await.is_ok()
    })
    .await;
}
