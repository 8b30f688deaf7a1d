//! A copy whose calls fail, one by one and by chance, on either side; and one that is
//! killed at any of them.

use std::{collections::BTreeMap, sync::Arc};

use vault::{
    ManifestRef,
    store::testing::{Call, Calls, Fault, FaultPlan, MemoryStore, Rule, When},
};

use super::{
    copies::puts,
    support::{
        HOUR, T0, Tree, assert_holds, back_up, compact, copy, delete, folder, new_store, restore,
        tree,
    },
};

/// A source with a backup to copy, and a target that has the one before, has retired a
/// pack that it now needs, and holds a pack of a copy that was interrupted.
struct Stage {
    store: Arc<MemoryStore>,
    target: Arc<MemoryStore>,
    before: (ManifestRef, Tree),
    next: (ManifestRef, Tree),
}

async fn stage() -> Stage {
    let store = new_store().await;
    let target = MemoryStore::new();
    target.set_now_ms(T0);
    let gone = tree([("gone", 1, 60_000)]);
    let at = back_up(&store, "gone", 1, &gone).await.unwrap();
    copy(&store, &target, &at).await.unwrap();
    delete(&target, "gone").await;
    let kept = ("kept", 2, 40_000);
    let one = tree([kept]);
    let before = back_up(&store, "one", 1, &one).await.unwrap();
    copy(&store, &target, &before).await.unwrap();
    compact(&target, T0 + HOUR).await.unwrap();
    let left = tree([kept, ("left", 3, 30_000)]);
    back_up(&store, "left", 1, &left).await.unwrap();
    let two = tree([
        ("gone", 1, 60_000),
        kept,
        ("left", 3, 30_000),
        ("new", 4, 50_000),
    ]);
    let next = back_up(&store, "two", 1, &two).await.unwrap();
    let second = Rule::on(
        "packs/",
        Calls::Only(Call::Put),
        When::From(1),
        Fault::Error,
    );
    let failing = target.client(FaultPlan::once(second));
    copy(&store, &failing, &next).await.unwrap_err();
    assert_eq!(folder(&target, "backups"), ["vaults/a1/backups/one.1"]);
    Stage {
        store,
        target,
        before: (before, one),
        next: (next, two),
    }
}

impl Stage {
    fn fork(&self) -> Self {
        Self {
            store: self.store.fork(FaultPlan::default()),
            target: self.target.fork(FaultPlan::default()),
            before: self.before.clone(),
            next: self.next.clone(),
        }
    }

    /// Copies, with one side's calls as planned; then what is there must be right, and
    /// the copy done again.
    async fn check(self, plan: FaultPlan, at_target: bool, when: &str) {
        let (store, target) = if at_target {
            (self.store.clone(), self.target.client(plan))
        } else {
            (self.store.client(plan), self.target.clone())
        };
        let first = copy(&store, &target, &self.next.0).await;
        let holds = [self.before.clone()];
        assert_holds(&self.target, &holds, when).await;
        // A manifest is there only when all that it needs is; a torn one is none.
        let manifest = format!("vaults/a1/{}", self.next.0.name());
        let is_there = self.target.object(&manifest) == self.store.object(&manifest);
        if let Err(error) = &first {
            let full = error.reason() == "DESTINATION_FULL";
            assert!(error.is_retryable() || full, "{when}: {error}");
            let words = error.to_string();
            let says_target = words.contains("at the destination of the copy");
            assert_eq!(says_target, at_target, "{when}: {words}");
        }
        assert!(is_there || first.is_err(), "{when}");
        if is_there {
            let read = restore(&self.target, &self.next.0).await;
            assert_eq!(read.unwrap(), self.next.1, "{when}");
        }
        let packs = folder(&self.target, "packs").into_iter();
        let stored: BTreeMap<_, _> = packs.map(|n| (n.clone(), self.target.object(&n))).collect();
        let again = self.target.client(FaultPlan::default());
        copy(&self.store, &again, &self.next.0)
            .await
            .unwrap_or_else(|error| panic!("{when}, again: {error}"));
        for name in puts(&again) {
            // Only what was cut short is put again.
            let was_whole = stored.get(&name) == Some(&self.target.object(&name));
            assert!(!was_whole, "{when}: {name} was there and is stored again");
        }
        let all = [self.before, self.next];
        assert_holds(&self.target, &all, &format!("{when}, again")).await;
        let report = compact(&self.target, T0 + 9 * HOUR).await;
        report.unwrap_or_else(|error| panic!("{when}, compact: {error}"));
        assert_holds(&self.target, &all, &format!("{when}, compacted")).await;
    }
}

