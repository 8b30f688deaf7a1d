//! What the catalog answers with: plain structs, times in milliseconds since
//! 1970, and the messages of `nora.backup.v1` where the API has one already.

mod destinations;
mod jobs;
mod keys;
mod schedules;
mod states;

pub use destinations::{
    BackupCopy, CopyState, DEFAULT_DESTINATION, NewDestination, StoredDestination,
};
pub use jobs::{
    AfterHook, ClaimOutcome, DispatchItem, FailOutcome, Fence, Job, Lease, ReapOutcome, Reaped,
    Renewal,
};
pub use keys::{
    DestinationRotation, KeyHolder, KeyRotation, KeyUse, NewKeyRotation, RotationCounts,
    RotationStep, VaultProblem,
};
pub use proto::backup::v1::Failure;
use proto::backup::v1::{
    BackupWarning, Integration, Progress, RestoreDecision, RestorePlan, Source,
};
pub use schedules::{
    Frequency, RemovalRule, Removed, Schedule, ScheduleRound, ScheduleSpec, SkipReason,
};
pub use states::{BackupState, JobKind, JobState, RestoreState, Trigger, Urgency, VerifyDepth};

/// An agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Its id, chosen by the caller.
    pub agent_id: String,
    /// Its name for people.
    pub display_name: String,
    /// The user who owns it.
    pub owner_id: String,
    /// The workspace it belongs to; may be empty.
    pub workspace_id: String,
    /// Where its state lives.
    pub source: Source,
    /// What it is connected to.
    pub integrations: Vec<Integration>,
    /// The pool whose workers reach the source.
    pub pool: String,
    /// What is left out of its backups, as lines of a .gitignore file.
    pub patterns: Vec<String>,
    /// From which size on a backup carries a warning; 0: as the operator set it.
    pub size_warning_bytes: u64,
    /// Where new backups go; empty: to the default destination.
    pub destination_id: String,
    /// Where completed backups are copied to; empty: nowhere.
    pub second_destination_id: String,
    /// Changes with every change of the fields above.
    pub etag: String,
    /// The restore that made it.
    pub restore_id: Option<String>,
    /// Bytes its vault takes, as of its last job.
    pub vault_bytes: u64,
    /// When it was registered.
    pub create_time_ms: i64,
    /// When it was last changed.
    pub update_time_ms: i64,
}

/// An agent as it shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAgent {
    /// Its id.
    pub agent_id: String,
    /// Its name for people.
    pub display_name: String,
    /// The user who owns it.
    pub owner_id: String,
    /// The workspace it belongs to; may be empty.
    pub workspace_id: String,
    /// Where its state lives.
    pub source: Source,
    /// What it is connected to.
    pub integrations: Vec<Integration>,
    /// The pool whose workers reach the source.
    pub pool: String,
    /// What is left out of its backups, as lines of a .gitignore file.
    pub patterns: Vec<String>,
    /// From which size on a backup carries a warning; 0: as the operator set it.
    pub size_warning_bytes: u64,
    /// Where new backups go; empty: to the default destination.
    pub destination_id: String,
    /// Where completed backups are copied to; empty: nowhere.
    pub second_destination_id: String,
}

