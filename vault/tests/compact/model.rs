//! Random histories of backups, deletions, compactions, failures and sleepers:
//! what was committed and not deleted reads back as it was.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use proptest::{collection::vec, prelude::*, test_runner::Config};
use vault::{
    CompactSpec, ManifestRef,
    store::testing::{Calls, Fault, FaultPlan, Gate, MemoryStore, Rule, When},
};

use super::support::{
    HOUR, MINUTE, T0, Tree, assert_holds, at, back_up, compact_as, compact_fully, delete,
    new_store, noise, packs, restore, shorten_indexes, spec,
};

/// One change of the agent's state: a file becomes this, or goes.
#[derive(Debug, Clone)]
struct Edit {
    file: u8,
    bytes: Option<(u8, u16)>,
}

/// How a piece of work ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Well,
    /// As if killed, at this call.
    Killed(u16),
    /// With one call that fails in this way.
    Fails(u16, u8),
    /// It sleeps at this call; what comes next in the history happens first.
    Sleeps(u16),
}

#[derive(Debug, Clone)]
enum Step {
    Backup(Vec<Edit>, End),
    Delete(u8),
    Compact(End),
    Hours(u8),
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        3 => Just(End::Well),
        1 => (0u16..60).prop_map(End::Killed),
        1 => (0u16..60, any::<u8>()).prop_map(|(call, fault)| End::Fails(call, fault)),
        1 => (0u16..60).prop_map(End::Sleeps),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let edit = (
        0..12u8,
        proptest::option::weighted(0.8, (0..10u8, 0..60_000u16)),
    )
        .prop_map(|(file, bytes)| Edit { file, bytes });
    prop_oneof![
        4 => (vec(edit, 0..5), end()).prop_map(|(edits, end)| Step::Backup(edits, end)),
        2 => any::<u8>().prop_map(Step::Delete),
        3 => end().prop_map(Step::Compact),
        1 => (0..3u8).prop_map(Step::Hours),
    ]
}

fn fault(number: u8) -> Fault {
    match number % 7 {
        0 => Fault::Error,
        1 => Fault::Timeout,
        2 => Fault::ErrorButDone,
        3 => Fault::TimeoutButDone,
        4 => Fault::Torn,
        5 => Fault::Late(u64::from(number)),
        _ => Fault::Corrupt,
    }
}

/// Work that sleeps.
struct Sleeper {
    gate: Gate,
    work: tokio::task::JoinHandle<()>,
    /// The attempt that it writes: nobody waits for it any more.
    attempt: Option<ManifestRef>,
}

struct World {
    store: Arc<MemoryStore>,
    now_ms: i64,
    tree: Tree,
    live: BTreeMap<u32, (ManifestRef, Tree)>,
    garbage: HashSet<ManifestRef>,
    sleepers: Vec<Sleeper>,
    made: u32,
}

impl World {
    async fn new(short_indexes: bool) -> Self {
        let store = new_store().await;
        if short_indexes {
            shorten_indexes(&store);
        }
        Self {
            store,
            now_ms: T0,
            tree: Tree::new(),
            live: BTreeMap::new(),
            garbage: HashSet::new(),
            sleepers: Vec::new(),
            made: 0,
        }
    }

    fn client(&self, end: End) -> (Arc<MemoryStore>, Option<Gate>) {
        let rule = |when, fault| FaultPlan::once(Rule::new(Calls::Any, when, fault));
        match end {
            End::Well => (self.store.client(FaultPlan::default()), None),
            End::Killed(call) => (self.store.client(FaultPlan::crash_at(call.into())), None),
            End::Fails(call, number) => {
                let plan = rule(When::Nth(call.into()), fault(number));
                (self.store.client(plan), None)
            }
            End::Sleeps(call) => {
                let gate = Gate::default();
                let plan = rule(When::Nth(call.into()), Fault::Pause(gate.clone()));
                (self.store.client(plan), Some(gate))
            }
        }
    }

    async fn step(&mut self, step: Step) {
        self.now_ms += MINUTE;
        self.store.set_now_ms(self.now_ms);
        match step {
            Step::Backup(edits, end) => self.back_up(edits, end).await,
            Step::Delete(which) => {
                let keys: Vec<u32> = self.live.keys().copied().collect();
                if let Some(key) = keys.get(which as usize % keys.len().max(1)) {
                    let (at, _) = self.live.remove(key).unwrap();
                    delete(&self.store, &at.backup_id).await;
                    self.garbage.insert(at);
                }
            }
            Step::Compact(end) => self.compact(end).await,
            Step::Hours(hours) => self.now_ms += i64::from(hours) * HOUR,
        }
    }

