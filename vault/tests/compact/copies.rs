//! A copy at another destination is whole, stands alone, and costs no more than it must,
//! however both vaults are compacted meanwhile.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use vault::{
    CompactSpec, ManifestRef, Meter, Recovery, VaultSettings, VerifyDepth,
    store::testing::{Call, Calls, Fault, FaultPlan, Gate, MemoryStore, Rule, When},
};

use super::support::{
    HOUR, T0, Tree, assert_holds, back_up, compact, compact_as, compact_fully, copy, delete,
    folder, keyring, new_store, noise, open, packs, restore, shorten_indexes, spec, tree,
};

/// Reads every byte of a backup and compares it with its id.
pub async fn verify(store: &Arc<MemoryStore>, at: &ManifestRef) -> Vec<String> {
    let vault = open(store.clone()).await.unwrap();
    let reader = vault.open_backup(at, CancellationToken::new()).await;
    let reader = reader.unwrap();
    let work = move || reader.verify(VerifyDepth::Full, Arc::default());
    let report = tokio::task::spawn_blocking(work).await.unwrap().unwrap();
    assert!(report.bytes > 0 || !report.faults.is_empty());
    report.faults
}

/// The objects that a client has put.
pub fn puts(store: &MemoryStore) -> Vec<String> {
    let puts = store.calls().into_iter();
    puts.filter(|(call, _)| *call == Call::Put)
        .map(|(_, name)| name)
        .collect()
}