/// The calls of a copy that goes well, by side.
async fn calls(stage: &Stage, at_target: bool) -> Vec<(Call, String)> {
    let run = stage.fork();
    copy(&run.store, &run.target, &run.next.0).await.unwrap();
    let side = if at_target { &run.target } else { &run.store };
    let calls = side.calls();
    assert!(calls.len() > 8, "{calls:?}");
    calls
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_of_a_copy_fails_it_goes_on_when_done_again() {
    let stage = stage().await;
    for at_target in [false, true] {
        for (n, (call, name)) in calls(&stage, at_target).await.into_iter().enumerate() {
            let mut faults = vec![Fault::Error, Fault::Timeout];
            if call == Call::Put {
                faults.extend([
                    Fault::ErrorButDone,
                    Fault::TimeoutButDone,
                    Fault::Torn,
                    Fault::Lost,
                    Fault::Full,
                ]);
            }
            for fault in faults {
                let when = format!("target: {at_target}, call {n} ({call:?} {name}): {fault:?}");
                let rule = Rule::new(Calls::Any, When::Nth(n as u64), fault);
                let run = stage.fork();
                run.check(FaultPlan::once(rule), at_target, &when).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_killed_at_any_call_goes_on() {
    let stage = stage().await;
    for at_target in [false, true] {
        for n in 0..calls(&stage, at_target).await.len() as u64 {
            let when = format!("target: {at_target}, killed at call {n}");
            let run = stage.fork();
            run.check(FaultPlan::crash_at(n), at_target, &when).await;
        }
    }
}

/// Bits that flip on the way are found out: the copy fails, or is right.
#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_never_copied() {
    let stage = stage().await;
    for (n, (call, name)) in calls(&stage, false).await.into_iter().enumerate() {
        if !matches!(call, Call::Get | Call::GetRange) {
            continue;
        }
        for seed in 0..3 {
            let rule = Rule::new(Calls::Any, When::Nth(n as u64), Fault::Corrupt);
            let plan = FaultPlan {
                seed,
                ..FaultPlan::once(rule)
            };
            let run = stage.fork();
            let when = format!("call {n} ({call:?} {name}), seed {seed}");
            let faulty = run.store.client(plan);
            let done = copy(&faulty, &run.target, &run.next.0).await;
            if let Err(error) = &done {
                let known = ["OBJECT_CORRUPT", "OBJECT_REPLAYED", "KEY_NOT_CONFIGURED"];
                assert!(known.contains(&error.reason()), "{when}: {error}");
            }
            copy(&run.store, &run.target, &run.next.0).await.unwrap();
            let all = [run.before.clone(), run.next.clone()];
            assert_holds(&run.target, &all, &when).await;
            for pack in folder(&run.target, "packs") {
                let source = run.store.object(&pack);
                let same = source.is_none() || source == run.target.object(&pack);
                assert!(same, "{when}: {pack}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_chance_everything_fails_and_the_copy_ends_right() {
    for seed in 0..60 {
        let run = stage().await;
        let rules = [Fault::Error, Fault::ErrorButDone, Fault::Torn, Fault::Stale];
        let rules = rules.map(|fault| Rule::new(Calls::Any, When::Chance(0.03), fault));
        let plan = FaultPlan {
            seed,
            rules: rules.to_vec(),
            ..FaultPlan::default()
        };
        let (store, target) = (run.store.client(plan.clone()), run.target.client(plan));
        let mut tries = 0;
        while let Err(error) = copy(&store, &target, &run.next.0).await {
            tries += 1;
            assert!(tries < 100, "seed {seed}: {error}");
            assert_holds(&run.target, std::slice::from_ref(&run.before), "meanwhile").await;
        }
        let all = [run.before, run.next];
        assert_holds(&run.target, &all, &format!("seed {seed}")).await;
    }
}
