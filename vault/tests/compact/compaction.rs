//! What a compaction does when nothing fails.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use vault::{
    CompactSpec, VaultError,
    store::testing::{Calls, Fault, FaultPlan, MemoryStore, Rule, When},
};

use super::support::{
    GRACE, HOUR, MINUTE, T0, assert_holds, at, back_up, compact, compact_as, compact_fully, delete,
    folder, new_store, noise, open, packs, restore, spec, tree,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deleted_backup_alone_needed_waits_and_then_goes() {
    let store = new_store().await;
    let (one, two) = (
        tree([("a", 1, 300_000), ("shared", 2, 200_000)]),
        tree([("b", 3, 100_000), ("shared", 2, 200_000)]),
    );
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    let second = back_up(&store, "two", 1, &two).await.unwrap();
    let idle = compact(&store, T0 + HOUR).await.unwrap();
    assert_eq!((idle.retired_packs, idle.waiting_packs), (0, 0), "{idle:?}");
    assert_holds(
        &store,
        &[(first, one), (second.clone(), two.clone())],
        "idle",
    )
    .await;

    delete(&store, "one").await;
    let now_ms = T0 + 2 * HOUR;
    let report = compact(&store, now_ms).await.unwrap();
    // The first backup's pack is less than half live now.
    assert_eq!(
        (report.rewritten_packs, report.retired_packs),
        (1, 1),
        "{report:?}"
    );
    assert_eq!(
        (report.removed_packs, report.waiting_packs),
        (0, 1),
        "{report:?}"
    );
    let next_ms = report.next_removal_ms.unwrap();
    assert!((now_ms + HOUR..now_ms + HOUR + MINUTE).contains(&next_ms));
    assert_eq!(packs(&store), 3);
    let kept = [(second, two)];
    assert_holds(&store, &kept, "while it waits").await;

    let early = compact(&store, now_ms + HOUR - MINUTE).await.unwrap();
    assert_eq!(
        (early.removed_packs, early.waiting_packs),
        (0, 1),
        "{early:?}"
    );
    let pinned = CompactSpec {
        may_remove: false,
        ..spec(next_ms)
    };
    let pinned = compact_as(&store, pinned).await.unwrap();
    assert_eq!(
        (pinned.removed_packs, pinned.waiting_packs),
        (0, 1),
        "{pinned:?}"
    );
    let last = compact(&store, next_ms).await.unwrap();
    assert_eq!((last.removed_packs, last.waiting_packs), (1, 0), "{last:?}");
    assert!(last.removed_bytes > 300_000 && last.next_removal_ms.is_none());
    assert_eq!(packs(&store), 2);
    assert_holds(&store, &kept, "after removal").await;
    let bytes: usize = store
        .names()
        .iter()
        .map(|n| store.object(n).unwrap().len())
        .sum();
    assert_eq!(last.vault_bytes, bytes as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_manifests_go_first_whatever_is_in_them() {
    let store = new_store().await;
    let one = tree([("a", 1, 50_000)]);
    let kept = back_up(&store, "one", 2, &one).await.unwrap();
    store.set_object("vaults/a1/backups/one.1", Some(Bytes::from_static(b"torn")));
    let garbage = CompactSpec {
        garbage: HashSet::from([at("one", 1), at("never-written", 1)]),
        ..spec(T0 + HOUR)
    };
    let report = compact_as(&store, garbage).await.unwrap();
    assert_eq!((report.removed_manifests, report.removed_bytes), (1, 4));
    assert_eq!(folder(&store, "backups"), ["vaults/a1/backups/one.2"]);
    assert_holds(&store, &[(kept, one)], "after it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_packs_and_indexes_are_put_together() {
    let store = new_store().await;
    let mut backups = Vec::new();
    let mut growing = tree([]);
    for n in 0..12u64 {
        growing.insert(format!("file-{n:02}"), noise(n, 30_000));
        let at = back_up(&store, &format!("b{n}"), 1, &growing)
            .await
            .unwrap();
        backups.push((at, growing.clone()));
    }
    assert_eq!((packs(&store), folder(&store, "indexes").len()), (12, 12));
    let report = compact_fully(&store, T0 + HOUR).await.unwrap();
    assert_eq!(
        (report.rewritten_packs, report.removed_packs),
        (12, 12),
        "{report:?}"
    );
    assert_eq!((packs(&store), folder(&store, "indexes").len()), (1, 1));
    assert_holds(&store, &backups, "together").await;
    let again = compact_fully(&store, T0 + 2 * HOUR).await.unwrap();
    assert_eq!(
        (again.rewritten_packs, again.retired_packs),
        (0, 0),
        "{again:?}"
    );
    let settled = names(&store);
    compact_fully(&store, T0 + 3 * HOUR).await.unwrap();
    assert_eq!(names(&store), settled, "there is nothing more to do");
    // The merged pack is what the next backup builds upon.
    back_up(&store, "next", 1, &growing).await.unwrap();
    assert!(packs(&store) <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_and_long_lists_stay_whole() {
    let store = new_store().await;
    let mut one = tree([("large", 7, 60_000_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    let packs_before = packs(&store);
    one.get_mut("large").unwrap()[40_000_000..55_000_000].copy_from_slice(&noise(8, 15_000_000));
    let second = back_up(&store, "two", 1, &one).await.unwrap();
    delete(&store, "one").await;
    let report = compact_fully(&store, T0 + HOUR).await.unwrap();
    assert!(
        report.removed_packs > 0 && report.removed_packs < packs_before as u64,
        "{report:?}"
    );
    assert_holds(&store, &[(second, one)], "after it").await;
    assert!(restore(&store, &first).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_does_not_build_upon_retired_packs() {
    let store = new_store().await;
    let one = tree([("a", 1, 200_000)]);
    back_up(&store, "one", 1, &one).await.unwrap();
    delete(&store, "one").await;
    let report = compact(&store, T0 + HOUR).await.unwrap();
    assert_eq!((report.retired_packs, packs(&store)), (1, 1));
    let second = back_up(&store, "two", 1, &one).await.unwrap();
    assert_eq!(packs(&store), 2, "the same contents are stored anew");
    let report = compact(&store, T0 + 3 * HOUR).await.unwrap();
    assert_eq!(
        (report.removed_packs, report.rewritten_packs),
        (1, 0),
        "{report:?}"
    );
    assert_holds(&store, &[(second, one)], "after removal").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_attempt_left_is_left_for_the_next_one_and_goes_later() {
    let store = new_store().await;
    let one = tree([("a", 1, 200_000)]);
    let no_index = Rule::on("indexes/", Calls::Writes, When::From(0), Fault::Error);
    let failing = store.client(FaultPlan::once(no_index));
    back_up(&failing, "one", 1, &one).await.unwrap_err();
    assert_eq!((packs(&store), folder(&store, "indexes").len()), (1, 0));

    let young = compact(&store, T0 + MINUTE).await.unwrap();
    assert_eq!(
        (young.retired_packs, young.waiting_packs),
        (0, 1),
        "{young:?}"
    );
    assert_eq!(young.next_removal_ms, Some(T0 + HOUR));
    let before = store.object(&folder(&store, "packs")[0]);
    let retry = store.fork(FaultPlan::default());
    let at = back_up(&retry, "one", 2, &one).await.unwrap();
    // Only the last few kilobytes of the entry stream may be new.
    let stored: usize = folder(&retry, "packs")
        .iter()
        .map(|n| retry.object(n).unwrap().len())
        .sum();
    assert!(stored < before.unwrap().len() + 20_000, "{stored}");
    assert_holds(&retry, &[(at, one)], "the retry").await;

    let old = compact(&store, T0 + 2 * HOUR).await.unwrap();
    assert_eq!((old.retired_packs, old.waiting_packs), (1, 1), "{old:?}");
    let gone = compact(&store, T0 + 4 * HOUR).await.unwrap();
    assert_eq!((gone.removed_packs, packs(&store)), (1, 0), "{gone:?}");
}

/// What the store holds, without the bytes.
fn names(store: &MemoryStore) -> Vec<String> {
    store.names()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_while_a_manifest_or_its_entries_cannot_be_read() {
    let store = new_store().await;
    back_up(&store, "one", 1, &tree([("a", 1, 100_000)]))
        .await
        .unwrap();
    back_up(&store, "two", 1, &tree([("b", 2, 100_000)]))
        .await
        .unwrap();
    back_up(&store, "dead", 1, &tree([("c", 3, 100_000)]))
        .await
        .unwrap();
    delete(&store, "dead").await;

    let flip = |name: &str, at: usize| {
        let damaged = store.fork(FaultPlan::default());
        let mut bytes = damaged.object(name).unwrap().to_vec();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 1;
        damaged.set_object(name, Some(Bytes::from(bytes)));
        damaged
    };
    let manifest = flip("vaults/a1/backups/one.1", 100);
    let before = names(&manifest);
    let error = compact_fully(&manifest, T0 + HOUR).await.unwrap_err();
    assert!(error.to_string().contains("backups/one.1"), "{error}");
    assert_eq!(names(&manifest), before);

    for name in folder(&store, "packs") {
        // The entry stream's segment is the last before the table of contents.
        let length = store.object(&name).unwrap().len();
        let damaged = flip(&name, length - 400);
        let before = names(&damaged);
        match compact_fully(&damaged, T0 + HOUR).await {
            Err(error) => {
                let object = error.to_string();
                assert!(
                    object.contains("packs/") || object.contains("backups/"),
                    "{error}"
                );
                assert_eq!(names(&damaged), before);
            }
            Ok(report) => assert_eq!(report.removed_packs, 1, "the dead pack was hit"),
        }
        let gone = store.fork(FaultPlan::default());
        gone.set_object(&name, None);
        let before = names(&gone);
        if let Err(error) = compact_fully(&gone, T0 + HOUR).await {
            assert!(
                error.to_string().contains(&name["vaults/a1/".len()..]),
                "{error}"
            );
            assert_eq!(names(&gone), before);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_packs_that_backups_need_stay_and_the_rest_goes() {
    let store = new_store().await;
    let big = tree([("a", 1, 20_000_000), ("b", 2, 20_000_000)]);
    back_up(&store, "one", 1, &big).await.unwrap();
    let small = tree([("a", 1, 20_000_000)]);
    let second = back_up(&store, "two", 1, &small).await.unwrap();
    delete(&store, "one").await;
    // Each pack in turn is cut short: it can't be read, and what it held is unknown.
    for name in folder(&store, "packs") {
        let damaged = store.fork(FaultPlan::default());
        let bytes = damaged.object(&name).unwrap();
        damaged.set_object(&name, Some(bytes.slice(..bytes.len() / 2)));
        let intact = restore(&damaged, &second).await.is_ok();
        for hours in [3, 5, 7] {
            let _ = compact(&damaged, T0 + hours * HOUR).await;
        }
        assert_eq!(damaged.object(&name).is_none(), intact, "{name}");
        if intact {
            assert_holds(&damaged, &[(second.clone(), small.clone())], "intact").await;
        } else {
            // The pack comes back from a copy, and everything is there again.
            damaged.set_object(&name, Some(bytes));
            assert_holds(&damaged, &[(second.clone(), small.clone())], "healed").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_are_no_packs_or_indexes_go_when_nothing_needs_them() {
    let store = new_store().await;
    let one = tree([("a", 1, 100_000)]);
    let at = back_up(&store, "one", 1, &one).await.unwrap();
    let index = folder(&store, "indexes").remove(0);
    let torn = store.object(&index).unwrap().slice(..70);
    store.set_object(&index, Some(torn));
    let junk = format!("vaults/a1/packs/{}", "ab".repeat(32));
    store.set_object(&junk, Some(Bytes::from_static(b"torn")));
    let young = compact(&store, T0 + MINUTE).await.unwrap();
    assert_eq!(
        (young.retired_packs, young.waiting_packs),
        (0, 1),
        "{young:?}"
    );
    assert!(store.object(&index).is_none(), "the torn index is replaced");
    assert_eq!(folder(&store, "indexes").len(), 1);
    let old = compact(&store, T0 + 2 * HOUR).await.unwrap();
    assert_eq!((old.retired_packs, old.removed_packs), (1, 0), "{old:?}");
    let gone = compact(&store, T0 + 4 * HOUR).await.unwrap();
    assert_eq!(
        (gone.removed_packs, store.object(&junk)),
        (1, None),
        "{gone:?}"
    );
    assert_holds(&store, &[(at, one)], "after it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_under_two_data_keys_stay_readable() {
    // Two first attempts each made a key and wrote under it.
    let (store, other) = (new_store().await, new_store().await);
    let (one, two) = (
        tree([("a", 1, 300_000), ("shared", 2, 30_000)]),
        tree([("shared", 2, 30_000)]),
    );
    let mut kept = Vec::new();
    for (store, name) in [(&store, "x"), (&other, "y")] {
        back_up(store, name, 1, &one).await.unwrap();
        let id = format!("{name}-kept");
        kept.push((back_up(store, &id, 1, &two).await.unwrap(), two.clone()));
        delete(store, name).await;
    }
    for name in other.names() {
        store.set_object(&name, other.object(&name));
    }
    assert_holds(&store, &kept, "together").await;
    let report = compact_fully(&store, T0 + HOUR).await.unwrap();
    assert_eq!(
        (report.rewritten_packs, report.removed_packs),
        (2, 2),
        "{report:?}"
    );
    assert_holds(&store, &kept, "copied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_compaction_changes_nothing_more() {
    let store = new_store().await;
    back_up(&store, "one", 1, &tree([("a", 1, 100_000)]))
        .await
        .unwrap();
    delete(&store, "one").await;
    let before = names(&store);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let vault = open(store.clone()).await.unwrap();
    let error = vault.compact(spec(T0 + 9 * GRACE as i64), cancel, Arc::default());
    assert!(matches!(error.await, Err(VaultError::Canceled)));
    assert_eq!(names(&store), before);
}
