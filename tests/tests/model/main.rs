//! Every way a small fleet can go, within bounds, looked at one by one.
//!
//! Three workers and a dispatcher share one agent: a backup that may build upon a
//! pack which nobody else needs, a compaction that may remove this pack, and the
//! compaction that follows. Messages are lost and come twice; workers and the
//! dispatcher crash; workers are paused past their lease and go on as if nothing had
//! been. In reading order:
//!
//! - `state`: the catalog's rows, the queue, the vault and the workers, as small as can be
//! - `catalog`: transactions of the catalog, and word of jobs
//! - `vault`: the steps of a backup and of a compaction
//! - `fleet`: what can happen next, and what must hold
//! - `flaws`: with one rule of the design taken out, the checker finds what breaks
//!
//! It stands for `catalog/src/{jobs,outbox,reaper,completion}.rs`,
//! `worker/src/jobs/{backup,compact}.rs` and `vault/src/compact/`: whoever changes a
//! rule there changes it here. Time is left out: a lease runs out when its holder is
//! away, and a grace period passes when no job is left that began before it.

// The checker's methods take the model by reference, and so do those beside them.
#![allow(clippy::trivially_copy_pass_by_ref, clippy::unused_self)]

mod catalog;
mod flaws;
mod fleet;
mod state;
mod vault;

use std::collections::HashSet;

use stateright::{Checker as _, Model as _};

use fleet::{Fleet, Scope};

/// As much as can be looked at in seconds.
const BOUNDS: [(Scope, u8); 3] = [(Scope::Whole, 1), (Scope::Word, 3), (Scope::Vault, 2)];

/// Everything that must hold does, in every state that can be reached; and what makes
/// it hard does happen.
#[test]
fn every_way_ends_well() {
    for (scope, faults) in BOUNDS {
        let checker = Fleet::new(scope, faults)
            .checker()
            .threads(2)
            .spawn_bfs()
            .join();
        let (states, steps) = (checker.unique_state_count(), checker.max_depth());
        println!("{scope:?}, {faults} faults: {states} states, up to {steps} steps");
        checker.assert_properties();
    }
}

/// No way goes round in circles: so each one comes to where nothing but faults can
/// happen, and there all jobs have ended.
#[test]
fn every_way_stops() {
    for (scope, faults) in BOUNDS {
        let fleet = Fleet::new(scope, faults);
        let mut stopped: HashSet<u64> = HashSet::new();
        // The states on the way to where we are, and what is left to try from each.
        let mut on_way: HashSet<u64> = HashSet::new();
        let mut way = Vec::new();
        for state in fleet.init_states() {
            on_way.insert(state.digest());
            way.push((state.digest(), fleet.next_states(&state)));
        }
        while let Some((digest, left)) = way.last_mut() {
            let Some(next) = left.pop() else {
                on_way.remove(digest);
                stopped.insert(*digest);
                way.pop();
                continue;
            };
            let digest = next.digest();
            assert!(
                !on_way.contains(&digest),
                "it goes round in circles: {next:#?}"
            );
            if !stopped.contains(&digest) {
                on_way.insert(digest);
                way.push((digest, fleet.next_states(&next)));
            }
        }
    }
}
