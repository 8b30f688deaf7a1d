//! A compaction that fails, or ends, at any of its calls.

use std::sync::Arc;

use bytes::Bytes;
use vault::{
    ManifestRef,
    store::testing::{Call, Calls, Fault, FaultPlan, Gate, MemoryStore, Rule, When},
};

use super::support::{
    HOUR, T0, Tree, assert_holds, back_up, compact, compact_fully, delete, folder, new_store,
    noise, packs, shorten_indexes, tree,
};

/// When the compactions run that are interrupted.
pub const NOW: i64 = T0 + 5 * HOUR;

/// A vault with work of every sort for a compaction at [`NOW`]: a dead pack, one
/// less than half live, one that was retired long ago, one that an interrupted
/// attempt left, an index that was cut short; and the backups that stay.
pub async fn busy_vault() -> (Arc<MemoryStore>, Vec<(ManifestRef, Tree)>) {
    let store = new_store().await;
    back_up(&store, "old", 1, &tree([("old", 1, 40_000)]))
        .await
        .unwrap();
    delete(&store, "old").await;
    compact(&store, T0).await.unwrap();
    let shared = ("shared", 2, 60_000);
    back_up(&store, "half", 1, &tree([("half", 3, 200_000), shared]))
        .await
        .unwrap();
    let kept = tree([("kept", 4, 30_000), shared]);
    let kept = (back_up(&store, "kept", 1, &kept).await.unwrap(), kept);
    let torn = folder(&store, "indexes").remove(0);
    back_up(&store, "dead", 1, &tree([("dead", 5, 50_000)]))
        .await
        .unwrap();
    let other = tree([("other", 6, 70_000)]);
    let other = (back_up(&store, "other", 1, &other).await.unwrap(), other);
    let no_index = Rule::on("indexes/", Calls::Writes, When::From(0), Fault::Error);
    let failing = store.client(FaultPlan::once(no_index));
    back_up(&failing, "left", 1, &tree([("left", 7, 30_000)]))
        .await
        .unwrap_err();
    let bytes = store.object(&torn).unwrap();
    store.set_object(&torn, Some(bytes.slice(..bytes.len() / 2)));
    delete(&store, "half").await;
    delete(&store, "dead").await;
    (store, vec![kept, other])
}

/// A vault with more small packs than may stay.
async fn scattered_vault() -> (Arc<MemoryStore>, Vec<(ManifestRef, Tree)>) {
    let store = new_store().await;
    let mut growing = tree([]);
    let mut last = None;
    for n in 0..10u64 {
        growing.insert(format!("file-{n:02}"), noise(n, 3_000));
        last = Some(
            back_up(&store, &format!("b{n}"), 1, &growing)
                .await
                .unwrap(),
        );
        if n < 9 {
            delete(&store, &format!("b{n}")).await;
        }
    }
    (store, vec![(last.unwrap(), growing)])
}

/// Compacts until nothing waits any more; how many packs are left.
async fn settle(store: &Arc<MemoryStore>, backups: &[(ManifestRef, Tree)], when: &str) -> usize {
    for hours in [2, 4] {
        let report = compact(store, NOW + hours * HOUR).await;
        report.unwrap_or_else(|e| panic!("{when}, {hours} h later: {e}"));
    }
    assert_holds(store, backups, &format!("{when}, settled")).await;
    let last = compact_fully(store, NOW + 6 * HOUR).await.unwrap();
    assert_eq!(last.waiting_packs, 0, "{when}: {last:?}");
    packs(store)
}

