//! States and kinds; stored as words.

use sea_orm::{DeriveActiveEnum, EnumIter};

/// Where a backup stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum BackupState {
    /// Accepted; waits for a worker.
    Pending,
    /// A worker runs it, or it waits for its next attempt.
    Running,
    /// Stored, and read back as stored.
    Completed,
    /// Ended without success.
    Failed,
    /// Ended because it was canceled.
    Canceled,
    /// Being removed. With a failure set: the removal failed, delete it again.
    Deleting,
}

impl BackupState {
    /// Whether nothing more happens to it by itself, save its removal.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Canceled)
    }
}

/// What asked for a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum Trigger {
    /// A caller.
    Manual,
    /// A schedule.
    Schedule,
    /// A restore in place, before it replaces the agent.
    Safety,
}

/// Where a restore stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum RestoreState {
    /// Planned only.
    Draft,
    /// Started; waits for a worker.
    Pending,
    /// A worker runs it, or it waits for its next attempt.
    Running,
    /// The new agent is there and registered.
    Completed,
    /// Ended without success.
    Failed,
    /// Ended because it was canceled.
    Canceled,
}

impl RestoreState {
    /// Whether nothing more happens to it.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Canceled)
    }
}

/// The kinds of queued work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum JobKind {
    /// Source to vault.
    Backup,
    /// Vault to a new agent.
    Restore,
    /// Reads a backup and checks it.
    Verify,
    /// Removes a backup's manifest.
    Delete,
    /// Removes and rewrites packs.
    Compact,
    /// Brings every vault under another key.
    Rotate,
    /// Destroys an agent's keys, then the rest of its vaults.
    Erase,
    /// Copies a backup to another destination.
    Copy,
}

impl JobKind {
    /// Whether it writes to the vault: one of these at a time for an agent. (A rotation
    /// is of no agent: one of them at a time.)
    pub fn is_exclusive(self) -> bool {
        matches!(
            self,
            Self::Backup | Self::Delete | Self::Compact | Self::Rotate | Self::Erase | Self::Copy
        )
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker, for its time or for another job.
    Queued,
    /// A worker holds its lease.
    Running,
    /// Done.
    Completed,
    /// Ended without success.
    Failed,
    /// Ended because it was canceled.
    Canceled,
}

impl JobState {
    /// Whether nothing more happens to it.
    pub fn is_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// How soon a job wants to be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum Urgency {
    /// Somebody waits for it.
    Manual,
    /// Nobody does.
    Scheduled,
}

/// How much a verification reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum VerifyDepth {
    /// Manifest, entries and indexes; size and presence of packs.
    Structure,
    /// Every byte.
    Full,
}
