//! What every destination must do.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::super::Store;
use crate::error::StoreErrorKind;

/// Checks that a store, empty at first, keeps the contract of [`Store`].
///
/// # Panics
///
/// When it does not.
pub async fn contract(store: &dyn Store) {
    whole_objects(store).await;
    parts(store).await;
    listings(store).await;
    removal(store).await;
    several_at_once(store).await;
    store.check().await.expect("check");
    store.sweep(3_600_000).await.expect("sweep");
    let names = names(store, "c/").await;
    assert!(names.is_empty(), "left behind: {names:?}");
}

async fn names(store: &dyn Store, prefix: &str) -> BTreeSet<String> {
    let listed = store.list(prefix).await.expect("list");
    let names: BTreeSet<String> = listed.iter().map(|o| o.name.clone()).collect();
    assert_eq!(names.len(), listed.len(), "an object is listed twice");
    names
}

async fn whole_objects(store: &dyn Store) {
    let large: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    for (name, bytes) in [
        ("c/empty", vec![]),
        ("c/one", vec![7]),
        ("c/deep/er/still.1", b"text".to_vec()),
        ("c/large", large),
    ] {
        store
            .put(name, Bytes::from(bytes.clone()))
            .await
            .expect("put");
        assert_eq!(store.get(name, 10_000_000).await.expect("get"), bytes);
        let length = bytes.len() as u64;
        assert_eq!(store.stat(name).await.expect("stat"), Some(length));
        assert_eq!(store.get(name, length).await.expect("get"), bytes);
        if length > 0 {
            let error = store.get(name, length - 1).await.expect_err("too long");
            assert_eq!(error.kind, StoreErrorKind::Corrupt, "{error}");
        }
    }
    store
        .put("c/one", Bytes::from_static(b"other"))
        .await
        .expect("put again");
    assert_eq!(store.get("c/one", 100).await.expect("get"), "other");
    let error = store.get("c/none", 100).await.expect_err("not there");
    assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("c/none"), "{error}");
    assert_eq!(store.stat("c/none").await.expect("stat"), None);
}

async fn parts(store: &dyn Store) {
    store
        .put("c/part", Bytes::from_static(b"0123456789"))
        .await
        .expect("put");
    let part = |offset, length| store.get_range("c/part", offset, length);
    assert_eq!(part(0, 10).await.expect("all"), "0123456789");
    assert_eq!(part(3, 4).await.expect("a part"), "3456");
    assert_eq!(part(9, 1).await.expect("the end"), "9");
    assert_eq!(part(8, 100).await.expect("over the end"), "89");
    assert_eq!(part(10, 5).await.expect("beyond the end"), "");
    assert_eq!(part(99, 5).await.expect("beyond the end"), "");
    let error = store
        .get_range("c/none", 0, 1)
        .await
        .expect_err("not there");
    assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
}

async fn listings(store: &dyn Store) {
    for name in [
        "c/l/b",
        "c/l/a",
        "c/l/a.1",
        "c/l/under/x",
        "c/l/under/y",
        "c/lx",
    ] {
        store
            .put(name, Bytes::from_static(b"abc"))
            .await
            .expect("put");
    }
    let listed = names(store, "c/l/").await;
    assert_eq!(
        listed,
        ["c/l/a", "c/l/a.1", "c/l/b"].map(str::to_owned).into(),
        "directly under the prefix"
    );
    for object in store.list("c/l/").await.expect("list") {
        assert_eq!(object.bytes, 3);
        if let Some(time) = object.modify_time_ms {
            assert!(time > 1_500_000_000_000, "{time}");
        }
    }
    assert_eq!(
        store.list_folders("c/l/").await.expect("folders"),
        ["under"]
    );
    assert!(names(store, "c/nowhere/").await.is_empty());
    let none: Vec<String> = store.list_folders("c/nowhere/").await.expect("folders");
    assert!(none.is_empty());
}

async fn removal(store: &dyn Store) {
    store
        .delete("c/none")
        .await
        .expect("not there is removed already");
    store
        .delete("c/nowhere/none")
        .await
        .expect("not there is removed already");
    for name in [
        "c/empty",
        "c/one",
        "c/deep/er/still.1",
        "c/large",
        "c/part",
        "c/l/b",
        "c/l/a",
        "c/l/a.1",
        "c/l/under/x",
        "c/l/under/y",
        "c/lx",
    ] {
        store.delete(name).await.expect("delete");
        assert_eq!(store.stat(name).await.expect("stat"), None, "{name}");
        store.delete(name).await.expect("delete again");
    }
}

async fn several_at_once(store: &dyn Store) {
    let numbers = 0..16u8;
    let put = |n: u8| async move {
        let bytes = Bytes::from(vec![n; 100_000]);
        store.put(&format!("c/m/{n}"), bytes).await.expect("put");
    };
    futures::future::join_all(numbers.clone().map(put)).await;
    for n in numbers {
        let name = format!("c/m/{n}");
        assert_eq!(
            store.get(&name, 1_000_000).await.expect("get"),
            vec![n; 100_000]
        );
        store.delete(&name).await.expect("delete");
    }
}
