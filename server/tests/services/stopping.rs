//! How the server stops.

use std::time::Duration;

use proto::backup::v1::{DownloadBackupRequest, WatchBackupRequest};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{Rig, file, folder, noise, reason};

#[tokio::test]
async fn watches_end_with_unavailable_and_the_server_ends() {
    let mut rig = Rig::start().await;
    rig.register("one", "ann").await;
    let backup_id = rig.create("one", "ann").await.backup_id;
    let mut client = rig.backups("ann");
    let mut stream = client
        .watch_backup(WatchBackupRequest { backup_id })
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    // A stream that never ends by itself, as orchestrators keep them.
    let mut health = HealthClient::new(rig.channel())
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    health.message().await.unwrap().unwrap();

    rig.shutdown.cancel();
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended as if all was told"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "SHUTTING_DOWN")
    );
    let ended = tokio::time::timeout(Duration::from_secs(20), &mut rig.server).await;
    ended.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_download_gets_the_drain_time_and_no_more() {
    let mut rig = Rig::start_with(|settings| {
        settings.server_drain = Duration::from_millis(300);
    })
    .await;
    rig.register("one", "ann").await;
    let files = [folder(""), file("big", noise(12 << 20))];
    let backup_id = rig.completed("one", "ann", &files).await.backup_id;
    let mut client = rig.backups("ann");
    let request = DownloadBackupRequest {
        backup_id,
        ..DownloadBackupRequest::default()
    };
    let mut stream = client.download_backup(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    rig.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(20), &mut rig.server).await;
    ended.expect("the server ends").unwrap().unwrap();
    let mut status = None;
    loop {
        match stream.message().await {
            Ok(Some(message)) => assert!(!message.last),
            Ok(None) => break,
            Err(error) => {
                status = Some(error);
                break;
            }
        }
    }
    assert!(status.is_some(), "it ended as if it was whole");
}

#[tokio::test]
async fn a_wrong_setting_stops_the_start_in_one_line() {
    let mut rig = Rig::start_with(|settings| settings.jwt_secret = "short".into()).await;
    let error = (&mut rig.server).await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("JWT_SECRET holds 5 bytes"), "{error}");
    assert!(!error.contains('\n'));
}
