//! TLS on a real listener in front of the server.

use proto::backup::v1::S3Destination;
use rcgen::{CertificateParams, date_time_ymd};
use vault::error::StoreErrorKind;

use super::{
    front::Canned,
    support::{bucket, fails, server},
    tls_front::TlsFront,
};

fn at(address: String) -> S3Destination {
    S3Destination {
        endpoint: address,
        ..bucket()
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority() {
    let tls = TlsFront::start(server()).await.expect("start");
    assert!(tls.certificate().starts_with("-----BEGIN CERTIFICATE"));
    let place = format!("localhost:{}", tls.port());
    fails(
        &at(format!("https://{place}")),
        StoreErrorKind::Untrusted,
        &["the certificate of", &place, "authorit"],
    )
    .await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_or_is_not_valid_yet() {
    for (years, words) in [
        ((2019, 2020), "has expired"),
        ((2090, 2091), "is not valid yet"),
    ] {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let tls = TlsFront::with(server(), params).await.expect("start");
        fails(
            &at(format!("https://localhost:{}", tls.port())),
            StoreErrorKind::Untrusted,
            &[words, "the clock of this machine"],
        )
        .await;
    }
}

#[tokio::test]
async fn tls_where_there_is_none_and_none_where_there_is() {
    let plain = Canned::http("400 Bad Request", "", "no TLS here").await;
    fails(
        &at(format!("https://localhost:{}", plain.port)),
        StoreErrorKind::Misconfigured,
        &["does not speak TLS", "http://"],
    )
    .await;
    let tls = TlsFront::start(server()).await.expect("start");
    fails(
        &at(format!("http://localhost:{}", tls.port())),
        StoreErrorKind::Unavailable,
        &["does not answer in HTTP", "https://"],
    )
    .await;
}
