//! The steps of a backup and of a compaction, each one a durable effect at most.
//! None of them knows whether its worker still has the lease.

use super::{
    flaws::Flaw,
    fleet::{Fleet, Scope},
    state::{
        BACKUP, Belief, JobState, PACKS, Pack, Place, Run, Set, State, Step, chunks_of, pack_of,
    },
};

impl Fleet {
    /// Goes one step on. `None`: the worker is free again.
    pub fn go_on(&self, state: &mut State, mut run: Run) -> Option<Run> {
        if self.scope == Scope::Word && run.step == Step::Acknowledge {
            run.step = Step::Complete;
            Some(run)
        } else if run.job == BACKUP {
            self.back_up(state, &mut run)
        } else {
            self.compact(state, &mut run)
        }
    }

    fn back_up(&self, state: &mut State, run: &mut Run) -> Option<Run> {
        let vault = &mut state.vault;
        let own = pack_of(run.job, run.attempt);
        run.step = match run.step {
            Step::Acknowledge => Step::ReadContents,
            Step::ReadContents => {
                let present = vault.packs_that(Pack::is_present);
                run.belief.present = present;
                run.belief.lacking = chunks_of(run.attempt).without(vault.chunks_in(present));
                if run.belief.lacking.is_empty() {
                    Step::StoreIndex
                } else {
                    Step::StorePack
                }
            }
            Step::StorePack => {
                vault.packs[own] = Pack {
                    place: Place::Unlisted,
                    chunks: std::mem::take(&mut run.belief.lacking),
                };
                Step::StoreIndex
            }
            Step::StoreIndex => {
                // What an attempt before it left is listed with it.
                let present = std::mem::take(&mut run.belief.present);
                for number in present.and(Set::of(own)).numbers() {
                    vault.packs[number].list();
                }
                Step::StoreManifest
            }
            Step::StoreManifest => {
                vault.manifests[self.name(run.attempt)] = run.attempt;
                Step::Complete
            }
            _ => {
                self.complete(state, run);
                return None;
            }
        };
        Some(*run)
    }

    /// The name under which an attempt stores its manifest.
    pub fn name(&self, attempt: u8) -> usize {
        if self.flaw == Some(Flaw::OneManifestName) {
            0
        } else {
            usize::from(attempt) - 1
        }
    }

    fn compact(&self, state: &mut State, run: &mut Run) -> Option<Run> {
        let belief = &mut run.belief;
        let own = pack_of(run.job, run.attempt);
        run.step = match run.step {
            Step::Acknowledge => Step::ListManifests,
            // First what is stored, then what is known.
            Step::ListManifests => {
                belief.manifests = state.vault.stored_manifests();
                Step::AskCatalog
            }
            Step::AskCatalog => {
                let counts = (state.counts != 0).then(|| Set::of(self.name(state.counts)));
                belief.garbage = match state.jobs[BACKUP].state {
                    JobState::Completed => belief.manifests.without(counts.unwrap_or_default()),
                    JobState::Failed => belief.manifests,
                    _ => Set::EMPTY,
                };
                Step::RemoveGarbage
            }
            Step::RemoveGarbage => {
                for name in std::mem::take(&mut belief.garbage).numbers() {
                    state.vault.manifests[name] = 0;
                }
                belief.manifests = state.vault.stored_manifests();
                Step::Survey
            }
            Step::Survey => {
                self.survey(state, belief);
                if belief.lacking.is_empty() {
                    Step::LookBeforeIndex
                } else {
                    Step::CopyChunks
                }
            }
            Step::CopyChunks => {
                let (place, chunks) = (Place::Unlisted, std::mem::take(&mut belief.lacking));
                state.vault.packs[own] = Pack { place, chunks };
                belief.keep = belief.keep.and(Set::of(own));
                Step::LookBeforeIndex
            }
            Step::LookBeforeIndex => {
                if !belief.retire.is_empty() && has_changed(state, belief) {
                    // "Another worker is at work": tried again.
                    if self.is_taken(state, run) {
                        self.give_up_attempt(state, run.job);
                    }
                    return None;
                }
                Step::ReplaceIndex
            }
            Step::ReplaceIndex => {
                let keep = std::mem::take(&mut belief.keep);
                for number in keep.numbers() {
                    state.vault.packs[number].list();
                }
                let retire = std::mem::take(&mut belief.retire);
                for number in retire.numbers() {
                    let pack = &mut state.vault.packs[number];
                    if pack.is_present() {
                        pack.place = Place::Retired;
                    }
                }
                belief.listed = belief.listed.and(keep);
                belief.retired = belief.retired.and(retire);
                if belief.remove.is_empty() {
                    run.belief = Belief::default();
                    Step::Complete
                } else {
                    Step::LookBeforeRemoval
                }
            }
            Step::LookBeforeRemoval => {
                if has_changed(state, belief) {
                    belief.remove = Set::EMPTY;
                }
                let remove = belief.remove;
                *belief = Belief {
                    remove,
                    ..Belief::default()
                };
                if remove.is_empty() {
                    Step::Complete
                } else {
                    Step::RemovePacks
                }
            }
            Step::RemovePacks => {
                for number in std::mem::take(&mut belief.remove).numbers() {
                    state.vault.packs[number] = Pack {
                        place: Place::Removed,
                        chunks: Set::EMPTY,
                    };
                }
                Step::Complete
            }
            _ => {
                self.complete(state, run);
                return None;
            }
        };
        Some(*run)
    }

