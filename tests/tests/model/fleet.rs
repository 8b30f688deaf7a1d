//! What can happen next, and what must hold.

use stateright::{Model, Property};

use super::{
    flaws::Flaw,
    state::{
        BACKUP, COMPACT_AGAIN, InHand, JOBS, JobState, MESSAGES_MAX, OLD_PACK, Pack, Place, Run,
        State, Step, WORKERS, chunks_of,
    },
};

pub const ONE_HOLDER: &str = "at most one holder of the agent's lease writes into the catalog";
pub const ENDS_ONCE: &str = "each accepted job ends once";
pub const STOPPED_IS_ENDED: &str = "where nothing but faults can happen, all jobs have ended";
pub const EVENTUALLY: &str = "each accepted job ends";
pub const LIVE_PACKS: &str = "no pack is removed that a completed backup needs";
pub const MANIFEST: &str = "the manifest that counts is stored as its attempt wrote it";

/// What is looked at closely: all of it at once leaves room for few faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Whole,
    /// Dispatch, queue and lease; a job does nothing but end.
    Word,
    /// Lease and vault; word of a job always arrives, once.
    Vault,
}

/// The fleet, and how much of it goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    pub scope: Scope,
    /// Crashes, pauses, lost and doubled messages, in all.
    pub faults: u8,
    /// A rule of the design that is taken out.
    pub flaw: Option<Flaw>,
}

impl Fleet {
    pub fn new(scope: Scope, faults: u8) -> Self {
        let flaw = None;
        Self {
            scope,
            faults,
            flaw,
        }
    }
}

/// What can happen. Numbers of jobs, workers and packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Publish(usize),
    Mark(usize),
    PublishAgain(usize),
    Claim(usize),
    GoOn(usize),
    Resume(usize),
    /// The lease runs out, and the reaper sees it.
    Reap(usize),
    GracePasses,
    // Faults:
    CrashDispatcher,
    LoseMessage(usize),
    DoubleMessage(usize),
    Crash(usize),
    Pause(usize),
}

impl Fleet {
    /// What happens when nothing goes wrong any more.
    fn ordinary(&self, state: &State, actions: &mut Vec<Action>) {
        let free = state.workers.iter().any(Option::is_none);
        for (number, job) in state.jobs.iter().enumerate() {
            let due = self.is_due(state, number);
            let came = if self.scope == Scope::Vault {
                due
            } else {
                if due && job.messages < MESSAGES_MAX {
                    actions.push(Action::Publish(number));
                }
                if job.in_hand != InHand::No {
                    actions.push(Action::Mark(number));
                }
                if self.may_publish_again(job) {
                    actions.push(Action::PublishAgain(number));
                }
                job.messages > 0
            };
            if came && free {
                actions.push(Action::Claim(number));
            }
            if self.may_reap(state, number) {
                actions.push(Action::Reap(number));
            }
        }
        for (number, worker) in state.workers.iter().enumerate() {
            if let Some(run) = worker {
                actions.push(if run.paused {
                    Action::Resume(number)
                } else {
                    Action::GoOn(number)
                });
            }
        }
        // The grace period is longer than a job may take: of those that hold their lease
        // none began before it.
        let began = |run: &Run| state.holds(run) && run.step != Step::Acknowledge;
        let young = |pack: &Pack| matches!(pack.place, Place::Unlisted | Place::Retired);
        if state.vault.packs.iter().any(young) && !state.runs().any(began) {
            actions.push(Action::GracePasses);
        }
    }
}

impl Fleet {
    /// What makes it hard, and happens all the same.
    fn hard_ways(&self) -> Vec<Property<Self>> {
        let mut ways = vec![
            Property::sometimes("a second attempt completes", |_, state: &State| {
                state.counts == 2
            }),
            Property::sometimes("a late write is refused", |_, state: &State| {
                let late = |run: &Run| run.step == Step::Complete && !state.holds(run);
                state.runs().any(late)
            }),
            Property::sometimes(
                "an attempt goes on without its lease, beside its successor",
                |_, state: &State| {
                    state
                        .runs()
                        .filter(|run| run.job == BACKUP && !run.paused)
                        .count()
                        > 1
                },
            ),
        ];
        if self.faults > 1 {
            ways.push(Property::sometimes(
                "a job fails, its workers lost",
                |_, state: &State| state.jobs[BACKUP].state == JobState::Failed,
            ));
        }
        if self.scope != Scope::Word {
            ways.extend([
                Property::sometimes("the old pack is built upon", |_, state: &State| {
                    state.counts != 0 && state.vault.packs[OLD_PACK].place == Place::Listed
                }),
                Property::sometimes(
                    "a pack that a backup needs is retired wrongly",
                    |_, state: &State| state.counts != 0 && lacks_present(state),
                ),
                Property::sometimes(
                    "what was retired wrongly is copied back",
                    |_, state: &State| {
                        state.jobs[COMPACT_AGAIN].state == JobState::Completed
                            && state.vault.packs[OLD_PACK].is_retired()
                            && state.counts != 0
                            && !lacks_present(state)
                    },
                ),
                Property::sometimes("a pack is removed", |_, state: &State| {
                    state.vault.packs[OLD_PACK].place == Place::Removed
                }),
            ]);
        }
        ways
    }
}