/// A backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Backup {
    /// Its id.
    pub backup_id: String,
    /// The agent it is of.
    pub agent_id: String,
    /// The user who owns it.
    pub owner_id: String,
    /// Its name for people.
    pub name: String,
    /// Where it stands.
    pub state: BackupState,
    /// What asked for it.
    pub trigger: Trigger,
    /// The job that makes, or made, it.
    pub job_id: String,
    /// Which attempt's manifest counts; set when it was completed.
    pub manifest_attempt: Option<u32>,
    /// BLAKE3 of the manifest; set when it was completed.
    pub manifest_digest: Option<[u8; 32]>,
    /// Its number in the agent's vault; set when it was completed.
    pub sequence: Option<u64>,
    /// Bytes of the agent's files.
    pub size_bytes: u64,
    /// Bytes it added to the destination.
    pub stored_bytes: u64,
    /// Bytes that were new to the vault, before compression.
    pub new_bytes: u64,
    /// Entries of all types.
    pub entries: u64,
    /// The first warnings, at most [`crate::limits::WARNINGS_MAX`].
    pub warnings: Vec<BackupWarning>,
    /// Warnings in all.
    pub warnings_total: u64,
    /// When every byte was last found right.
    pub verify_time_ms: Option<i64>,
    /// What the last verification found wrong.
    pub verify_failure: Option<Failure>,
    /// Why it failed; while DELETING, why its removal failed.
    pub failure: Option<Failure>,
    /// How far its job is; after the end, the last figures.
    pub progress: Progress,
    /// When it was asked for.
    pub create_time_ms: i64,
    /// When a worker first began.
    pub start_time_ms: Option<i64>,
    /// When it ended.
    pub end_time_ms: Option<i64>,
    /// Whether no rule removes it, and no deletion before this is taken back.
    pub protected: bool,
    /// The destination where it lies.
    pub destination_id: String,
    /// Its copies at other destinations.
    pub copies: Vec<BackupCopy>,
}

/// What becomes of the backups of an agent that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupsOfGone {
    /// There must be none.
    None,
    /// They are deleted.
    Deleted,
    /// They stay their owner's.
    Kept,
}

/// What makes a creating call idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// Who calls.
    pub caller: String,
    /// The caller's id of the call.
    pub request_id: String,
    /// A digest of the method and all other fields: another one under the same
    /// id is refused.
    pub fingerprint: Vec<u8>,
}

/// A backup to make.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBackup {
    /// The agent.
    pub agent_id: String,
    /// The agent's owner: an agent of another one is not found.
    pub owner_id: String,
    /// Name for people.
    pub name: String,
    /// What asks for it: a schedule's backup has urgency Scheduled.
    pub trigger: Trigger,
    /// Makes the call idempotent.
    pub request: Option<RequestKey>,
}

/// What a worker found out and stored when it completed a backup.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupResult {
    /// The attempt in the manifest's name.
    pub manifest_attempt: u32,
    /// BLAKE3 of the manifest.
    pub manifest_digest: [u8; 32],
    /// Its number in the vault.
    pub sequence: u64,
    /// Bytes of the agent's files.
    pub size_bytes: u64,
    /// Bytes added to the destination.
    pub stored_bytes: u64,
    /// Bytes new to the vault, before compression.
    pub new_bytes: u64,
    /// Entries of all types.
    pub entries: u64,
    /// Warnings; what exceeds [`crate::limits::WARNINGS_MAX`] is dropped.
    pub warnings: Vec<BackupWarning>,
    /// Warnings in all.
    pub warnings_total: u64,
    /// Bytes the whole vault takes now.
    pub vault_bytes: u64,
    /// The last figures; None keeps those of the last renewal.
    pub progress: Option<Progress>,
}

/// A restore.
#[derive(Clone, Debug, PartialEq)]
pub struct Restore {
    /// Its id.
    pub restore_id: String,
    /// The backup.
    pub backup_id: String,
    /// The agent the backup is of: whose vault is read.
    pub agent_id: String,
    /// The user who owns it.
    pub owner_id: String,
    /// Where it stands.
    pub state: RestoreState,
    /// What is made.
    pub plan: RestorePlan,
    /// What is to decide, and what was decided.
    pub decisions: Vec<RestoreDecision>,
    /// What the new agent has not quite as the backup has it.
    pub warnings: Vec<String>,
    /// Its job, once it was started.
    pub job_id: Option<String>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// How far its job is.
    pub progress: Progress,
    /// When the draft was made.
    pub create_time_ms: i64,
    /// When a worker first began.
    pub start_time_ms: Option<i64>,
    /// When it ended.
    pub end_time_ms: Option<i64>,
    /// When the draft goes away; None once it was started.
    pub expire_time_ms: Option<i64>,
    /// Whether it replaces the agent itself.
    pub in_place: bool,
    /// The backup that is made before the agent is replaced.
    pub safety_backup_id: Option<String>,
    /// The destination of the copy that is read; empty: where the backup lies.
    pub destination_id: String,
}

