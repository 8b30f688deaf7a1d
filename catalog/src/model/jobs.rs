//! Jobs, leases, and what comes of each call about them.

use proto::backup::v1::{Failure, HookCommand, Progress};

use super::{Agent, Backup, JobKind, JobState, Restore, Urgency, VerifyDepth};

/// One piece of queued work. A verification is its job.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its id.
    pub job_id: String,
    /// What is to be done.
    pub kind: JobKind,
    /// Where it stands.
    pub state: JobState,
    /// The agent whose vault it works on.
    pub agent_id: String,
    /// The agent's owner.
    pub owner_id: String,
    /// The backup it makes, restores, verifies or deletes; None for compact.
    pub backup_id: Option<String>,
    /// The restore it runs.
    pub restore_id: Option<String>,
    /// How much a verification reads.
    pub depth: Option<VerifyDepth>,
    /// The destination of the copy that it makes or checks; else empty.
    pub destination_id: String,
    /// The pool whose workers may run it.
    pub pool: String,
    /// How soon it wants to be begun.
    pub urgency: Urgency,
    /// The fence: how often it was claimed.
    pub attempt: u32,
    /// Attempts that count against `max_attempts`: not those handed back.
    pub tries: u32,
    /// It ends FAILED when this many tries have failed.
    pub max_attempts: u32,
    /// Not to be begun before.
    pub due_time_ms: i64,
    /// When word of it was last sent to the queue.
    pub dispatch_time_ms: Option<i64>,
    /// The worker that holds the lease.
    pub lease_owner: Option<String>,
    /// When the lease runs out.
    pub lease_expire_time_ms: Option<i64>,
    /// Whether its worker shall stop.
    pub cancel_requested: bool,
    /// A container that an attempt paused and has not reported resumed: when
    /// that attempt is not the present one, resume it.
    pub paused_container: Option<String>,
    /// A command that an attempt owes its container and has not reported run:
    /// when that attempt is not the present one, run it.
    pub after_hook: Option<AfterHook>,
    /// Why it failed; while it waits for its next attempt, why the last one did.
    pub failure: Option<Failure>,
    /// How far it is.
    pub progress: Progress,
    /// When it was made.
    pub create_time_ms: i64,
    /// When a worker first began.
    pub start_time_ms: Option<i64>,
    /// When it ended.
    pub end_time_ms: Option<i64>,
}

impl Job {
    /// The id that watchers of this job watch: of its restore, its backup, or
    /// of the job itself (verifications, compactions, rotations, erasures, copies).
    pub fn subject_id(&self) -> &str {
        match self.kind {
            JobKind::Backup | JobKind::Delete => self.backup_id.as_deref(),
            JobKind::Restore => self.restore_id.as_deref(),
            JobKind::Verify
            | JobKind::Compact
            | JobKind::Rotate
            | JobKind::Erase
            | JobKind::Copy => None,
        }
        .unwrap_or(&self.job_id)
    }
}

/// A command that has to be run in a container, whatever comes of the backup.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AfterHook {
    /// The container's id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// The command.
    #[prost(message, optional, tag = "2")]
    pub command: Option<HookCommand>,
}

/// Names one attempt of a job: what an older attempt writes is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The job.
    pub job_id: String,
    /// The attempt, from 1.
    pub attempt: u32,
}

/// A claimed job, with what it is about as of the claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// The job, RUNNING. `job.paused_container` and `job.after_hook` are a dead
    /// attempt's: resume it and clear it with `note_paused`, then run it and clear
    /// it with `note_after_hook`.
    pub job: Job,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Its agent, also when it is deregistered; None when it is gone.
    pub agent: Option<Agent>,
    /// Its backup.
    pub backup: Option<Backup>,
    /// Its restore.
    pub restore: Option<Restore>,
}

impl Lease {
    /// What to name with every write.
    pub fn fence(&self) -> Fence {
        Fence {
            job_id: self.job.job_id.clone(),
            attempt: self.attempt,
        }
    }
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimOutcome {
    /// It is the caller's.
    Claimed(Box<Lease>),
    /// Its time has not come; it will be dispatched again.
    NotDue,
    /// Another exclusive job of the agent runs; it will be dispatched again
    /// when that one ends.
    Busy,
    /// Another worker has it, or it has ended.
    Gone,
    /// It never was, or its row was removed after its end.
    Unknown,
}

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease goes on.
    Held {
        /// Whether the work shall stop.
        cancel_requested: bool,
    },
    /// The lease is another's: stop, write nothing.
    Lost,
}

/// What came of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailOutcome {
    /// It will be tried again.
    WillRetry {
        /// Not before.
        at_ms: i64,
    },
    /// It has ended: FAILED, or CANCELED when that had been asked for.
    Ended(JobState),
}

/// A job that the queue should have word of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispatchItem {
    /// The job.
    pub job_id: String,
    /// The pool whose workers may run it.
    pub pool: String,
    /// How soon it wants to be begun.
    pub urgency: Urgency,
    /// Changes whenever the job is to be dispatched anew, so that a late
    /// `mark_dispatched` cannot hide the newer wish.
    pub dispatch_version: i64,
}

/// What the reaper did with a job whose lease ran out.
#[derive(Clone, Debug, PartialEq)]
pub struct Reaped {
    /// The job as it is now.
    pub job: Job,
    /// What was done.
    pub outcome: ReapOutcome,
}

/// See [`Reaped`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReapOutcome {
    /// It will be tried again.
    Requeued {
        /// Not before.
        at_ms: i64,
    },
    /// It ended FAILED (`WORKER_LOST`).
    Failed,
    /// It ended CANCELED, as had been asked for.
    Canceled,
}
