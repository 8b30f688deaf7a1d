//! Keys that may not do everything: which action is missing, on what.

use vault::error::StoreErrorKind;

use super::support::{bucket, bucket_as, expect, fails, random, store, variable};

/// A key with these rights, on a prefix with one object.
async fn with_one_object(who: &str) -> std::sync::Arc<dyn vault::store::Store> {
    let mut s3 = bucket();
    store(&s3).put("v/x", random(100)).await.expect("put");
    let own = bucket_as(who);
    s3.access_key_id = own.access_key_id;
    s3.secret_access_key = own.secret_access_key;
    store(&s3)
}

fn denied(error: &vault::error::StoreError, action: &str) {
    let name = variable("NORA_TEST_S3_BUCKET");
    let place = if action == "s3:ListBucket" {
        format!("bucket {name}")
    } else {
        format!("{name}/test-")
    };
    let words = format!("may not do {action} on {place}");
    expect(
        error,
        StoreErrorKind::Denied,
        &[&words, "allow it in its policy"],
    );
}

#[tokio::test]
async fn a_key_that_may_only_read() {
    let store = with_one_object("READER").await;
    assert_eq!(store.get("v/x", 100).await.expect("get").len(), 100);
    assert_eq!(store.list("v/").await.expect("list").len(), 1);
    assert_eq!(store.stat("v/none").await.expect("stat"), None);
    let error = store.put("v/y", random(10)).await.expect_err("no right");
    denied(&error, "s3:PutObject");
    // It is there, and may be listed: there is no doubt about the bucket.
    assert!(!error.to_string().contains("no bucket"), "{error}");
    denied(
        &store.delete("v/x").await.expect_err("no right"),
        "s3:DeleteObject",
    );
    assert_eq!(store.stat("v/x").await.expect("still there"), Some(100));
    fails(
        &bucket_as("READER"),
        StoreErrorKind::Denied,
        &["s3:PutObject"],
    )
    .await;
}

#[tokio::test]
async fn a_key_that_may_only_write() {
    let store = with_one_object("WRITER").await;
    denied(
        &store.get("v/x", 100).await.expect_err("no right"),
        "s3:GetObject",
    );
    denied(
        &store.get_range("v/x", 0, 1).await.expect_err("no right"),
        "s3:GetObject",
    );
    denied(
        &store.stat("v/x").await.expect_err("no right"),
        "s3:GetObject",
    );
    denied(
        &store.list("v/").await.expect_err("no right"),
        "s3:ListBucket",
    );
    // What can't be looked at does not count as written.
    denied(
        &store.put("v/y", random(10)).await.expect_err("no right"),
        "s3:GetObject",
    );
}

#[tokio::test]
async fn a_key_that_may_not_list() {
    let store = with_one_object("NO_LIST").await;
    assert_eq!(store.get("v/x", 100).await.expect("get").len(), 100);
    store.put("v/x", random(10)).await.expect("put");
    denied(
        &store.list("v/").await.expect_err("no right"),
        "s3:ListBucket",
    );
    denied(
        &store.list_folders("").await.expect_err("no right"),
        "s3:ListBucket",
    );
}
