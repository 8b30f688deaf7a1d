//! Former lease holders that wake up: a paused compaction or backup goes on
//! after others have worked in the vault.

use std::{collections::HashSet, sync::Arc};

use vault::{
    CompactSpec, ManifestRef, VaultError,
    store::testing::{Call, Calls, Fault, FaultPlan, Gate, MemoryStore, Rule, When},
};

use super::{
    crashes::{NOW, busy_vault},
    support::{
        HOUR, MINUTE, T0, Tree, assert_holds, at, back_up, compact, compact_as, compact_fully,
        delete, folder, new_store, packs, restore, spec, tree,
    },
};

type Backups = Vec<(ManifestRef, Tree)>;

fn paused_at(rule: impl FnOnce(Fault) -> Rule) -> (Gate, FaultPlan) {
    let gate = Gate::default();
    let plan = FaultPlan::once(rule(Fault::Pause(gate.clone())));
    (gate, plan)
}

/// What others do while the former holder sleeps.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    /// A backup of what the sleeper takes for dead.
    Backup,
    /// And a compaction.
    Compaction,
    /// And so much time that everything retired is removed.
    Removal,
}

async fn meanwhile(store: &Arc<MemoryStore>, what: Meanwhile, backups: &mut Backups) {
    let revived = tree([
        ("dead", 5, 50_000),
        ("half", 3, 200_000),
        ("left", 7, 30_000),
    ]);
    let made = back_up(store, "revived", 1, &revived).await.unwrap();
    backups.push((made, revived));
    let hours: &[i64] = match what {
        Meanwhile::Backup => &[],
        Meanwhile::Compaction => &[0],
        Meanwhile::Removal => &[0, 2, 4],
    };
    for hours in hours {
        let report = compact(store, NOW + 10 * MINUTE + hours * HOUR).await;
        report.unwrap_or_else(|e| panic!("meanwhile, {what:?}: {e}"));
    }
}