    async fn back_up(&mut self, edits: Vec<Edit>, end: End) {
        for edit in edits {
            let name = format!("file-{:02}", edit.file);
            match edit.bytes {
                Some((seed, bytes)) => {
                    self.tree.insert(name, noise(seed.into(), bytes.into()));
                }
                None => {
                    self.tree.remove(&name);
                }
            }
        }
        self.made += 1;
        let id = format!("b{}", self.made);
        let (client, gate) = self.client(end);
        let tree = self.tree.clone();
        let attempt = at(&id, 1);
        let mut work = tokio::spawn({
            let (id, tree) = (id.clone(), tree.clone());
            async move { back_up(&client, &id, 1, &tree).await }
        });
        let done = match gate {
            None => work.await.unwrap(),
            Some(gate) => tokio::select! {
                done = &mut work => done.unwrap(),
                () = gate.reached() => {
                    // It lost its lease; another attempt takes over.
                    self.garbage.insert(attempt.clone());
                    let work = tokio::spawn(async move { drop(work.await.unwrap()) });
                    self.sleepers.push(Sleeper { gate, work, attempt: Some(attempt.clone()) });
                    back_up(&self.store, &id, 2, &tree).await
                }
            },
        };
        match done {
            Ok(at) => {
                self.live.insert(self.made, (at, tree));
            }
            Err(error) => {
                assert!(!matches!(end, End::Well), "{id}: {error}");
                self.garbage.insert(attempt);
            }
        }
    }

    fn spec(&self) -> CompactSpec {
        CompactSpec {
            garbage: self.garbage.clone(),
            ..spec(self.now_ms)
        }
    }

    async fn compact(&mut self, end: End) {
        let (client, gate) = self.client(end);
        let spec = self.spec();
        let mut work = tokio::spawn(async move { compact_as(&client, spec).await });
        let done = match gate {
            None => work.await.unwrap(),
            Some(gate) => tokio::select! {
                done = &mut work => done.unwrap(),
                () = gate.reached() => {
                    let work = tokio::spawn(async move { drop(work.await.unwrap()) });
                    self.sleepers.push(Sleeper { gate, work, attempt: None });
                    return;
                }
            },
        };
        if let (End::Well, Err(error)) = (end, done) {
            panic!("compaction: {error}");
        }
    }

    /// All sleepers wake up and end.
    async fn wake(&mut self) {
        for sleeper in self.sleepers.drain(..) {
            sleeper.gate.open();
            sleeper.work.await.unwrap();
            self.garbage.extend(sleeper.attempt);
        }
    }

    async fn check(&self, when: &str) {
        let backups: Vec<_> = self.live.values().cloned().collect();
        assert_holds(&self.store, &backups, when).await;
    }

    /// After a last compaction nothing is left that no backup needs.
    async fn end(mut self) {
        self.wake().await;
        self.check("all awake").await;
        for _ in 0..2 {
            self.now_ms += 2 * HOUR;
            compact_as(&self.store, self.spec()).await.unwrap();
            self.check("settled").await;
        }
        self.now_ms += HOUR;
        let last = compact_fully(&self.store, self.now_ms).await.unwrap();
        assert_eq!(last.waiting_packs, 0, "{last:?}");
        self.check("at the end").await;
        let again = compact_fully(&self.store, self.now_ms + HOUR)
            .await
            .unwrap();
        assert_eq!(
            (again.retired_packs, again.rewritten_packs),
            (0, 0),
            "{again:?}"
        );
        assert!(
            packs(&self.store) <= 8 + self.live.len(),
            "{}",
            packs(&self.store)
        );
        // Every pack that is left is needed: without it a backup is damaged.
        for name in super::support::folder(&self.store, "packs") {
            let without = self.store.fork(FaultPlan::default());
            without.set_object(&name, None);
            let mut needed = false;
            for (at, _) in self.live.values() {
                needed |= restore(&without, at).await.is_err();
            }
            assert!(needed, "{name} is needed by no backup");
        }
    }
}

async fn live_through(short_indexes: bool, history: Vec<Step>) {
    let mut world = World::new(short_indexes).await;
    for (number, step) in history.into_iter().enumerate() {
        let shown = format!("after step {number}, {step:?}");
        world.step(step).await;
        world.check(&shown).await;
        // A sleeper sleeps for a few steps.
        if number % 4 == 3 {
            world.wake().await;
            world.check(&format!("{shown}, awake")).await;
        }
    }
    world.end().await;
}

/// `PROPTEST_CASES`, or what takes some seconds.
fn cases() -> u32 {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default().cases,
        None => 160,
    }
}

proptest! {
    #![proptest_config(Config { cases: cases(), max_shrink_iters: 400, failure_persistence: None, ..Config::default() })]

    #[test]
    fn what_is_committed_and_not_deleted_reads_back(short in any::<bool>(), history in vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(live_through(short, history));
    }
}
