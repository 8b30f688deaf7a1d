//! A backup whose calls fail, one by one and by chance.

use std::{collections::HashSet, sync::Arc};

use vault::{
    CompactSpec, ManifestRef, StoreErrorKind, VaultError,
    store::testing::{Call, Calls, Fault, FaultPlan, MemoryStore, Rule, When},
};

use super::support::{
    HOUR, MINUTE, T0, Tree, assert_holds, at, back_up, compact_as, folder, new_store, packs,
    restore, spec, tree,
};

/// A vault with one backup, and a tree that shares a part of it.
async fn one_backup() -> (Arc<MemoryStore>, (ManifestRef, Tree), Tree) {
    let store = new_store().await;
    let one = tree([("a", 1, 60_000), ("b", 2, 60_000)]);
    let first = back_up(&store, "one", 1, &one).await.unwrap();
    let two = tree([("a", 1, 60_000), ("c", 3, 90_000), ("d", 4, 100)]);
    (store, (first, one), two)
}

async fn compact_without(store: &Arc<MemoryStore>, garbage: &[ManifestRef]) {
    let spec = CompactSpec {
        garbage: garbage.iter().cloned().collect::<HashSet<_>>(),
        grace_ms: 0,
        ..spec(T0 + 9 * HOUR)
    };
    compact_as(store, spec).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_of_a_backup_fails_the_next_attempt_succeeds() {
    let (store, first, two) = one_backup().await;
    let clean = store.fork(FaultPlan::default());
    back_up(&clean, "two", 1, &two).await.unwrap();
    compact_without(&clean, &[]).await;
    let calls = clean.calls();
    for (n, (call, name)) in calls.iter().enumerate() {
        let mut faults = vec![
            (When::Nth(n as u64), Fault::Error),
            (When::Nth(n as u64), Fault::Timeout),
            (When::From(n as u64), Fault::Error),
        ];
        if *call == Call::Put {
            let once = [
                Fault::ErrorButDone,
                Fault::TimeoutButDone,
                Fault::Torn,
                Fault::Lost,
                Fault::Late(3),
                Fault::Full,
            ];
            faults.extend(once.map(|fault| (When::Nth(n as u64), fault)));
        }
        for (when, fault) in faults {
            let shown = format!("call {n} ({call:?} {name}), {when:?}: {fault:?}");
            let run = store.fork(FaultPlan::once(Rule::new(Calls::Any, when, fault)));
            let mut backups = vec![first.clone()];
            let attempt = back_up(&run, "two", 1, &two).await;
            run.set_plan(FaultPlan::default());
            let mut garbage = vec![at("two", 1)];
            match attempt {
                Ok(done) => {
                    backups.push((done, two.clone()));
                    garbage.clear();
                }
                Err(error) => {
                    let full = error.reason() == "DESTINATION_FULL";
                    assert!(error.is_retryable() || full, "{shown}: {error}");
                    assert_holds(&run, &backups, &shown).await;
                    let packs_before = packs(&run);
                    let done = back_up(&run, "two", 2, &two).await;
                    let done = done.unwrap_or_else(|e| panic!("{shown}, again: {e}"));
                    if packs_before == 2 && !matches!(call, Call::Put) {
                        assert_eq!(packs(&run), 2, "{shown}: what was stored is used again");
                    }
                    backups.push((done, two.clone()));
                }
            }
            assert_holds(&run, &backups, &shown).await;
            compact_without(&run, &garbage).await;
            assert_holds(&run, &backups, &format!("{shown}, compacted")).await;
            assert_eq!(packs(&run), packs(&clean), "{shown}");
            assert!(folder(&run, "indexes").len() <= folder(&clean, "indexes").len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_attempt_that_failed_at_its_end_is_not_stored_again() {
    let store = new_store().await;
    let large = tree([("large", 1, 40_000_000)]);
    for objects in ["indexes/", "backups/"] {
        let no_end = Rule::on(objects, Calls::Writes, When::From(0), Fault::Timeout);
        let run = store.fork(FaultPlan::once(no_end));
        back_up(&run, "one", 1, &large).await.unwrap_err();
        run.set_plan(FaultPlan::default());
        let before = packs(&run);
        let done = back_up(&run, "one", 2, &large).await.unwrap();
        assert_eq!(packs(&run), before, "{objects}");
        assert_holds(&run, &[(done, large.clone())], objects).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_destination_leaves_earlier_backups_and_room_lets_the_next_attempt_succeed() {
    let (store, first, two) = one_backup().await;
    let used = |store: &MemoryStore| -> u64 {
        let names = store.names();
        names
            .iter()
            .map(|n| store.object(n).unwrap().len() as u64)
            .sum()
    };
    let clean = store.fork(FaultPlan::default());
    back_up(&clean, "two", 1, &two).await.unwrap();
    let (before, after) = (used(&store), used(&clean));
    let steps = 23;
    for step in 0..steps {
        let room = before + (after - before) * step / steps;
        let run = store.fork(FaultPlan {
            bytes_max: Some(room),
            ..FaultPlan::default()
        });
        let error = back_up(&run, "two", 1, &two).await.unwrap_err();
        assert_eq!(error.reason(), "DESTINATION_FULL", "{error}");
        let is_full =
            |e: &VaultError| matches!(e, VaultError::Store(e) if e.kind == StoreErrorKind::Full);
        assert!(is_full(&error) && !error.is_retryable());
        assert_holds(&run, std::slice::from_ref(&first), "full").await;
        // Compaction needs room for an index; without it nothing is lost.
        let _ = compact_as(&run, spec(T0 + MINUTE)).await;
        assert_holds(&run, std::slice::from_ref(&first), "full, compacted").await;
        run.set_plan(FaultPlan::default());
        let done = back_up(&run, "two", 2, &two).await.unwrap();
        assert_holds(&run, &[first.clone(), (done, two.clone())], "room").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgets_is_found_out_and_never_gives_other_bytes() {
    let (store, first, two) = one_backup().await;
    let mut found_out = 0;
    for seed in 0..60 {
        let rules = vec![
            Rule::new(Calls::Only(Call::Put), When::Chance(0.2), Fault::Torn),
            Rule::new(Calls::Only(Call::Put), When::Chance(0.2), Fault::Lost),
        ];
        let run = store.fork(FaultPlan {
            seed,
            lying: true,
            rules,
            ..FaultPlan::default()
        });
        let Ok(done) = back_up(&run, "two", 1, &two).await else {
            continue;
        };
        run.set_plan(FaultPlan::default());
        match restore(&run, &done).await {
            Ok(read) => assert!(read == two, "seed {seed}"),
            Err(error) => {
                found_out += 1;
                let reason = error.reason();
                assert!(
                    ["OBJECT_MISSING", "OBJECT_CORRUPT"].contains(&reason),
                    "seed {seed}: {error}"
                );
                let shown = error.to_string();
                let named = ["packs/", "indexes/", "backups/"]
                    .iter()
                    .any(|f| shown.contains(f));
                assert!(named, "seed {seed}: {error}");
            }
        }
        assert_holds(&run, std::slice::from_ref(&first), &format!("seed {seed}")).await;
        // The next backup does not build upon what is not there.
        let again = back_up(&run, "three", 1, &two).await.unwrap();
        assert_holds(
            &run,
            &[(again, two.clone())],
            &format!("seed {seed}, again"),
        )
        .await;
    }
    assert!(found_out > 5, "{found_out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_by_chance_never_change_what_is_read() {
    let (store, first, two) = one_backup().await;
    let mut done = 0;
    for seed in 0..60 {
        let rules = vec![
            Rule::new(Calls::Only(Call::Put), When::Chance(0.05), Fault::Torn),
            Rule::new(Calls::Any, When::Chance(0.02), Fault::Error),
            Rule::new(Calls::Any, When::Chance(0.02), Fault::ErrorButDone),
            Rule::new(Calls::Only(Call::Put), When::Chance(0.05), Fault::Late(4)),
            Rule::new(Calls::Reads, When::Chance(0.03), Fault::Corrupt),
            Rule::new(Calls::Reads, When::Chance(0.03), Fault::Stale),
        ];
        let run = store.fork(FaultPlan {
            seed,
            rules,
            ..FaultPlan::default()
        });
        let mut backups = vec![first.clone()];
        for attempt in 1..=4 {
            if let Ok(read) = restore(&run, &first.0).await {
                assert!(read == first.1, "seed {seed}");
            }
            if let Ok(made) = back_up(&run, "two", attempt, &two).await {
                backups.push((made, two.clone()));
                done += 1;
            }
        }
        assert_holds(&run, &backups, &format!("seed {seed}")).await;
    }
    assert!(done > 60, "{done}");
}
