//! Transactions of the catalog, each at once; and word of jobs on its way.

use super::{
    flaws::Flaw,
    fleet::{Fleet, Scope},
    state::{
        ATTEMPTS_MAX, BACKUP, COMPACT, COMPACT_AGAIN, InHand, JOBS, Job, JobState, Run, State, Step,
    },
};

impl Job {
    /// The row changes: who holds a copy of it can't mark it dispatched any more.
    fn forget_dispatch(&mut self) {
        self.dispatched = false;
        if self.in_hand == InHand::Published {
            self.in_hand = InHand::Outdated;
        }
    }
}

impl Fleet {
    fn another_runs(&self, state: &State, job: usize) -> bool {
        let mut others = (0..JOBS).filter(|other| *other != job);
        others.any(|other| state.jobs[other].state == JobState::Running)
    }

    /// Whether a dispatcher finds it undispatched and due. One that waits for its
    /// agent is due when that is free.
    pub fn is_due(&self, state: &State, number: usize) -> bool {
        let job = &state.jobs[number];
        job.state == JobState::Queued
            && !job.dispatched
            && job.in_hand == InHand::No
            && !(job.waiting && self.another_runs(state, number))
    }

    pub fn publish(&self, job: &mut Job) {
        job.messages += 1;
        job.in_hand = InHand::Published;
    }

    pub fn mark(&self, job: &mut Job) {
        job.dispatched |= job.state == JobState::Queued && job.in_hand == InHand::Published;
        job.in_hand = InHand::No;
    }

    /// Whether word of it seems to have gone missing.
    pub fn may_publish_again(&self, job: &Job) -> bool {
        job.state == JobState::Queued
            && job.dispatched
            && job.messages == 0
            && job.in_hand == InHand::No
            && self.flaw != Some(Flaw::NoRedispatch)
    }

    /// A free worker receives a message, and claims its job.
    pub fn claim(&self, state: &mut State, number: usize) {
        if self.scope != Scope::Vault {
            state.jobs[number].messages -= 1;
        }
        if state.jobs[number].state != JobState::Queued {
            return;
        }
        let busy = self.another_runs(state, number) && self.flaw != Some(Flaw::NotExclusive);
        let job = &mut state.jobs[number];
        if busy {
            job.waiting = true;
            job.forget_dispatch();
            return;
        }
        job.state = JobState::Running;
        job.attempt += 1;
        job.waiting = false;
        let run = Run {
            job: number,
            attempt: job.attempt,
            step: Step::Acknowledge,
            paused: false,
            belief: Default::default(),
        };
        let free = state.workers.iter_mut().find(|worker| worker.is_none());
        *free.expect("a free worker received the message") = Some(run);
    }

    /// Whether the lease can run out: who holds it is gone or paused.
    pub fn may_reap(&self, state: &State, number: usize) -> bool {
        let mut holders = state
            .runs()
            .filter(|run| run.job == number && state.holds(run));
        state.jobs[number].state == JobState::Running && holders.all(|run| run.paused)
    }

    /// This attempt came to nothing: another one, or the end.
    pub fn give_up_attempt(&self, state: &mut State, number: usize) {
        let job = &mut state.jobs[number];
        if job.attempt < ATTEMPTS_MAX {
            job.state = JobState::Queued;
            job.waiting = false;
            job.forget_dispatch();
            self.wake_next(state);
        } else {
            self.end(state, number, JobState::Failed);
        }
    }

    fn end(&self, state: &mut State, number: usize, how: JobState) {
        let job = &mut state.jobs[number];
        job.state = how;
        job.attempt = 0;
        job.dispatched = false;
        job.waiting = false;
        job.ends += 1;
        self.wake_next(state);
    }

    /// The agent's oldest job that found it busy is due.
    fn wake_next(&self, state: &mut State) {
        let mut jobs = state.jobs.iter_mut();
        if let Some(job) = jobs.find(|job| job.state == JobState::Queued && job.waiting) {
            job.waiting = false;
            job.forget_dispatch();
        }
    }

    /// Whether the catalog takes a write of this attempt.
    pub fn is_taken(&self, state: &mut State, run: &Run) -> bool {
        let holds = state.holds(run);
        let running = state.jobs[run.job].state == JobState::Running;
        let taken = holds || (running && self.flaw == Some(Flaw::NoFence));
        state.stale_write |= taken && !holds;
        taken
    }

    /// The good end of a job, in one transaction.
    pub fn complete(&self, state: &mut State, run: &Run) {
        if !self.is_taken(state, run) {
            return;
        }
        if run.job == BACKUP {
            state.counts = run.attempt;
        }
        self.end(state, run.job, JobState::Completed);
        let waits = state.vault.packs_that(super::state::Pack::is_retired);
        if run.job == COMPACT && !waits.is_empty() {
            state.jobs[COMPACT_AGAIN].state = JobState::Queued;
        }
    }
}