impl Model for Fleet {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(self.faults)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.ordinary(state, actions);
        if state.faults == 0 {
            return;
        }
        let in_hand = state.jobs.iter().any(|job| job.in_hand != InHand::No);
        if in_hand {
            actions.push(Action::CrashDispatcher);
        }
        for (number, job) in state.jobs.iter().enumerate() {
            if job.messages > 0 {
                actions.push(Action::LoseMessage(number));
                if job.messages < MESSAGES_MAX {
                    actions.push(Action::DoubleMessage(number));
                }
            }
        }
        for (number, worker) in state.workers.iter().enumerate() {
            if let Some(run) = worker {
                actions.push(Action::Crash(number));
                if !run.paused {
                    actions.push(Action::Pause(number));
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let fault = matches!(
            action,
            Action::CrashDispatcher
                | Action::LoseMessage(_)
                | Action::DoubleMessage(_)
                | Action::Crash(_)
                | Action::Pause(_)
        );
        next.faults -= u8::from(fault);
        match action {
            Action::Publish(job) => self.publish(&mut next.jobs[job]),
            Action::Mark(job) => self.mark(&mut next.jobs[job]),
            Action::PublishAgain(job) | Action::DoubleMessage(job) => next.jobs[job].messages += 1,
            Action::LoseMessage(job) => next.jobs[job].messages -= 1,
            Action::Claim(job) => self.claim(&mut next, job),
            Action::GoOn(worker) => {
                let run = next.workers[worker].take()?;
                next.workers[worker] = self.go_on(&mut next, run);
            }
            Action::Pause(worker) => next.workers[worker].as_mut()?.paused = true,
            Action::Resume(worker) => next.workers[worker].as_mut()?.paused = false,
            Action::Crash(worker) => {
                let run = next.workers[worker].take()?;
                if run.step == Step::Acknowledge && self.scope != Scope::Vault {
                    let messages = &mut next.jobs[run.job].messages;
                    *messages = MESSAGES_MAX.min(*messages + 1);
                }
            }
            Action::CrashDispatcher => {
                for job in &mut next.jobs {
                    job.in_hand = InHand::No;
                }
            }
            Action::Reap(job) => self.give_up_attempt(&mut next, job),
            Action::GracePasses => {
                for pack in &mut next.vault.packs {
                    pack.place = match pack.place {
                        Place::Unlisted => Place::Forgotten,
                        Place::Retired => Place::Due,
                        place => place,
                    };
                }
            }
        }
        next.workers.sort_unstable();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_HOLDER, one_holder),
            Property::always(ENDS_ONCE, |_, state: &State| {
                state
                    .jobs
                    .iter()
                    .all(|job| job.ends == u8::from(job.has_ended()))
            }),
            Property::always(STOPPED_IS_ENDED, |fleet: &Self, state: &State| {
                let mut actions = Vec::new();
                fleet.ordinary(state, &mut actions);
                !actions.is_empty() || all_ended(state)
            }),
            Property::eventually(EVENTUALLY, |_, state: &State| all_ended(state)),
            Property::always(LIVE_PACKS, |fleet: &Self, state: &State| {
                let stored = state.vault.packs_that(Pack::is_stored);
                let there = state.vault.chunks_in(stored);
                let needs = chunks_of(state.counts);
                state.counts == 0 || fleet.scope == Scope::Word || needs.without(there).is_empty()
            }),
            Property::always(MANIFEST, |fleet: &Self, state: &State| {
                let counts = state.counts;
                let stored = state.vault.manifests;
                counts == 0 || fleet.scope == Scope::Word || stored[fleet.name(counts)] == counts
            }),
        ];
        properties.extend(self.hard_ways());
        properties
    }
}

fn all_ended(state: &State) -> bool {
    let idle = state.workers == [None; WORKERS];
    let mut jobs = state.jobs.iter();
    idle && jobs.all(|job| job.has_ended() || job.state == JobState::Absent)
}

fn one_holder(_: &Fleet, state: &State) -> bool {
    let running = (0..JOBS).filter(|job| state.jobs[*job].state == JobState::Running);
    let holders = state.runs().filter(|run| state.holds(run));
    running.count() <= 1 && holders.count() <= 1 && !state.stale_write
}

/// Whether the completed backup needs chunks that no present pack holds.
fn lacks_present(state: &State) -> bool {
    let present = state.vault.packs_that(Pack::is_present);
    let there = state.vault.chunks_in(present);
    !chunks_of(state.counts).without(there).is_empty()
}
