//! The contract of destinations.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use proto::backup::v1::{S3Destination, destination::Kind};
use vault::store::testing::{contract, each_call_fails_once};

use super::support::{as_r2, bucket, random, store, try_store};

#[tokio::test]
async fn under_a_prefix() {
    contract(&*store(&bucket())).await;
    let deep = S3Destination {
        prefix: format!("{}/deep/er", bucket().prefix),
        ..bucket()
    };
    contract(&*store(&deep)).await;
}

#[tokio::test]
async fn without_a_prefix() {
    let whole = S3Destination {
        prefix: String::new(),
        ..bucket()
    };
    contract(&*store(&whole)).await;
}

#[tokio::test]
async fn as_a_bucket_of_r2() {
    let r2 = Kind::R2(as_r2(bucket()));
    contract(&*try_store(r2).expect("open")).await;
}

#[tokio::test]
async fn prefixes_hold_what_is_theirs() {
    let (one, other) = (store(&bucket()), store(&bucket()));
    one.put("vaults/a/x", random(10)).await.expect("put");
    assert!(
        other
            .list_folders("vaults/")
            .await
            .expect("list")
            .is_empty()
    );
    assert_eq!(other.stat("vaults/a/x").await.expect("stat"), None);
    other.delete("vaults/a/x").await.expect("delete");
    assert_eq!(one.stat("vaults/a/x").await.expect("stat"), Some(10));
}

#[tokio::test]
async fn names_of_every_sort_that_is_made() {
    let store = store(&bucket());
    // Agents' ids are in names as they are.
    for name in [
        "vaults/a b+c/x",
        "vaults/ä€/x",
        "vaults/%41=&?#'\"/x",
        "vaults/~.-_:@!$*(),;/x",
    ] {
        store
            .put(name, Bytes::from_static(b"here"))
            .await
            .expect("put");
        assert_eq!(store.get(name, 10).await.expect("get"), "here", "{name}");
        let (folder, _) = name.rsplit_once('/').expect("a folder");
        let listed = store.list(&format!("{folder}/")).await.expect("list");
        assert_eq!(listed.len(), 1, "{name}");
        assert_eq!(listed[0].name, name);
    }
    assert_eq!(store.list_folders("vaults/").await.expect("list").len(), 4);
}

#[tokio::test]
async fn large_objects_and_parts_of_them() {
    let store = store(&bucket());
    let bytes = random((20 << 20) + 12_345);
    store.put("packs/large", bytes.clone()).await.expect("put");
    assert_eq!(store.get("packs/large", 1 << 30).await.expect("get"), bytes);
    for (offset, length) in [
        (0, 1),
        (255 * 1024 - 1, 2),
        (5_000_000, 9_000_000),
        (20 << 20, 1 << 20),
        (30 << 20, 1),
    ] {
        let start = bytes.len().min(offset);
        let end = bytes.len().min(offset + length);
        let part = store
            .get_range("packs/large", offset as u64, length as u64)
            .await
            .expect("a part");
        assert_eq!(part, bytes[start..end], "{offset} {length}");
    }
}

#[tokio::test]
async fn a_folder_of_many_objects_is_listed_whole() {
    // More than one page of a listing.
    const OBJECTS: usize = 1100;
    let store = store(&bucket());
    let put = |n: usize| {
        let store = store.clone();
        async move {
            let name = format!("many/{n}");
            store
                .put(&name, Bytes::from_static(b"o"))
                .await
                .expect("put");
        }
    };
    stream::iter(0..OBJECTS).for_each_concurrent(16, put).await;
    store.put("many/folder/x", random(1)).await.expect("put");
    assert_eq!(store.list("many/").await.expect("list").len(), OBJECTS);
    assert_eq!(store.list_folders("many/").await.expect("list"), ["folder"]);
}

#[tokio::test]
async fn a_write_that_is_given_up_leaves_all_or_nothing() {
    let store = store(&bucket());
    store.check().await.expect("check");
    let bytes = random(12 << 20);
    for (n, wait_ms) in [1, 3, 10, 30, 100].into_iter().enumerate() {
        let name = format!("given-up/{n}");
        let put = store.put(&name, bytes.clone());
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), put).await;
        match store.stat(&name).await.expect("stat") {
            None => {}
            Some(length) => assert_eq!(length, bytes.len() as u64, "{wait_ms} ms"),
        }
        store.put(&name, bytes.clone()).await.expect("put again");
        assert_eq!(store.get(&name, 1 << 30).await.expect("get"), bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_which_each_call_fails_once() {
    let failed = each_call_fails_once(store(&bucket())).await;
    assert!(failed > 20, "{failed} calls failed");
}
