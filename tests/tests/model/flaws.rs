//! The checker sees: with one rule of the design taken out, it finds what breaks.

use std::collections::BTreeSet;

use stateright::{Checker as _, HasDiscoveries, Model as _};

use super::fleet::{Fleet, LIVE_PACKS, MANIFEST, ONE_HOLDER, STOPPED_IS_ENDED, Scope};

/// A rule that is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Writes of workers are taken without a look at their attempt.
    NoFence,
    /// Several jobs of one agent may run at the same time.
    NotExclusive,
    /// Word that went missing is not sent again.
    NoRedispatch,
    /// Packs are removed by the compaction that retires them.
    RemovedAtOnce,
    /// All attempts of a backup store their manifest under the same name.
    OneManifestName,
}

fn finds(flaw: Flaw, broken: &'static str, scope: Scope) {
    let fleet = Fleet {
        flaw: Some(flaw),
        ..Fleet::new(scope, 2)
    };
    let only = HasDiscoveries::AllOf(BTreeSet::from([broken]));
    let checker = fleet
        .checker()
        .threads(2)
        .finish_when(only)
        .spawn_bfs()
        .join();
    let way = checker.assert_any_discovery(broken);
    println!("{flaw:?} breaks {broken:?}: {:?}", way.into_actions());
}

#[test]
fn without_the_fence_a_pack_goes_that_is_needed() {
    finds(Flaw::NoFence, LIVE_PACKS, Scope::Vault);
}

#[test]
fn without_the_fence_two_write() {
    finds(Flaw::NoFence, ONE_HOLDER, Scope::Word);
}

#[test]
fn without_exclusive_jobs_two_write() {
    finds(Flaw::NotExclusive, ONE_HOLDER, Scope::Word);
}

#[test]
fn a_lost_message_that_is_not_sent_again_leaves_its_job_behind() {
    finds(Flaw::NoRedispatch, STOPPED_IS_ENDED, Scope::Word);
}

#[test]
fn a_pack_that_is_removed_at_once_is_missed() {
    finds(Flaw::RemovedAtOnce, LIVE_PACKS, Scope::Vault);
}

#[test]
fn one_name_for_all_attempts_loses_the_manifest_that_counts() {
    finds(Flaw::OneManifestName, MANIFEST, Scope::Vault);
}