/// A restore to plan.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDraft {
    /// The backup, COMPLETED.
    pub backup_id: String,
    /// The backup's owner: a backup of another one is not found.
    pub owner_id: String,
    /// What would be made; `agent_id` must be set.
    pub plan: RestorePlan,
    /// What is to decide.
    pub decisions: Vec<RestoreDecision>,
    /// What the new agent will not have quite as the backup has it.
    pub warnings: Vec<String>,
    /// The destination of the copy that is read; empty: where the backup lies.
    pub destination_id: String,
    /// Makes the call idempotent.
    pub request: Option<RequestKey>,
}

/// What a worker made when it completed a restore.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoreResult {
    /// The new agent, registered in the same transaction.
    pub agent: NewAgent,
    /// Replaces the draft's warnings; at most [`crate::limits::WARNINGS_MAX`] are kept.
    pub warnings: Vec<String>,
    /// The last figures; None keeps those of the last renewal.
    pub progress: Option<Progress>,
}

/// A backup to verify.
#[derive(Clone, Debug, PartialEq)]
pub struct NewVerification {
    /// The backup, COMPLETED.
    pub backup_id: String,
    /// The backup's owner: a backup of another one is not found.
    pub owner_id: String,
    /// How much is read.
    pub depth: VerifyDepth,
    /// The destination of the copy that is checked; empty: the backup where it lies.
    pub destination_id: String,
    /// Makes the call idempotent.
    pub request: Option<RequestKey>,
}

/// Keeps a backup, and the packs it needs, while somebody reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Its id.
    pub pin_id: String,
    /// The backup.
    pub backup_id: String,
    /// The backup's agent.
    pub agent_id: String,
    /// Who reads, for people: a job id or the name of a call.
    pub holder: String,
    /// When it was taken.
    pub create_time_ms: i64,
    /// When it ends by itself.
    pub expire_time_ms: i64,
}

/// What the catalog knows of a manifest, for compaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownManifest {
    /// The backup.
    pub backup_id: String,
    /// Where it stands. COMPLETED: the manifest of `manifest_attempt` is live,
    /// others of the backup are garbage. DELETING: keep it, its delete job
    /// removes it. FAILED, CANCELED: all are garbage. PENDING, RUNNING: leave them.
    pub state: BackupState,
    /// The attempt that counts.
    pub manifest_attempt: Option<u32>,
    /// BLAKE3 of the manifest that counts.
    pub manifest_digest: Option<[u8; 32]>,
    /// The destinations where it lies and where its copies are complete.
    pub destination_ids: Vec<String>,
}

/// What backups take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageUsage {
    /// COMPLETED backups.
    pub backups: u64,
    /// Sum of their sizes.
    pub size_bytes: u64,
    /// Bytes that the vaults take.
    pub stored_bytes: u64,
    /// Agents that have a COMPLETED backup.
    pub agents: u64,
}

/// Which agents to list. Deregistered ones never are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFilter {
    /// Only this owner's.
    pub owner_id: Option<String>,
    /// Only this workspace's.
    pub workspace_id: Option<String>,
}

/// Which backups to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupFilter {
    /// Only this owner's.
    pub owner_id: Option<String>,
    /// Only this agent's.
    pub agent_id: Option<String>,
    /// Only these states; empty: all.
    pub states: Vec<BackupState>,
}

/// Which restores to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreFilter {
    /// Only this owner's.
    pub owner_id: Option<String>,
    /// Only this backup's.
    pub backup_id: Option<String>,
}

/// One page, please.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// How many at the most; brought into 1 to [`crate::limits::PAGE_MAX`].
    pub limit: u64,
    /// Where the page before ended: [`Page::next`].
    pub after: Option<String>,
}

impl PageRequest {
    /// The first page.
    pub fn first(limit: u64) -> Self {
        Self { limit, after: None }
    }

    /// The page after another.
    pub fn after(limit: u64, after: impl Into<String>) -> Self {
        Self {
            limit,
            after: Some(after.into()),
        }
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// What it holds.
    pub items: Vec<T>,
    /// The key of its last item; None when there is no further page.
    pub next: Option<String>,
}
