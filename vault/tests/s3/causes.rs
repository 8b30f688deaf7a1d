//! What is said when something is wrong: the cause, what to do, and no secret.

use std::time::Duration;

use proto::backup::v1::{S3Destination, destination::Kind};
use tokio::net::TcpListener;
use vault::error::StoreErrorKind;

use super::{
    front::Canned,
    support::{
        WRONG, as_r2, assert_no_secret, bucket, bucket_as, bucket_at, expect, fails, store,
        try_store, variable,
    },
};

#[tokio::test]
async fn a_host_that_is_not_there() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let closed = free.local_addr().expect("address").port();
    drop(free);
    let place = format!("connect to 127.0.0.1:{closed}: connection refused");
    fails(&bucket_at(closed), StoreErrorKind::Unavailable, &[&place]).await;
    let unknown = S3Destination {
        endpoint: "https://no-such-host.invalid".to_owned(),
        ..bucket()
    };
    fails(
        &unknown,
        StoreErrorKind::Unavailable,
        &["the name no-such-host.invalid", "is not known"],
    )
    .await;
}

#[tokio::test]
async fn servers_of_another_sort() {
    let ssh = Canned::start("SSH-2.0-OpenSSH_9.2p1\r\n".to_owned()).await;
    fails(
        &bucket_at(ssh.port),
        StoreErrorKind::Unavailable,
        &["does not answer in HTTP", "s3.endpoint"],
    )
    .await;
    for status in ["404 Not Found", "405 Method Not Allowed"] {
        let web = Canned::http(status, "", "<html>no such page</html>").await;
        fails(
            &bucket_at(web.port),
            StoreErrorKind::Misconfigured,
            &["not as S3 does", "set s3.endpoint"],
        )
        .await;
    }
    // One that is pleased with everything has stored nothing.
    let yes = Canned::http("200 OK", "", "<html>welcome</html>").await;
    let error = store(&bucket_at(yes.port))
        .check()
        .await
        .expect_err("nothing");
    assert!(
        matches!(
            error.kind,
            StoreErrorKind::Corrupt | StoreErrorKind::Misconfigured
        ),
        "{error}"
    );
}

