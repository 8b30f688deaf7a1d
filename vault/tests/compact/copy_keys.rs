//! The data keys of a copy: what is there never comes to open with less, and what was
//! destroyed stays destroyed.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use vault::{
    Keyring, ManifestRef, RewrapPolicy, Store as _, VaultError, erase, rewrap,
    store::testing::MemoryStore, survey,
};

use super::support::{
    Tree, assert_holds, back_up, copy, copy_with, folder, key, keyring, new_store, tree,
};

async fn rotate(store: &MemoryStore, to: u8, from: u8, policy: RewrapPolicy) {
    let keyring = Keyring::new(key(to), vec![key(from)]);
    rewrap(store, "a1", &keyring, policy, &CancellationToken::new())
        .await
        .unwrap();
}

async fn wrapped_under(store: &MemoryStore) -> Vec<String> {
    let report = survey(store, "a1", &keyring()).await.unwrap();
    let mut ids = report.wrapped_under();
    ids.sort();
    ids
}

fn ids<const N: usize>(keys: [u8; N]) -> Vec<String> {
    let mut ids: Vec<String> = keys.iter().map(|byte| key(*byte).id()).collect();
    ids.sort();
    ids
}

async fn copied() -> (Arc<MemoryStore>, Arc<MemoryStore>, (ManifestRef, Tree)) {
    let (store, target) = (new_store().await, MemoryStore::new());
    let one = tree([("a", 1, 50_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    let report = copy(&store, &target, &first).await.unwrap();
    assert_eq!(report.wrapped_under, ids([5]));
    let data_keys = erase::data_key_ids(&*target, "a1").await.unwrap();
    assert_eq!(report.data_key_ids, data_keys);
    (store, target, (first, one))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_at_the_target_that_is_under_more_keys_stays() {
    let (store, target, first) = copied().await;
    rotate(&target, 6, 5, RewrapPolicy::Add).await;
    let before = target.object(&folder(&target, "keys")[0]);
    let report = copy(&store, &target, &first.0).await.unwrap();
    assert_eq!(target.object(&folder(&target, "keys")[0]), before);
    assert_eq!(report.wrapped_under, ids([5, 6]));
    assert_holds(&target, &[first], "copied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrap_that_the_target_has_retired_does_not_come_back() {
    let (store, target, first) = copied().await;
    rotate(&store, 6, 5, RewrapPolicy::Add).await;
    rotate(&target, 6, 5, RewrapPolicy::Retire).await;
    let keyring = Keyring::new(key(6), vec![key(5)]);
    copy_with(&store, &target, &first.0, &keyring)
        .await
        .unwrap();
    assert_eq!(wrapped_under(&target).await, ids([6]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_missed_a_rotation_gets_the_new_wraps_and_loses_none() {
    let (store, target, first) = copied().await;
    rotate(&store, 6, 5, RewrapPolicy::Retire).await;
    // The old key is configured nowhere any more.
    let keyring = Keyring::new(key(6), vec![]);
    let report = copy_with(&store, &target, &first.0, &keyring)
        .await
        .unwrap();
    assert_eq!(report.wrapped_under, ids([5, 6]));
    assert_eq!(wrapped_under(&store).await, ids([6]));
    assert_holds(&target, &[first], "with the old key as well").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_key_at_the_target_is_mended() {
    let (store, target, first) = copied().await;
    let name = folder(&target, "keys").remove(0);
    let good = target.object(&name).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        target.set_object(&name, Some(Bytes::from(bytes)));
        let done = copy(&store, &target, &first.0).await;
        done.unwrap_or_else(|error| panic!("byte {at}: {error}"));
        assert_holds(&target, std::slice::from_ref(&first), &format!("byte {at}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_data_key_at_the_target_is_kept_with_what_it_seals() {
    let (store, target) = (new_store().await, new_store().await);
    let own = tree([("own", 7, 50_000)]);
    let own = (back_up(&target, "own", 1, &own).await.unwrap(), own);
    let one = tree([("a", 1, 50_000), ("own", 7, 50_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    copy(&store, &target, &first).await.unwrap();
    assert_eq!(folder(&target, "keys").len(), 2);
    let all = [own, (first, one)];
    assert_holds(&target, &all, "copied").await;
    // Backups go on there, under the older key.
    let next = tree([("own", 7, 50_000), ("next", 8, 1_000)]);
    let next = (back_up(&target, "next", 1, &next).await.unwrap(), next);
    assert_holds(&target, &[all, [next.clone(), next]].concat(), "and on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn destroyed_keys_are_not_brought_back_beside_data() {
    let (store, target, first) = copied().await;
    erase::destroy_keys(&*target, "a1").await.unwrap();
    let error = copy(&store, &target, &first.0).await.unwrap_err();
    assert_eq!(error.reason(), "KEYS_GONE");
    assert!(matches!(&error, VaultError::Target(_)), "{error}");
    assert_eq!(folder(&target, "keys"), [""; 0]);
    // Once the rest is gone too, it begins anew.
    erase::erase(&*target, "a1").await.unwrap();
    copy(&store, &target, &first.0).await.unwrap();
    assert_holds(&target, &[first], "anew").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_configured_is_named() {
    let (store, target, first) = copied().await;
    rotate(&store, 6, 5, RewrapPolicy::Retire).await;
    let before = target.names();
    let error = copy(&store, &target, &first.0).await.unwrap_err();
    assert_eq!(error.reason(), "KEY_NOT_CONFIGURED");
    assert!(error.to_string().contains(&key(6).id()), "{error}");
    assert_eq!(target.names(), before);
    // At the target alone: a vault there that is under a key of its own.
    let (store, target, _) = copied().await;
    rotate(&target, 7, 5, RewrapPolicy::Retire).await;
    let name = folder(&target, "keys").remove(0);
    let elsewhere = MemoryStore::new();
    let other = format!("vaults/a1/keys/{}", "ab".repeat(16));
    elsewhere
        .put(&other, target.object(&name).unwrap())
        .await
        .unwrap();
    let at = back_up(&store, "two", 1, &tree([("b", 2, 100)]))
        .await
        .unwrap();
    let error = copy(&store, &elsewhere, &at).await.unwrap_err();
    assert!(matches!(&error, VaultError::Target(_)), "{error}");
}