fn same_objects(a: &MemoryStore, b: &MemoryStore, of: &str) {
    let objects = |store: &MemoryStore| -> Vec<(String, Option<Bytes>)> {
        let names = folder(store, of).into_iter();
        names.map(|n| (n.clone(), store.object(&n))).collect()
    };
    assert_eq!(objects(a), objects(b), "{of}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_holds_every_byte_with_nothing_of_the_source() {
    let store = new_store().await;
    let one = tree([("a", 1, 300_000), ("b", 2, 60_000), ("c", 3, 20)]);
    let two = tree([("a", 1, 300_000), ("d", 4, 90_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    let second = back_up(&store, "two", 3, &two).await.unwrap();
    let target = MemoryStore::new();
    let report = copy(&store, &target, &first).await.unwrap();
    assert_eq!((report.packs, report.repacked_packs), (1, 0), "{report:?}");
    assert_eq!(folder(&target, "backups"), ["vaults/a1/backups/one.1"]);
    let report = copy(&store, &target, &second).await.unwrap();
    assert_eq!(report.packs, 1, "only what is new: {report:?}");
    // Sealed objects as they are: the digests that a catalog knows hold here too.
    for of in ["keys", "packs", "backups"] {
        same_objects(&store, &target, of);
    }
    let stored: u64 = target
        .names()
        .iter()
        .map(|name| target.object(name).unwrap().len() as u64)
        .sum();
    assert_eq!(report.vault_bytes, stored);
    drop(store);
    let backups = [(first.clone(), one), (second.clone(), two)];
    assert_holds(&target, &backups, "copied").await;
    for at in [&first, &second] {
        assert_eq!(verify(&target, at).await, [""; 0]);
    }
    let recovery = Recovery::new(target.clone(), keyring(), VaultSettings::default());
    let found = recovery.open("a1").await.unwrap();
    let names: BTreeSet<String> = found
        .backups()
        .await
        .unwrap()
        .into_iter()
        .map(|backup| backup.backup_id)
        .collect();
    assert_eq!(names, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_done_again_writes_nothing() {
    let store = new_store().await;
    let one = tree([("a", 1, 300_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    let target = MemoryStore::new();
    copy(&store, &target, &first).await.unwrap();
    let again = target.client(FaultPlan::default());
    let report = copy(&store, &again, &first).await.unwrap();
    assert_eq!((report.packs, report.stored_bytes), (0, 0));
    assert_eq!(puts(&again), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_in_bytes_and_ends_at_the_total() {
    let store = new_store().await;
    let one = tree([("a", 1, 400_000), ("b", 2, 10)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    let meter = Arc::new(Meter::default());
    let vault = open(store.clone()).await.unwrap();
    let cancel = CancellationToken::new();
    let report = vault
        .copy_backup(
            &first,
            MemoryStore::new(),
            &keyring(),
            cancel,
            meter.clone(),
        )
        .await
        .unwrap();
    let load =
        |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert!(load(&meter.bytes_total) > 400_000);
    assert_eq!(load(&meter.bytes_done), load(&meter.bytes_total));
    assert_eq!(
        (load(&meter.entries_done), load(&meter.entries_total)),
        (2, 2)
    );
    assert!(
        report.stored_bytes > load(&meter.bytes_total),
        "index and manifest too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn long_copies_index_as_they_go() {
    let store = new_store().await;
    shorten_indexes(&store);
    let mut backups = Vec::new();
    let mut growing = Tree::new();
    for n in 0..5u64 {
        growing.insert(format!("f{n}"), noise(n, 200_000));
        let at = back_up(&store, &format!("b{n}"), 1, &growing)
            .await
            .unwrap();
        backups.push((at, growing.clone()));
    }
    let target = MemoryStore::new();
    let (last, _) = backups.last().unwrap();
    let vault = open(store.clone()).await.unwrap();
    let cancel = CancellationToken::new();
    let report = vault
        .copy_backup(last, target.clone(), &keyring(), cancel, Arc::default())
        .await
        .unwrap();
    assert_eq!(report.packs, 5);
    assert!(folder(&target, "indexes").len() > 4);
    assert_holds(&target, &backups[4..], "copied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_packs_that_hold_what_the_backup_needs_are_copied() {
    let store = new_store().await;
    back_up(&store, "other", 1, &tree([("x", 9, 200_000)]))
        .await
        .unwrap();
    let one = tree([("a", 1, 100_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    let target = MemoryStore::new();
    copy(&store, &target, &first).await.unwrap();
    assert_eq!((packs(&store), packs(&target)), (2, 1));
    assert_holds(&target, &[(first, one)], "copied").await;
}

/// Both vaults lose backups and are compacted, each in its own way, between copies.
#[tokio::test(flavor = "multi_thread")]
async fn compacted_vaults_go_on_being_copied_and_nothing_is_copied_in_vain() {
    let store = new_store().await;
    let target = MemoryStore::new();
    let kept = ("kept", 2, 60_000);
    let one = tree([("big", 1, 400_000), kept]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    copy(&store, &target, &first).await.unwrap();
    let two = tree([kept, ("new", 3, 50_000)]);
    let second = back_up(&store, "two", 1, &two).await.unwrap();
    copy(&store, &target, &second).await.unwrap();
    for side in [&store, &target] {
        delete(side, "one").await;
        let report = compact(side, T0 + HOUR).await.unwrap();
        assert!(report.rewritten_packs > 0, "{report:?}");
    }
    let live = |side: &MemoryStore| folder(side, "packs");
    assert_ne!(live(&store), live(&target), "each has packs of its own");
    let mut backups = vec![(second, two.clone())];
    for n in 0..4u64 {
        let mut next = two.clone();
        next.insert(format!("n{n}"), noise(10 + n, 20_000));
        let at = back_up(&store, &format!("n{n}"), 1, &next).await.unwrap();
        let before = packs(&target);
        let report = copy(&store, &target, &at).await.unwrap();
        assert_eq!(
            (report.packs, report.repacked_packs),
            (1, 0),
            "{n}: {report:?}"
        );
        assert_eq!(
            packs(&target),
            before + 1,
            "what is there under another pack stays there"
        );
        backups.push((at, next));
        let hours = 3 + 2 * n as i64;
        compact(&store, T0 + hours * HOUR).await.unwrap();
        compact(&target, T0 + hours * HOUR).await.unwrap();
        assert_holds(&target, &backups, &format!("after {n}")).await;
    }
    compact_fully(&target, T0 + 30 * HOUR).await.unwrap();
    assert_holds(&target, &backups, "compacted").await;
}

/// What the target has retired is needed again by a backup that is copied later.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_has_retired_or_removed_comes_back_in_new_packs() {
    for removed in [false, true] {
        let store = new_store().await;
        let target = MemoryStore::new();
        target.set_now_ms(T0);
        let one = tree([("a", 1, 200_000), ("b", 2, 70_000)]);
        let first = back_up(&store, "one", 1, &one).await.unwrap();
        copy(&store, &target, &first).await.unwrap();
        let two = tree([("a", 1, 200_000), ("c", 3, 50_000)]);
        let second = back_up(&store, "two", 1, &two).await.unwrap();
        delete(&target, "one").await;
        let report = compact(&target, T0 + HOUR).await.unwrap();
        assert_eq!(report.retired_packs, 1);
        if removed {
            let report = compact(&target, T0 + 3 * HOUR).await.unwrap();
            assert_eq!(report.removed_packs, 1);
        }
        let report = copy(&store, &target, &second).await.unwrap();
        assert_eq!((report.packs, report.repacked_packs), (1, 1), "{report:?}");
        let backups = [(second, two)];
        assert_holds(&target, &backups, "copied").await;
        let again = target.client(FaultPlan::default());
        let report = copy(&store, &again, &backups[0].0).await.unwrap();
        assert_eq!((report.packs, puts(&again)), (0, Vec::new()), "{report:?}");
        let report = compact(&target, T0 + 9 * HOUR).await.unwrap();
        assert_eq!(report.rewritten_packs, 0, "nothing has to be rescued");
        compact_fully(&target, T0 + 10 * HOUR).await.unwrap();
        assert_holds(&target, &backups, "compacted").await;
        assert_eq!(verify(&target, &backups[0].0).await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_of_the_target_believes_no_more_than_it_is_told() {
    let store = new_store().await;
    let target = MemoryStore::new();
    target.set_now_ms(T0);
    let one = tree([("a", 1, 200_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    copy(&store, &target, &first).await.unwrap();
    let expecting = |at: &ManifestRef| CompactSpec {
        expected: vec![at.clone()],
        ..spec(T0 + HOUR)
    };
    compact_as(&target, expecting(&first)).await.unwrap();
    target.set_object("vaults/a1/backups/one.1", None);
    let error = compact_as(&target, expecting(&first)).await.unwrap_err();
    assert_eq!(error.reason(), "VAULT_ROLLED_BACK");
    copy(&store, &target, &first).await.unwrap();
    compact_as(&target, expecting(&first)).await.unwrap();
    assert_holds(&target, &[(first, one)], "copied again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_lost_is_copied_again() {
    let store = new_store().await;
    let one = tree([("a", 1, 200_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    for of in ["packs", "indexes", "backups"] {
        for cut in [false, true] {
            let target = MemoryStore::new();
            copy(&store, &target, &first).await.unwrap();
            let name = folder(&target, of).remove(0);
            let bytes = target.object(&name).unwrap();
            let left = cut.then(|| bytes.slice(..bytes.len() / 2));
            target.set_object(&name, left);
            copy(&store, &target, &first).await.unwrap();
            let when = format!("{of}, cut: {cut}");
            assert_holds(&target, &[(first.clone(), one.clone())], &when).await;
        }
    }
}

/// The bytes at a place in an object, flipped.
fn damage(store: &MemoryStore, name: &str, at: usize) {
    let mut bytes = store.object(name).unwrap().to_vec();
    bytes[at] ^= 1;
    store.set_object(name, Some(Bytes::from(bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_the_backup_needs_ends_the_copy_and_is_named() {
    let store = new_store().await;
    let one = tree([("a", 1, 200_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    let pack = folder(&store, "packs").remove(0);
    damage(&store, &pack, 5_000);
    let target = MemoryStore::new();
    let error = copy(&store, &target, &first).await.unwrap_err();
    assert_eq!(error.reason(), "OBJECT_CORRUPT");
    let object = pack.strip_prefix("vaults/a1/").unwrap();
    assert!(error.to_string().contains(object), "{error}");
    assert_eq!((packs(&target), folder(&target, "backups")), (0, vec![]));
    store.set_object(&pack, None);
    let error = copy(&store, &target, &first).await.unwrap_err();
    assert_eq!(error.reason(), "OBJECT_MISSING");
    assert!(error.to_string().contains(object), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn around_damage_that_the_backup_does_not_need_it_is_copied() {
    let store = new_store().await;
    // Noise in segments of its own: the first one holds what only `one` needs.
    let one = tree([("a", 1, 4_000_000), ("b", 2, 80_000)]);
    back_up(&store, "one", 1, &one).await.unwrap();
    let two = tree([("b", 2, 80_000), ("c", 3, 50_000)]);
    let second = back_up(&store, "two", 1, &two).await.unwrap();
    let big = folder(&store, "packs")
        .into_iter()
        .max_by_key(|name| store.object(name).unwrap().len())
        .unwrap();
    damage(&store, &big, 5_000);
    let target = MemoryStore::new();
    let report = copy(&store, &target, &second).await.unwrap();
    assert_eq!((report.packs, report.repacked_packs), (1, 1), "{report:?}");
    assert!(target.object(&big).is_none(), "damage is not copied");
    assert_holds(&target, &[(second.clone(), two)], "copied").await;
    assert_eq!(verify(&target, &second).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_not_the_one_that_counts_is_not_copied() {
    let store = new_store().await;
    let first = back_up(&store, "one", 1, &tree([("a", 1, 2_000)]))
        .await
        .unwrap();
    let wrong = ManifestRef {
        digest: Some([7; 32]),
        ..first
    };
    let target = MemoryStore::new();
    let error = copy(&store, &target, &wrong).await.unwrap_err();
    assert_eq!(error.reason(), "OBJECT_REPLAYED");
    assert_eq!(target.names(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_copy_ends_at_once_and_is_none() {
    let store = new_store().await;
    let one = tree([("a", 1, 200_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    let target = MemoryStore::new();
    let gate = Gate::default();
    let fault = Fault::Pause(gate.clone());
    let rule = Rule::on("packs/", Calls::Only(Call::Put), When::Nth(0), fault);
    let slow = target.client(FaultPlan::once(rule));
    let vault = open(store.clone()).await.unwrap();
    let (cancel, keys, at) = (CancellationToken::new(), keyring(), first.clone());
    let token = cancel.clone();
    let work = tokio::spawn(async move {
        vault
            .copy_backup(&at, slow, &keys, token, Arc::default())
            .await
    });
    gate.reached().await;
    cancel.cancel();
    // The gate never opens.
    let error = work.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), "CANCELED");
    assert_eq!(folder(&target, "backups"), [""; 0]);
    copy(&store, &target, &first).await.unwrap();
    assert_eq!(restore(&target, &first).await.unwrap(), one);
}