async fn every_call_fails(store: Arc<MemoryStore>, backups: Vec<(ManifestRef, Tree)>) {
    let clean = store.fork(FaultPlan::default());
    compact(&clean, NOW).await.unwrap();
    let calls = clean.calls();
    let left = settle(&clean, &backups, "nothing fails").await;
    for (n, (call, name)) in calls.iter().enumerate() {
        let mut faults = vec![(When::From(n as u64), Fault::Error)];
        if matches!(call, Call::Put | Call::Delete) {
            for fault in [
                Fault::ErrorButDone,
                Fault::Torn,
                Fault::Late(7),
                Fault::Timeout,
            ] {
                faults.push((When::Nth(n as u64), fault));
            }
        } else {
            faults.push((When::Nth(n as u64), Fault::Timeout));
        }
        for (when, fault) in faults {
            let shown = format!("call {n} ({call:?} {name}), {fault:?}");
            let rule = Rule::new(Calls::Any, when, fault);
            let run = store.fork(FaultPlan::once(rule));
            let report = compact(&run, NOW).await;
            if matches!(when, When::From(_)) {
                assert!(report.is_err(), "{shown}");
            }
            run.set_plan(FaultPlan::default());
            assert_holds(&run, &backups, &shown).await;
            let again = compact(&run, NOW).await;
            again.unwrap_or_else(|e| panic!("{shown}, again: {e}"));
            assert_eq!(settle(&run, &backups, &shown).await, left, "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_fails_nothing_is_lost_and_the_next_one_ends_the_work() {
    let (store, backups) = busy_vault().await;
    every_call_fails(store, backups).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_of_a_merge_fails_nothing_is_lost() {
    let (store, backups) = scattered_vault().await;
    every_call_fails(store, backups).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_part_of_an_index_is_missing_nothing_is_lost() {
    let (store, backups) = busy_vault().await;
    shorten_indexes(&store);
    let clean = store.fork(FaultPlan::default());
    compact(&clean, NOW).await.unwrap();
    assert!(folder(&clean, "indexes").len() > 2);
    every_call_fails(store, backups).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_at_any_call_nothing_is_lost() {
    let (store, backups) = busy_vault().await;
    let clean = store.fork(FaultPlan::default());
    compact(&clean, NOW).await.unwrap();
    let calls = clean.calls().len() as u64;
    let left = settle(&clean, &backups, "nothing fails").await;
    for n in 0..calls {
        let gate = Gate::default();
        let pause = Rule::new(Calls::Any, When::Nth(n), Fault::Pause(gate.clone()));
        let run = store.fork(FaultPlan::once(pause));
        let work = tokio::spawn({
            let run = run.clone();
            async move { compact(&run, NOW).await }
        });
        gate.reached().await;
        work.abort();
        assert!(work.await.unwrap_err().is_cancelled());
        // A thread that still works for it finds out at its next step.
        gate.open();
        let sound = run.client(FaultPlan::default());
        let shown = format!("dropped at call {n}");
        assert_holds(&sound, &backups, &shown).await;
        assert_eq!(settle(&sound, &backups, &shown).await, left, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_that_lag_behind_cost_nothing_but_time() {
    let (store, backups) = busy_vault().await;
    for seed in 0..40 {
        let stale = Rule::new(Calls::Reads, When::Chance(0.2), Fault::Stale);
        let run = store.fork(FaultPlan {
            seed,
            ..FaultPlan::once(stale)
        });
        // Something recent, to be behind of.
        let mut backups = backups.clone();
        let recent = tree([("recent", 9, 30_000), ("dead", 5, 50_000)]);
        let sound = run.client(FaultPlan::default());
        let at = back_up(&sound, "recent", 1, &recent).await.unwrap();
        backups.push((at, recent));
        let _ = compact(&run, NOW).await;
        let _ = compact(&run, NOW).await;
        settle(&sound, &backups, &format!("seed {seed}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_reads_never_make_a_compaction_lose_or_change_anything() {
    let (store, backups) = busy_vault().await;
    for seed in 0..40 {
        let corrupt = Rule::new(Calls::Reads, When::Chance(0.1), Fault::Corrupt);
        let run = store.fork(FaultPlan {
            seed,
            ..FaultPlan::once(corrupt)
        });
        for hours in [0, 2, 4] {
            let _ = compact(&run, NOW + hours * HOUR).await;
        }
        run.set_plan(FaultPlan::default());
        assert_holds(&run, &backups, &format!("seed {seed}")).await;
        compact(&run, NOW + 6 * HOUR).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_failed_to_go_do_not_come_back() {
    let (store, backups) = busy_vault().await;
    let stuck = Rule::on(
        "indexes/",
        Calls::Only(Call::Delete),
        When::From(0),
        Fault::Lost,
    );
    let run = store.fork(FaultPlan::once(stuck));
    let before: Vec<(String, Bytes)> = folder(&run, "indexes")
        .into_iter()
        .map(|name| (name.clone(), run.object(&name).unwrap()))
        .collect();
    compact_fully(&run, NOW).await.unwrap();
    run.set_plan(FaultPlan::default());
    // Even when storage gives replaced index objects back later.
    for (name, bytes) in before {
        run.set_object(&name, Some(bytes));
    }
    assert_holds(&run, &backups, "old indexes are back").await;
    compact(&run, NOW + HOUR).await.unwrap();
    settle(&run, &backups, "old indexes are back").await;
    assert_eq!(folder(&run, "indexes").len(), 1);
}
