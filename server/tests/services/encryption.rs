//! TLS and mutual TLS, with certificates made for these tests (beside, in `tls/`).

use std::path::PathBuf;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::Rig;

const AUTHORITY: &str = include_str!("tls/authority.pem");
const CLIENT: &str = include_str!("tls/client.pem");
const CLIENT_KEY: &str = include_str!("tls/client.key");

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/services/tls", name]
        .iter()
        .collect()
}

async fn rig(client_authority: bool) -> Rig {
    Rig::start_with(|settings| {
        settings.tls_certificate = path("server.pem");
        settings.tls_key = path("server.key");
        if client_authority {
            settings.tls_client_authority = path("authority.pem");
        }
    })
    .await
}

async fn answers(rig: &Rig, scheme: &str, tls: Option<ClientTlsConfig>) -> bool {
    let address = format!("{scheme}://{}", rig.address);
    let mut endpoint = Endpoint::from_shared(address).unwrap();
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls.domain_name("localhost")).unwrap();
    }
    let channel: Channel = endpoint.connect_lazy();
    let request = HealthCheckRequest::default();
    HealthClient::new(channel).check(request).await.is_ok()
}

fn trusting() -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(AUTHORITY))
}

#[tokio::test]
async fn tls_is_spoken_and_nothing_else() {
    let rig = rig(false).await;
    assert!(answers(&rig, "https", Some(trusting())).await);
    assert!(!answers(&rig, "http", None).await);
}

#[tokio::test]
async fn with_an_authority_clients_must_show_a_certificate() {
    let rig = rig(true).await;
    let identity = Identity::from_pem(CLIENT, CLIENT_KEY);
    assert!(answers(&rig, "https", Some(trusting().identity(identity))).await);
    assert!(!answers(&rig, "https", Some(trusting())).await);
}

#[tokio::test]
async fn a_certificate_that_is_none_stops_the_start_by_name() {
    let mut rig = Rig::start_with(|settings| {
        settings.tls_certificate = path("../main.rs");
        settings.tls_key = path("server.key");
    })
    .await;
    let error = (&mut rig.server).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("NORA_BACKUP_TLS_CERT"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}