    /// What is live, and what becomes of each pack.
    fn survey(&self, state: &State, belief: &mut Belief) {
        let vault = &state.vault;
        let names = belief.manifests.numbers();
        let needed = names.map(|name| chunks_of(vault.manifests[name]));
        let live = needed.fold(Set::EMPTY, Set::and);
        belief.listed = vault.packs_that(|pack| pack.place == Place::Listed);
        belief.retired = vault.packs_that(Pack::is_retired);
        // Where each live chunk is found: the first pack that holds it.
        let found = |is_so: &dyn Fn(&Pack) -> bool, chunk: usize| {
            (0..PACKS).find(|n| is_so(&vault.packs[*n]) && vault.packs[*n].chunks.has(chunk))
        };
        let mut rescued = Set::EMPTY;
        for chunk in live.numbers() {
            if let Some(number) = found(&Pack::is_present, chunk) {
                belief.keep = belief.keep.and(Set::of(number));
            } else if let Some(number) = found(&Pack::is_retired, chunk) {
                rescued = rescued.and(Set::of(number));
                belief.lacking = belief.lacking.and(Set::of(chunk));
            }
        }
        // What is young and in no index may be another's work.
        let old = vault.packs_that(|pack| matches!(pack.place, Place::Listed | Place::Forgotten));
        belief.retire = old.without(belief.keep);
        let due = vault.packs_that(|pack| pack.place == Place::Due);
        belief.remove = due.without(rescued);
        if self.flaw == Some(Flaw::RemovedAtOnce) {
            belief.remove = belief.remove.and(belief.retire);
        }
    }
}

impl Pack {
    /// An index lists it. Retired is final.
    fn list(&mut self) {
        if matches!(self.place, Place::Unlisted | Place::Forgotten) {
            self.place = Place::Listed;
        }
    }
}

/// Whether a manifest or an index is there that this compaction does not know.
fn has_changed(state: &State, belief: &Belief) -> bool {
    let vault = &state.vault;
    let listed = vault.packs_that(|pack| pack.place == Place::Listed);
    let retired = vault.packs_that(Pack::is_retired);
    let appeared = |now: Set, known: Set| !now.without(known).is_empty();
    appeared(vault.stored_manifests(), belief.manifests)
        || appeared(listed, belief.listed)
        || appeared(retired, belief.retired)
}