#[tokio::test]
async fn credentials_that_are_not_accepted() {
    let wrong = S3Destination {
        secret_access_key: WRONG.to_owned(),
        ..bucket()
    };
    fails(
        &wrong,
        StoreErrorKind::Refused,
        &["s3.secret_access_key is not the secret", "s3.access_key_id"],
    )
    .await;
    let unknown = S3Destination {
        access_key_id: "NOSUCHKEY".to_owned(),
        ..bucket()
    };
    fails(
        &unknown,
        StoreErrorKind::Refused,
        &["does not know the access key", "set s3.access_key_id"],
    )
    .await;
    // Reads say the same: the answer to a HEAD has no words.
    for s3 in [wrong, unknown] {
        let store = store(&s3);
        let error = store.stat("x").await.expect_err("refused");
        expect(&error, StoreErrorKind::Refused, &["access_key"]);
        let error = store.list("x/").await.expect_err("refused");
        expect(&error, StoreErrorKind::Refused, &["access_key"]);
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there() {
    let missing = S3Destination {
        bucket: "no-such-bucket".to_owned(),
        ..bucket_as("NO_LIST")
    };
    // Who may not list is told of permissions only.
    let words = ["\"no-such-bucket\"", "s3.bucket"];
    fails(&missing, StoreErrorKind::Denied, &words).await;
    let store = store(&missing);
    for error in [
        store.list("x/").await.expect_err("no bucket"),
        store.stat("x").await.expect_err("no bucket"),
        store.get("x", 1).await.expect_err("no bucket"),
    ] {
        expect(&error, StoreErrorKind::Denied, &words);
    }
    // Who may is told what it is, and so is everyone by services that hide nothing.
    let seen = S3Destination {
        bucket: missing.bucket.clone(),
        ..bucket_as("LISTER")
    };
    let words = [
        "there is no bucket \"no-such-bucket\"",
        "create it",
        "s3.bucket",
    ];
    fails(&seen, StoreErrorKind::Misconfigured, &words).await;
    let error = super::support::store(&seen)
        .stat("x")
        .await
        .expect_err("no bucket");
    expect(&error, StoreErrorKind::Misconfigured, &words);
    let server = Canned::s3("404 Not Found", "", "NoSuchBucket", "").await;
    fails(
        &bucket_at(server.port),
        StoreErrorKind::Misconfigured,
        &[
            "there is no bucket \"nora\" at 127.0.0.1:",
            "create it",
            "s3.bucket",
        ],
    )
    .await;
}

#[tokio::test]
async fn another_region_or_address() {
    let elsewhere = Canned::s3(
        "301 Moved Permanently",
        "x-amz-bucket-region: eu-central-1\r\n",
        "PermanentRedirect",
        "<Endpoint>nora.s3.eu-central-1.amazonaws.com</Endpoint>",
    )
    .await;
    fails(
        &bucket_at(elsewhere.port),
        StoreErrorKind::Misconfigured,
        &["is in region eu-central-1", "set s3.region to eu-central-1"],
    )
    .await;
    assert_eq!(elsewhere.asked(), 1, "not followed, not tried again");
    let malformed = Canned::s3(
        "400 Bad Request",
        "",
        "AuthorizationHeaderMalformed",
        "<Message>the region 'us-east-1' is wrong; expecting 'eu-west-1'</Message>",
    )
    .await;
    fails(
        &bucket_at(malformed.port),
        StoreErrorKind::Misconfigured,
        &["eu-west-1", "s3.region"],
    )
    .await;
    // R2, given the address of AWS: told without asking anyone.
    let mut r2 = as_r2(bucket());
    r2.endpoint = "https://s3.us-east-1.amazonaws.com".to_owned();
    let error = try_store(Kind::R2(r2.clone())).expect_err("no account of R2");
    expect(
        &error,
        StoreErrorKind::Misconfigured,
        &[
            "r2.endpoint",
            "s3.us-east-1.amazonaws.com",
            "r2.cloudflarestorage.com",
        ],
    );
    r2.endpoint = String::new();
    let error = try_store(Kind::R2(r2)).expect_err("no address");
    expect(
        &error,
        StoreErrorKind::Misconfigured,
        &["r2.endpoint is not set"],
    );
}

#[tokio::test]
async fn clocks_that_differ() {
    let skewed = Canned::s3(
        "403 Forbidden",
        "",
        "RequestTimeTooSkewed",
        "<ServerTime>2020-01-01T00:00:00Z</ServerTime>",
    )
    .await;
    let year = jiff::Timestamp::now()
        .strftime("here it is %Y-")
        .to_string();
    fails(
        &bucket_at(skewed.port),
        StoreErrorKind::Refused,
        &["the clocks", "2020-01-01T00:00:00Z", &year, "NTP"],
    )
    .await;
    assert_eq!(skewed.asked(), 1, "told at once");
}

#[tokio::test]
async fn no_room() {
    for (status, code) in [
        ("403 Forbidden", "QuotaExceeded"),
        ("507 Insufficient Storage", "XMinioStorageFull"),
    ] {
        let full = Canned::s3(status, "", code, "").await;
        fails(
            &bucket_at(full.port),
            StoreErrorKind::Full,
            &["\"nora\"", code],
        )
        .await;
        assert_eq!(full.asked(), 1, "{code}: told at once");
    }
}

#[tokio::test]
async fn what_a_service_says_is_shown_without_what_is_secret() {
    let secret = variable("NORA_TEST_S3_SECRET_ACCESS_KEY");
    let id = variable("NORA_TEST_S3_ACCESS_KEY_ID");
    let rest = format!(
        "<Message>bad {secret} of {id}</Message><AWSAccessKeyId>{id}</AWSAccessKeyId>\
         <StringToSign>{secret}</StringToSign>"
    );
    for (status, code) in [
        ("400 Bad Request", "InvalidArgument"),
        ("403 Forbidden", "SignatureDoesNotMatch"),
        ("403 Forbidden", "AccessDenied"),
        ("403 Forbidden", "OfItsOwn"),
        ("501 Not Implemented", "NotImplemented"),
    ] {
        let server = Canned::s3(status, "", code, &rest).await;
        let error = store(&bucket_at(server.port))
            .check()
            .await
            .expect_err(code);
        assert_no_secret(&format!("{error} {error:?}"));
    }
}

#[tokio::test]
async fn a_server_that_is_away_for_a_moment_is_met_again() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = free.local_addr().expect("address");
    drop(free);
    let store = store(&bucket_at(address.port()));
    let check = tokio::spawn(async move { store.check().await });
    // Not an event that could be waited for: the refusals are the system's.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let listener = TcpListener::bind(address).await.expect("bind again");
    let carry = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(super::support::server()).await;
                let mut server = server.expect("connect");
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    check.await.expect("no panic").expect("met again");
    carry.abort();
}