async fn afterwards(
    store: &Arc<MemoryStore>,
    backups: &Backups,
    garbage: &[ManifestRef],
    shown: &str,
) {
    assert_holds(store, backups, shown).await;
    for hours in [5, 7, 9] {
        let spec = CompactSpec {
            garbage: garbage.iter().cloned().collect(),
            ..spec(NOW + hours * HOUR)
        };
        let report = compact_as(store, spec).await;
        report.unwrap_or_else(|e| panic!("{shown}, {hours} h later: {e}"));
        assert_holds(store, backups, &format!("{shown}, {hours} h later")).await;
    }
    let last = compact_fully(store, NOW + 10 * HOUR).await.unwrap();
    assert_eq!(last.waiting_packs, 0, "{shown}: {last:?}");
    assert_holds(store, backups, &format!("{shown}, at the end")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_that_wakes_up_at_any_call_loses_nothing() {
    let (store, backups) = busy_vault().await;
    let clean = store.fork(FaultPlan::default());
    compact(&clean, NOW).await.unwrap();
    for n in 0..clean.calls().len() as u64 {
        for what in [Meanwhile::Backup, Meanwhile::Compaction, Meanwhile::Removal] {
            let (gate, plan) = paused_at(|f| Rule::new(Calls::Any, When::Nth(n), f));
            let sleeper = store.fork(plan);
            let others = sleeper.client(FaultPlan::default());
            let work = tokio::spawn(async move { compact(&sleeper, NOW).await });
            gate.reached().await;
            let mut backups = backups.clone();
            meanwhile(&others, what, &mut backups).await;
            gate.open();
            // It may find out and fail, or believe that it did its work.
            let _ = work.await.unwrap();
            afterwards(
                &others,
                &backups,
                &[],
                &format!("asleep at call {n}, {what:?}"),
            )
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_wakes_up_at_any_call_harms_no_other() {
    let (store, backups) = busy_vault().await;
    // It builds upon packs that are dead, and upon what an earlier attempt left.
    let reviving = tree([("dead", 5, 50_000), ("left", 7, 30_000), ("new", 8, 30_000)]);
    let clean = store.fork(FaultPlan::default());
    back_up(&clean, "late", 1, &reviving).await.unwrap();
    for n in 0..clean.calls().len() as u64 {
        for what in [Meanwhile::Backup, Meanwhile::Compaction, Meanwhile::Removal] {
            let (gate, plan) = paused_at(|f| Rule::new(Calls::Any, When::Nth(n), f));
            let sleeper = store.fork(plan);
            let others = sleeper.client(FaultPlan::default());
            let work = tokio::spawn({
                let reviving = reviving.clone();
                async move { back_up(&sleeper, "late", 1, &reviving).await }
            });
            gate.reached().await;
            let mut backups = backups.clone();
            let second = back_up(&others, "late", 2, &reviving).await.unwrap();
            backups.push((second, reviving.clone()));
            meanwhile(&others, what, &mut backups).await;
            gate.open();
            let late = work.await.unwrap();
            let shown = format!("asleep at call {n}, {what:?}");
            // Nobody else knows that this attempt lost: it counts as live once.
            if late.is_ok() {
                let unaware = others.fork(FaultPlan::default());
                let report = compact(&unaware, NOW + 5 * HOUR).await;
                if let Err(error) = report {
                    // What it needs was removed while it slept beyond the grace period.
                    assert!(matches!(what, Meanwhile::Removal), "{shown}: {error}");
                    assert!(error.to_string().contains('/'), "{shown}: {error}");
                }
                assert_holds(&unaware, &backups, &shown).await;
            }
            afterwards(&others, &backups, &[at("late", 1)], &shown).await;
            assert!(!others.names().iter().any(|name| name.ends_with("late.1")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_attempts_that_both_commit_are_two_whole_backups() {
    let store = new_store().await;
    let one = tree([("a", 1, 100_000)]);
    let (gate, plan) = paused_at(|f| Rule::on("backups/", Calls::Only(Call::Put), When::Nth(0), f));
    let first = store.client(plan);
    let work = tokio::spawn({
        let one = one.clone();
        async move { back_up(&first, "one", 1, &one).await }
    });
    gate.reached().await;
    let second = back_up(&store, "one", 2, &one).await.unwrap();
    gate.open();
    let first = work.await.unwrap().unwrap();
    assert_ne!(first.digest, second.digest);
    assert_holds(
        &store,
        &[(first, one.clone()), (second.clone(), one.clone())],
        "both",
    )
    .await;
    let garbage = CompactSpec {
        garbage: HashSet::from([at("one", 1)]),
        grace_ms: 0,
        ..spec(T0 + HOUR)
    };
    compact_as(&store, garbage).await.unwrap();
    assert_eq!(folder(&store, "backups"), ["vaults/a1/backups/one.2"]);
    assert_holds(&store, &[(second, one)], "the one that counts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_retired_wrongly_is_read_at_once_and_copied_by_the_next_one() {
    let store = new_store().await;
    let one = tree([("a", 1, 100_000)]);
    back_up(&store, "one", 1, &one).await.unwrap();
    delete(&store, "one").await;
    let (gate, plan) = paused_at(|f| Rule::on("indexes/", Calls::Only(Call::Put), When::Nth(0), f));
    let sleeper = store.client(plan);
    let work = tokio::spawn(async move { compact(&sleeper, T0 + HOUR).await });
    gate.reached().await;
    let two = back_up(&store, "two", 1, &one).await.unwrap();
    assert_eq!(packs(&store), 1, "it builds upon the dead pack");
    gate.open();
    let report = work.await.unwrap().unwrap();
    assert_eq!(report.retired_packs, 1, "and that was retired");
    let backups = [(two, one)];
    assert_holds(&store, &backups, "retired").await;
    let report = compact(&store, T0 + 3 * HOUR).await.unwrap();
    assert_eq!(
        (report.rewritten_packs, report.removed_packs),
        (1, 0),
        "{report:?}"
    );
    let report = compact(&store, T0 + 3 * HOUR + MINUTE).await.unwrap();
    assert_eq!((report.removed_packs, packs(&store)), (1, 1), "{report:?}");
    assert_holds(&store, &backups, "copied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_that_sees_another_at_work_retires_nothing() {
    let store = new_store().await;
    let one = tree([("a", 1, 100_000)]);
    back_up(&store, "one", 1, &one).await.unwrap();
    delete(&store, "one").await;
    // The first listing of manifests is its own; it sleeps before the second.
    let (gate, plan) =
        paused_at(|f| Rule::on("backups/", Calls::Only(Call::List), When::Nth(1), f));
    let sleeper = store.client(plan);
    let work = tokio::spawn(async move { compact_fully(&sleeper, T0 + HOUR).await });
    gate.reached().await;
    let two = back_up(&store, "two", 1, &one).await.unwrap();
    gate.open();
    let error = work.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, VaultError::Changed { object } if object == "backups/two.1"),
        "{error}"
    );
    assert!(error.is_retryable());
    assert_eq!(restore(&store, &two).await.unwrap(), one);
    compact_fully(&store, T0 + HOUR).await.unwrap();
    assert_holds(&store, &[(two, one)], "after it").await;
}
