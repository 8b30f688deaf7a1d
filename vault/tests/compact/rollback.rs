//! A destination that serves an old state, or another one, is found out where the
//! caller knows better, and nothing is lost by believing it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use vault::{
    BackupSpec, CompactSpec, KeyEncryptionKey, Keyring, ManifestRef, RewrapPolicy, Store, Vault,
    VaultError, VaultSettings,
    store::testing::{Call, Calls, Fault, FaultPlan, MemoryStore, Rule, When},
};

use super::support::{
    HOUR, T0, assert_holds, back_up, compact_as, new_store, open, restore, spec, tree,
};

fn expecting(expected: &[&ManifestRef], now_ms: i64) -> CompactSpec {
    CompactSpec {
        expected: expected.iter().copied().cloned().collect(),
        ..spec(now_ms)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_without_a_known_backup_ends_a_compaction_before_it_does_anything() {
    let store = new_store().await;
    let one = tree([("a", 1, 200_000)]);
    let two = tree([("b", 2, 200_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    let second = back_up(&store, "two", 1, &two).await.unwrap();
    let manifest = store.object("vaults/a1/backups/two.1");
    store.set_object("vaults/a1/backups/two.1", None);
    let before = store.names();
    let error = compact_as(&store, expecting(&[&first, &second], T0 + HOUR)).await;
    let error = error.unwrap_err();
    assert_eq!(error.reason(), "VAULT_ROLLED_BACK");
    let words = error.to_string();
    assert!(
        words.contains("backups/two.1") && words.contains("delete the backups that are lost"),
        "{words}"
    );
    assert_eq!(store.names(), before);
    // It comes back, and everything is there.
    store.set_object("vaults/a1/backups/two.1", manifest);
    compact_as(&store, expecting(&[&first, &second], T0 + HOUR))
        .await
        .unwrap();
    assert_holds(&store, &[(first, one), (second, two)], "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_listings_of_backups_never_cost_one() {
    for seed in 0..40 {
        let store = new_store().await;
        let trees = [1, 2, 3].map(|n| tree([("a", n, 60_000), ("b", n + 9, 30_000)]));
        let mut known = Vec::new();
        for (n, files) in trees.iter().enumerate() {
            let at = back_up(&store, &format!("b{n}"), 1, files).await.unwrap();
            known.push((at, files.clone()));
        }
        let plan = FaultPlan {
            seed,
            rules: vec![Rule::new(
                Calls::Only(Call::List),
                When::Chance(0.5),
                Fault::Stale,
            )],
            ..FaultPlan::default()
        };
        let expected: Vec<&ManifestRef> = known.iter().map(|(at, _)| at).collect();
        for hours in [1, 3, 5] {
            store.set_plan(plan.clone());
            let spec = expecting(&expected, T0 + hours * HOUR);
            if let Err(error) = compact_as(&store, spec).await {
                let reason = error.reason();
                assert!(
                    [
                        "VAULT_ROLLED_BACK",
                        "OBJECT_MISSING",
                        "OBJECT_CORRUPT",
                        "AGENT_BUSY"
                    ]
                    .contains(&reason),
                    "seed {seed}: {error}"
                );
            }
            store.set_plan(FaultPlan::default());
            assert_holds(&store, &known, &format!("seed {seed}, {hours} h")).await;
        }
    }
}

/// The same backup, made twice on forks of one vault: two manifests of one name.
async fn two_states() -> (Arc<MemoryStore>, ManifestRef, Arc<MemoryStore>) {
    let store = new_store().await;
    let other = store.fork(FaultPlan::default());
    back_up(&store, "one", 1, &tree([("a", 1, 50_000)]))
        .await
        .unwrap();
    let newer = back_up(&other, "one", 1, &tree([("a", 2, 50_000)])).await;
    (store, newer.unwrap(), other)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_manifest_under_a_known_name_is_named_with_what_to_do() {
    let (old, known, right) = two_states().await;
    assert!(restore(&right, &known).await.is_ok());
    let error = restore(&old, &known).await.unwrap_err();
    assert_eq!(error.reason(), "OBJECT_REPLAYED");
    let words = error.to_string();
    assert!(
        words.contains("backups/one.1") && words.contains("bring back"),
        "{words}"
    );
    let error = compact_as(&old, expecting(&[&known], T0 + HOUR)).await;
    assert_eq!(error.unwrap_err().reason(), "OBJECT_REPLAYED");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_backup_goes_on_with_the_known_number_and_says_what_is_wrong() {
    let (old, known, _) = two_states().await;
    let lost = ManifestRef {
        backup_id: "never-there".to_owned(),
        ..known.clone()
    };
    for (id, previous, reason) in [
        ("two", known, "OBJECT_REPLAYED"),
        ("three", lost, "OBJECT_MISSING"),
    ] {
        let vault = open(old.clone()).await.unwrap();
        let spec = BackupSpec {
            backup_id: id.to_owned(),
            attempt: 1,
            previous: Some(previous.clone()),
            previous_sequence: Some(41),
            ..BackupSpec::default()
        };
        let writer = vault.begin_backup(spec, CancellationToken::new(), Arc::default());
        let writer = writer.await.unwrap();
        assert_eq!(writer.previous_fault().unwrap().reason(), reason);
        let finish = tokio::task::spawn_blocking(move || writer.finish(T0));
        let done = finish.await.unwrap().unwrap();
        assert_eq!(done.sequence, 42);
        assert_eq!(done.warnings.len(), 1, "{:?}", done.warnings);
        let (manifest, _) = vault.read_manifest(&done.manifest).await.unwrap();
        let digest = previous.digest.unwrap();
        assert_eq!(manifest.previous_digest, digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_pack_or_another_one_under_its_name_is_refused() {
    let store = new_store().await;
    let one = back_up(&store, "one", 1, &tree([("a", 1, 50_000)]))
        .await
        .unwrap();
    let packs = |store: &MemoryStore| -> Vec<String> {
        let names = store.names().into_iter();
        names.filter(|name| name.contains("/packs/")).collect()
    };
    let mine = packs(&store);
    back_up(&store, "two", 1, &tree([("a", 2, 50_000)]))
        .await
        .unwrap();
    let other = packs(&store).into_iter().find(|name| !mine.contains(name));
    store.set_object(&mine[0], store.object(&other.unwrap()));
    let error = restore(&store, &one).await.unwrap_err();
    assert_eq!(error.reason(), "OBJECT_CORRUPT");
    let id = mine[0].rsplit('/').next().unwrap();
    assert!(error.to_string().contains(id), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_key_object_says_which_key_it_needs() {
    let store = new_store().await;
    let one = back_up(&store, "one", 1, &tree([("a", 1, 5_000)]))
        .await
        .unwrap();
    let name = store
        .names()
        .into_iter()
        .find(|n| n.contains("/keys/"))
        .unwrap();
    let before = store.object(&name);
    let (old, new) = (
        KeyEncryptionKey::new([5; 32]),
        KeyEncryptionKey::new([6; 32]),
    );
    let both = Keyring::new(new.clone(), vec![old.clone()]);
    let cancel = CancellationToken::new();
    vault::rewrap(&*store, "a1", &both, RewrapPolicy::Retire, &cancel)
        .await
        .unwrap();
    let only_new = Keyring::new(new, vec![]);
    let opened = async |store: Arc<MemoryStore>| {
        let store = store as Arc<dyn Store>;
        Vault::open(store, "a1", &only_new, VaultSettings::default()).await
    };
    let vault = opened(store.clone()).await.unwrap();
    vault.read_manifest(&one).await.unwrap();
    // The destination brings the object back as it was before the rotation.
    store.set_object(&name, before);
    let error = opened(store.clone()).await.unwrap_err();
    assert!(
        matches!(error, VaultError::KeyNotConfigured { .. }),
        "{error}"
    );
    assert!(error.to_string().contains(&old.id()), "{error}");
}
