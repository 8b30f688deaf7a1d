//! Destinations that stall, fail or return other bytes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use vault::{
    BackupWriter, ManifestRef, Result, TarSpec, VerifyDepth,
    store::testing::{Call, Calls, Fault, FaultPlan, Gate, MemoryStore, Rule, When},
};

use crate::support::{Bench, add_file, folder, noise, walk_all};

fn fill(writer: &mut BackupWriter) {
    writer.add(folder("")).unwrap();
    for n in 0..120 {
        add_file(writer, &format!("f{n:03}"), &noise(n, 400_000));
    }
}

fn vault_in_memory(bench: &Bench) -> (Arc<MemoryStore>, ManifestRef) {
    let store = MemoryStore::new();
    let vault = bench.open_at(store.clone()).unwrap();
    let at = bench.back_up_to(&vault, "b1", fill);
    (store, at)
}

fn reads_of_packs(when: When, fault: Fault) -> FaultPlan {
    FaultPlan {
        rules: vec![Rule::on("packs/", Calls::Only(Call::GetRange), when, fault)],
        ..FaultPlan::default()
    }
}

#[test]
fn cancel_does_not_wait_for_a_destination_that_stalls() {
    let bench = Bench::new();
    let (store, at) = vault_in_memory(&bench);
    for nth in [0, 1, 3] {
        for what in ["walk", "entries", "tar", "verify"] {
            let gate = Gate::default();
            let plan = reads_of_packs(When::From(nth), Fault::Pause(gate.clone()));
            let vault = bench.open_at(store.client(plan)).unwrap();
            let cancel = CancellationToken::new();
            let open = vault.open_backup(&at, cancel.clone());
            let reader = bench.runtime.block_on(open).unwrap();
            let reading = std::thread::spawn(move || -> Result<()> {
                match what {
                    "walk" => walk_all(&reader).map(drop),
                    "entries" => reader.entries(None)?.try_for_each(|entry| entry.map(drop)),
                    "tar" => reader.export_tar_zst(&TarSpec::default(), &mut std::io::sink()),
                    _ => reader.verify(VerifyDepth::Full, Arc::default()).map(drop),
                }
            });
            if what == "entries" && nth > 0 {
                // One segment holds all entries.
                reading.join().unwrap().unwrap();
                continue;
            }
            bench.runtime.block_on(gate.reached());
            let begun = Instant::now();
            cancel.cancel();
            let error = reading.join().unwrap().unwrap_err();
            assert_eq!(error.reason(), "CANCELED", "{what} {nth}: {error}");
            assert!(begun.elapsed() < Duration::from_secs(1), "{what} {nth}");
        }
    }
}

#[test]
fn a_walk_that_is_dropped_does_not_wait_for_a_destination_that_stalls() {
    let bench = Bench::new();
    let (store, at) = vault_in_memory(&bench);
    let gate = Gate::default();
    let plan = reads_of_packs(When::From(2), Fault::Pause(gate.clone()));
    let vault = bench.open_at(store.client(plan)).unwrap();
    let open = vault.open_backup(&at, CancellationToken::new());
    let reader = bench.runtime.block_on(open).unwrap();
    let walk = reader.walk(Arc::default()).unwrap();
    bench.runtime.block_on(gate.reached());
    let begun = Instant::now();
    drop(walk);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn errors_of_the_destination_can_be_tried_again() {
    let bench = Bench::new();
    let (store, at) = vault_in_memory(&bench);
    for nth in 0..8 {
        let plan = reads_of_packs(When::Nth(nth), Fault::Timeout);
        let vault = bench.open_at(store.client(plan)).unwrap();
        let open = vault.open_backup(&at, CancellationToken::new());
        let reader = bench.runtime.block_on(open).unwrap();
        let error = walk_all(&reader).unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert_eq!(walk_all(&reader).unwrap().len(), 121);
        let vault = bench
            .open_at(store.client(reads_of_packs(When::Nth(nth), Fault::Error)))
            .unwrap();
        let open = vault.open_backup(&at, CancellationToken::new());
        let reader = bench.runtime.block_on(open).unwrap();
        let error = reader.verify(VerifyDepth::Full, Arc::default());
        assert!(error.unwrap_err().is_retryable());
    }
}

#[test]
fn bits_that_flip_on_the_way_are_found() {
    let bench = Bench::new();
    let (store, at) = vault_in_memory(&bench);
    let right = {
        let vault = bench.open_at(store.clone()).unwrap();
        let open = vault.open_backup(&at, CancellationToken::new());
        walk_all(&bench.runtime.block_on(open).unwrap()).unwrap()
    };
    let mut failed = 0;
    for seed in 0..40 {
        let plan = FaultPlan {
            seed,
            ..reads_of_packs(When::Chance(0.05), Fault::Corrupt)
        };
        let vault = bench.open_at(store.client(plan)).unwrap();
        let open = vault.open_backup(&at, CancellationToken::new());
        let reader = bench.runtime.block_on(open).unwrap();
        match walk_all(&reader) {
            Ok(all) => assert!(all == right, "seed {seed}"),
            Err(error) => {
                failed += 1;
                let message = error.to_string();
                assert!(message.contains("packs/"), "seed {seed}: {message}");
            }
        }
    }
    assert!((1..40).contains(&failed), "{failed}");
}
