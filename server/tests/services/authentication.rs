//! No rpc without a token; health and reflection without.

use proto::backup::v1::{
    GetBackupRequest, RegisterAgentRequest, backup_service_client::BackupServiceClient,
};
use tonic::{Code, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_prost::ProstCodec;

use crate::harness::{Rig, SECRET, agent, eventually, reason, token};

#[tokio::test]
async fn every_rpc_asks_for_a_token() {
    let rig = Rig::start().await;
    let set =
        <prost_types::FileDescriptorSet as prost::Message>::decode(proto::DESCRIPTORS).unwrap();
    let mut asked = 0;
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let mut grpc = Grpc::new(rig.channel());
                grpc.ready().await.unwrap();
                let path = PathAndQuery::try_from(path).unwrap();
                let codec: ProstCodec<(), ()> = ProstCodec::default();
                let status = grpc
                    .unary(tonic::Request::new(()), path, codec)
                    .await
                    .unwrap_err();
                assert_eq!(status.code(), Code::Unauthenticated, "{}", method.name());
                assert_eq!(reason(&status), "TOKEN_MISSING");
                asked += 1;
            }
        }
    }
    assert_eq!(asked, 46);
}

#[tokio::test]
async fn tokens_that_are_not_good_are_told_why() {
    let rig = Rig::start().await;
    let request = || GetBackupRequest {
        backup_id: "x".into(),
    };
    for (token, expected) in [
        (token("ann", "user", SECRET, -120), "TOKEN_EXPIRED"),
        (token("ann", "user", &"y".repeat(40), 60), "TOKEN_INVALID"),
        ("nonsense".to_owned(), "TOKEN_INVALID"),
        (token("ann", "user", SECRET, 60), "BACKUP_NOT_FOUND"),
    ] {
        let status = rig
            .with_token(&token)
            .get_backup(request())
            .await
            .unwrap_err();
        assert_eq!(reason(&status), expected);
    }
}

#[tokio::test]
async fn roles_keep_to_their_methods() {
    let rig = Rig::start().await;
    let request = || RegisterAgentRequest {
        agent: Some(agent("one", "ann")),
    };
    let status = rig
        .agents("ann", "user")
        .register_agent(request())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(reason(&status), "ROLE_NOT_ALLOWED");
    for role in ["service", "admin"] {
        let mut agents = rig.agents("boss", role);
        agents.register_agent(request()).await.unwrap();
    }
    let backup = rig.create("one", "ann").await;
    let request = || GetBackupRequest {
        backup_id: backup.backup_id.clone(),
    };
    let mut service = rig.backups_as("ann", "service");
    let status = service.get_backup(request()).await.unwrap_err();
    assert_eq!(reason(&status), "ROLE_NOT_ALLOWED");
    let mut admin = rig.backups_as("boss", "admin");
    admin.get_backup(request()).await.unwrap();
}

#[tokio::test]
async fn health_is_open_and_true() {
    let rig = Rig::start().await;
    let health = HealthClient::new(rig.channel());
    for service in ["", "nora.backup.v1.BackupService"] {
        eventually("health", || async {
            let request = HealthCheckRequest {
                service: service.into(),
            };
            let answer = health.clone().check(request).await;
            answer.is_ok_and(|it| it.get_ref().status() == ServingStatus::Serving)
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_over_the_bounds_is_answered_at_once() {
    let rig = Rig::start_with(|settings| settings.watches_max = 1).await;
    rig.register("one", "ann").await;
    let backup = rig.create("one", "ann").await;
    let request = || proto::backup::v1::WatchBackupRequest {
        backup_id: backup.backup_id.clone(),
    };
    let mut client = rig.backups("ann");
    let first = client.watch_backup(request()).await.unwrap();
    let status = client.watch_backup(request()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "OVERLOADED");
    assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some());
    // A call is another sort.
    rig.create("one", "ann").await;
    drop(first);
    eventually("a free place", || async {
        rig.backups("ann").watch_backup(request()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let rig = Rig::start().await;
    let mut client: BackupServiceClient<_> = rig.backups("ann");
    let request = GetBackupRequest {
        backup_id: "x".repeat(9 * 1024 * 1024),
    };
    let status = client.get_backup(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
}
