//! Buckets of the server of tests/services, and stores on them.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use proto::backup::v1::{Destination, R2Destination, S3Destination, destination::Kind};
use vault::{
    destination::{HostKeysInMemory, open},
    error::{StoreError, StoreErrorKind},
    store::Store,
};

/// A secret that is none.
pub const WRONG: &str = "not-the-secret-of-this-key";

/// Something that the server's `env` tells.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run `make test`, or `eval \"$(target/debug/services up seaweedfs)\"` \
             first"
        )
    })
}

/// The tests' bucket, with a prefix of its own.
pub fn bucket() -> S3Destination {
    S3Destination {
        bucket: variable("NORA_TEST_S3_BUCKET"),
        region: variable("NORA_TEST_S3_REGION"),
        endpoint: variable("NORA_TEST_S3_ENDPOINT"),
        access_key_id: variable("NORA_TEST_S3_ACCESS_KEY_ID"),
        secret_access_key: variable("NORA_TEST_S3_SECRET_ACCESS_KEY"),
        prefix: format!("test-{:016x}", rand::random::<u64>()),
        ..S3Destination::default()
    }
}

/// The same, under a key with other rights: READER (gets and lists), WRITER (puts and
/// deletes), NO_LIST, LISTER (sees which buckets there are).
pub fn bucket_as(who: &str) -> S3Destination {
    S3Destination {
        access_key_id: variable(&format!("NORA_TEST_S3_{who}_ACCESS_KEY_ID")),
        secret_access_key: variable(&format!("NORA_TEST_S3_{who}_SECRET_ACCESS_KEY")),
        ..bucket()
    }
}

/// The same, at another address of this machine.
pub fn bucket_at(port: u16) -> S3Destination {
    S3Destination {
        endpoint: format!("http://127.0.0.1:{port}"),
        ..bucket()
    }
}

/// The same, as one of R2.
pub fn as_r2(s3: S3Destination) -> R2Destination {
    R2Destination {
        bucket: s3.bucket,
        endpoint: s3.endpoint,
        access_key_id: s3.access_key_id,
        secret_access_key: s3.secret_access_key,
        prefix: s3.prefix,
        ..R2Destination::default()
    }
}

/// Where the server listens.
pub fn server() -> SocketAddr {
    let endpoint = variable("NORA_TEST_S3_ENDPOINT");
    let address = endpoint.trim_start_matches("http://");
    address.parse().expect("an address")
}

pub fn try_store(kind: Kind) -> Result<Arc<dyn Store>, StoreError> {
    let destination = Destination {
        destination_id: "s3".to_owned(),
        kind: Some(kind),
        ..Destination::default()
    };
    open(&destination, &(Arc::new(HostKeysInMemory::default()) as _))
}

pub fn store(s3: &S3Destination) -> Arc<dyn Store> {
    try_store(Kind::S3(s3.clone())).expect("open")
}

/// Bytes that are like no others.
pub fn random(length: usize) -> bytes::Bytes {
    let mut bytes = vec![0; length];
    rand::fill(&mut bytes[..]);
    bytes.into()
}

/// Checks a destination that must fail soon, with this kind and these words.
pub async fn fails(s3: &S3Destination, kind: StoreErrorKind, words: &[&str]) -> StoreError {
    let begin = Instant::now();
    let error = match try_store(Kind::S3(s3.clone())) {
        Ok(store) => store.check().await.expect_err("it must fail"),
        Err(error) => error,
    };
    assert!(begin.elapsed() < Duration::from_secs(15), "late: {error}");
    expect(&error, kind, words);
    error
}

pub fn expect(error: &StoreError, kind: StoreErrorKind, words: &[&str]) {
    println!("{error}");
    assert_eq!(error.kind, kind, "{error}");
    let said = error.to_string();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!said.contains("Error {") && !said.contains('\n'), "{said}");
    assert_no_secret(&said);
}

/// Fails when a message holds a secret of the tests.
pub fn assert_no_secret(message: &str) {
    let mut secrets = vec![WRONG.to_owned()];
    for who in ["", "READER_", "WRITER_", "NO_LIST_", "LISTER_"] {
        for what in ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY"] {
            secrets.push(variable(&format!("NORA_TEST_S3_{who}{what}")));
        }
    }
    for secret in secrets {
        assert!(!message.contains(&secret), "a secret is shown: {message}");
    }
}
