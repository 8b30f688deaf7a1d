//! Operations HTTP and reflection: what orchestrators, Prometheus and `buf curl` ask.

use std::time::Duration;

use futures::StreamExt as _;
use queue::{EventBus as _, JobQueue as _, Route, Urgency};
use server::{Ops, install_metrics};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::harness::{Rig, eventually, now_ms};

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_and_metrics_are_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = install_metrics().unwrap();
    let rig = Rig::start_with_ops(Some(Ops { listener, metrics })).await;
    eventually("health", || async {
        get(address, "/health").await.starts_with("HTTP/1.1 200")
    })
    .await;
    let health = get(address, "/health").await;
    assert!(health.contains(r#""status":"ok""#), "{health}");
    assert!(health.contains(r#""database":"ok""#), "{health}");
    assert!(get(address, "/livez").await.contains("ok"));
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    rig.register("one", "ann").await;
    let metrics = get(address, "/metrics").await;
    let line = r#"nora_backup_rpcs_total{method="AgentService/RegisterAgent",code="0"} "#;
    assert!(metrics.contains(line), "{metrics}");

    // A message that nobody can use: a note, and a figure.
    let seen = catalog::Worker {
        worker: "w1".to_owned(),
        pool: "default".to_owned(),
        concurrency: 1,
        version: "1".to_owned(),
        start_time_ms: now_ms(),
        seen_time_ms: now_ms(),
    };
    rig.catalog.see_worker(&[seen]).await.unwrap();
    let route = Route {
        pool: "default".to_owned(),
        urgency: Urgency::Manual,
    };
    rig.queue.publish(&route, "no-such-job").await.unwrap();
    let mut consumer = rig.queue.consume("default", 1).await.unwrap();
    let taken = consumer.next().await.unwrap();
    taken.dead_letter().await.unwrap();
    eventually("the note of a dead letter", || async {
        get(address, "/health")
            .await
            .contains(r#""dead_letters":1"#)
    })
    .await;
    let health = get(address, "/health").await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(
        health.contains("pool default has 1 dead letter"),
        "{health}"
    );
    let metrics = get(address, "/metrics").await;
    let line = r#"nora_backup_queue_dead_letters{pool="default"} 1"#;
    assert!(metrics.contains(line), "{metrics}");

    rig.catalog.clone().close().await.unwrap();
    eventually("the news of the database", || async {
        get(address, "/health").await.starts_with("HTTP/1.1 503")
    })
    .await;
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn reflection_names_the_services() {
    let rig = Rig::start().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(rig.channel());
    let requests = futures::stream::iter([request]);
    let answer = client.server_reflection_info(requests).await.unwrap();
    let first = answer.into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = first.message_response else {
        panic!("no list")
    };
    let names: Vec<&str> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in [
        "nora.backup.v1.AgentService",
        "nora.backup.v1.BackupService",
        "nora.backup.v1.RestoreService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    // What is served elsewhere is not told of here.
    assert!(!names.contains(&"nora.backup.v1.AdminService"), "{names:?}");
}

#[tokio::test]
async fn reflection_can_be_turned_off() {
    let rig = Rig::start_with(|settings| settings.reflection = false).await;
    let mut client = ServerReflectionClient::new(rig.channel());
    let requests = futures::stream::iter([ServerReflectionRequest::default()]);
    let status = client.server_reflection_info(requests).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn work_of_other_processes_is_brought_to_the_queue_when_they_say_so() {
    // By itself it would look in an hour.
    let rig = Rig::start_with(|settings| settings.dispatch_poll = Duration::from_hours(1)).await;
    rig.register("one", "ann").await;
    let new = catalog::NewBackup {
        agent_id: "one".to_owned(),
        owner_id: "ann".to_owned(),
        name: String::new(),
        trigger: catalog::Trigger::Manual,
        request: None,
    };
    let elsewhere = rig.catalog_elsewhere().await;
    let backup = elsewhere.create_backup(new, now_ms()).await.unwrap();
    let mut consumer = rig.queue.consume("default", 1).await.unwrap();
    let said = async {
        // Perhaps the server does not listen yet: it is said until it was heard.
        let mut again = tokio::time::interval(Duration::from_millis(100));
        loop {
            again.tick().await;
            rig.bus.publish(queue::work()).await.unwrap();
        }
    };
    tokio::select! {
        delivery = consumer.next() => {
            let delivery = delivery.unwrap();
            assert_eq!(delivery.job_id, backup.job_id);
            delivery.ack().await.unwrap();
        }
        () = said => {}
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("never dispatched"),
    }
}
