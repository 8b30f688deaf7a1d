//! What can go wrong. Rules:
//!
//! - An error says what happened, to what, and what to do.
//! - [`CatalogError::is_retryable`]: the same call may succeed later, unchanged.
//! - [`CatalogError::reason`]: the name in `nora.backup.v1.ErrorReason`, without
//!   its prefix.
//! - A URL, with its password, is in no error.

use sea_orm::{DbErr, RuntimeErr, SqlErr};

/// What a catalog call can answer besides its result.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// No such agent, or another owner's.
    #[error("agent {agent_id} does not exist: register it first")]
    AgentNotFound {
        /// The agent.
        agent_id: String,
    },
    /// No such backup, or another owner's.
    #[error("backup {backup_id} does not exist: list the backups for those there are")]
    BackupNotFound {
        /// The backup.
        backup_id: String,
    },
    /// No such restore, or another owner's.
    #[error("restore {restore_id} does not exist: list the restores for those there are")]
    RestoreNotFound {
        /// The restore.
        restore_id: String,
    },
    /// No such job.
    #[error("job {job_id} does not exist: list the jobs for those there are")]
    JobNotFound {
        /// The job.
        job_id: String,
    },
    /// Only what has failed is tried again.
    #[error("job {job_id} has not failed, it is {state}: only a failed job gets a new try")]
    JobNotFailed {
        /// The job.
        job_id: String,
        /// Where it stands.
        state: &'static str,
    },
    /// The agent belongs to somebody else.
    #[error(
        "agent {agent_id} is registered for another owner: deregister it first, or choose another id"
    )]
    OwnerMismatch {
        /// The agent.
        agent_id: String,
    },
    /// The agent is not what the caller thinks.
    #[error("agent {agent_id} has changed meanwhile: read it again and repeat with its etag")]
    EtagMismatch {
        /// The agent.
        agent_id: String,
    },
    /// The agent has no schedule.
    #[error("agent {agent_id} has no schedule: set one first")]
    ScheduleNotFound {
        /// The agent.
        agent_id: String,
    },
    /// The schedule is not what the caller thinks.
    #[error(
        "the schedule of agent {agent_id} has changed meanwhile: read it again and repeat with its etag"
    )]
    ScheduleChanged {
        /// The agent.
        agent_id: String,
    },
    /// A protected backup is not removed.
    #[error("backup {backup_id} is protected: take the protection back first")]
    BackupProtected {
        /// The backup.
        backup_id: String,
    },
    /// An agent with backups is not forgotten.
    #[error("agent {agent_id} has backups: delete them first, or set delete_backups")]
    AgentHasBackups {
        /// The agent.
        agent_id: String,
    },
    /// A job of the agent waits or runs.
    #[error("agent {agent_id} is busy: {doing}; wait for its end, or cancel it")]
    AgentBusy {
        /// The agent.
        agent_id: String,
        /// What goes on.
        doing: &'static str,
    },
    /// A backup that has not ended is not deleted.
    #[error("backup {backup_id} has not ended: wait for its end, or cancel it")]
    BackupNotEnded {
        /// The backup.
        backup_id: String,
    },
    /// Only COMPLETED backups can be read.
    #[error("backup {backup_id} is not COMPLETED: only a completed backup can be read")]
    BackupNotCompleted {
        /// The backup.
        backup_id: String,
    },
    /// What has ended can't be started or canceled.
    #[error("{what} {id} has ended already: nothing was changed")]
    AlreadyEnded {
        /// "backup", "restore" or "job".
        what: &'static str,
        /// Which.
        id: String,
    },
    /// Somebody reads the backup.
    #[error(
        "backup {backup_id} is being read: wait until its downloads, restores and verifications have ended"
    )]
    BackupInUse {
        /// The backup.
        backup_id: String,
    },
    /// The draft has decisions that are not made.
    #[error("restore {restore_id} needs a choice for: {}", decision_ids.join(", "))]
    DecisionMissing {
        /// The restore.
        restore_id: String,
        /// What is to decide.
        decision_ids: Vec<String>,
    },
    /// A choice for what is not to decide.
    #[error(
        "restore {restore_id} has no decision {decision_id}: read the restore for those it has"
    )]
    DecisionUnknown {
        /// The restore.
        restore_id: String,
        /// What is not there.
        decision_id: String,
    },
    /// The new agent's id is taken.
    #[error("agent {agent_id} exists already: choose another id for the new agent")]
    AgentExists {
        /// The agent.
        agent_id: String,
    },
    /// No such destination.
    #[error(
        "destination {destination_id} does not exist: list the destinations for those there are"
    )]
    DestinationNotFound {
        /// The destination.
        destination_id: String,
    },
    /// A destination of this id or at this place is there.
    #[error(
        "destination {destination_id} is there already, at {place}: use it, or choose another id and place"
    )]
    DestinationExists {
        /// The one that is there.
        destination_id: String,
        /// Where it is.
        place: String,
    },
    /// A destination that is used is not forgotten.
    #[error(
        "destination {destination_id} is in use: {used}; register those agents with another one and \
         delete what lies there first"
    )]
    DestinationInUse {
        /// The destination.
        destination_id: String,
        /// By whom.
        used: String,
    },
    /// The destination is not what the caller thinks.
    #[error(
        "destination {destination_id} has changed meanwhile: read it again and repeat with its etag"
    )]
    DestinationChanged {
        /// The destination.
        destination_id: String,
    },
    /// There is nothing to read there.
    #[error(
        "backup {backup_id} has no complete copy at destination {destination_id}: read the backup \
         for those it has"
    )]
    CopyNotCompleted {
        /// The backup.
        backup_id: String,
        /// The destination.
        destination_id: String,
    },
    /// Keys are rotated one rotation after the other.
    #[error("keys are being rotated already: watch rotation {rotation_id} to its end")]
    KeyRotationRunning {
        /// The one that waits or runs.
        rotation_id: String,
    },
    /// No such rotation.
    #[error("key rotation {rotation_id} does not exist: ask for the latest one")]
    KeyRotationNotFound {
        /// The rotation.
        rotation_id: String,
    },
    /// The older keys are still needed by processes that run.
    #[error(
        "key {key_id} is not what these write with: {}; make it their writing key and start them anew; one that is gone \
         counts as there for {} s after its last sign of life",
        named(replicas),
        crate::limits::REPLICA_GONE_MS / 1_000
    )]
    KeyNotHeld {
        /// The key.
        key_id: String,
        /// Who does not write with it.
        replicas: Vec<String>,
    },
    /// The older keys are still needed by vaults.
    #[error("{}", not_rotated(key_id, agents, destinations))]
    KeysNotRotated {
        /// The key.
        key_id: String,
        /// Agents whose vaults are not under it, as far as known.
        agents: Vec<String>,
        /// Destinations that were not seen to in whole.
        destinations: Vec<String>,
    },
    /// The `request_id` was used for something else.
    #[error("request_id {request_id} was used for a different request: use a new one")]
    RequestIdReused {
        /// The id.
        request_id: String,
    },
    /// The pin has ended, so what it kept may be gone.
    #[error("pin {pin_id} has ended: pin the backup again and read it anew")]
    PinLost {
        /// The pin.
        pin_id: String,
    },
    /// The write came from an attempt that no longer holds the lease.
    #[error("job {job_id} is no longer attempt {attempt}'s: stop, its write was refused")]
    Fenced {
        /// The job.
        job_id: String,
        /// The attempt that lost it.
        attempt: u32,
    },
    /// The settings can't work.
    #[error("{0}")]
    Settings(String),
    /// A newer program has changed the schema.
    #[error(
        "the database was changed by a newer version of this program ({change}): start that version"
    )]
    Newer {
        /// The change that is not known here.
        change: String,
    },
    /// Nobody answers at the database's address.
    #[error("{address} cannot be reached ({cause}): check that the database runs there")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// The database cannot be reached, or is too busy.
    #[error("the database did not answer ({doing}): check that it runs and can be reached")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What the database said.
        source: DbErr,
    },
    /// The database refused.
    #[error("the database refused ({doing}): see the log for its words")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What the database said.
        source: DbErr,
    },
    /// A stored value is not what was written.
    #[error(
        "the catalog's {what} of {id} cannot be read: restore the database from its own backup"
    )]
    Damaged {
        /// Which column.
        what: &'static str,
        /// Of what.
        id: String,
    },
}

impl CatalogError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Unreachable { .. })
    }

    /// The name in `nora.backup.v1.ErrorReason`, without its prefix.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AgentNotFound { .. } => "AGENT_NOT_FOUND",
            Self::BackupNotFound { .. } => "BACKUP_NOT_FOUND",
            Self::RestoreNotFound { .. } => "RESTORE_NOT_FOUND",
            Self::JobNotFound { .. } => "JOB_NOT_FOUND",
            Self::JobNotFailed { .. } => "JOB_NOT_FAILED",
            Self::OwnerMismatch { .. } => "OWNER_MISMATCH",
            Self::EtagMismatch { .. }
            | Self::ScheduleChanged { .. }
            | Self::DestinationChanged { .. } => "ETAG_MISMATCH",
            Self::DestinationNotFound { .. } => "DESTINATION_NOT_FOUND",
            Self::DestinationExists { .. } => "DESTINATION_EXISTS",
            Self::DestinationInUse { .. } => "DESTINATION_IN_USE",
            Self::CopyNotCompleted { .. } => "COPY_NOT_COMPLETED",
            Self::ScheduleNotFound { .. } => "SCHEDULE_NOT_FOUND",
            Self::BackupProtected { .. } => "BACKUP_PROTECTED",
            Self::AgentHasBackups { .. } => "AGENT_HAS_BACKUPS",
            Self::AgentBusy { .. } | Self::BackupNotEnded { .. } => "AGENT_BUSY",
            Self::BackupNotCompleted { .. } => "BACKUP_NOT_COMPLETED",
            Self::AlreadyEnded { .. } => "ALREADY_ENDED",
            Self::BackupInUse { .. } => "BACKUP_IN_USE",
            Self::DecisionMissing { .. } => "DECISION_MISSING",
            Self::DecisionUnknown { .. } => "INVALID_FIELD",
            Self::AgentExists { .. } => "AGENT_EXISTS",
            Self::KeyRotationRunning { .. } => "KEY_ROTATION_RUNNING",
            Self::KeyRotationNotFound { .. } => "KEY_ROTATION_NOT_FOUND",
            Self::KeyNotHeld { .. } => "KEY_NOT_HELD",
            Self::KeysNotRotated { .. } => "KEYS_NOT_ROTATED",
            Self::RequestIdReused { .. } => "REQUEST_ID_REUSED",
            Self::Unavailable { .. } | Self::Unreachable { .. } => "DATABASE_UNAVAILABLE",
            Self::PinLost { .. }
            | Self::Fenced { .. }
            | Self::Settings(_)
            | Self::Newer { .. }
            | Self::Database { .. }
            | Self::Damaged { .. } => "INTERNAL",
        }
    }

    /// Sorts what the database said into "try again" and "no".
    pub(crate) fn from_db(doing: &'static str, source: DbErr) -> Self {
        if is_unavailable(&source) {
            Self::Unavailable { doing, source }
        } else {
            Self::Database { doing, source }
        }
    }

    /// Whether a unique index refused.
    pub(crate) fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Database { source, .. }
            if matches!(source.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))))
    }
}

/// The first few names of many.
fn named(names: &[String]) -> String {
    const NAMED_MAX: usize = 10;
    let text = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

fn not_rotated(key_id: &str, agents: &[String], destinations: &[String]) -> String {
    let mut left = Vec::new();
    if !destinations.is_empty() {
        left.push(format!(
            "the last rotation to key {key_id} did not come to its end at these destinations: {}; \
             see why with `nora-backup key status`, mend it and rotate again",
            named(destinations)
        ));
    }
    if !agents.is_empty() {
        left.push(format!(
            "the vaults of these agents are not under key {key_id}: {}; configure the keys that open \
             them as previous keys and rotate again, or delete them",
            named(agents)
        ));
    }
    if left.is_empty() {
        return format!(
            "no rotation to key {key_id} is complete: rotate without retiring the previous keys first"
        );
    }
    left.join("; ")
}

/// Whether the connection, not the statement, is at fault; or whether the
/// database itself asks to try again.
fn is_unavailable(error: &DbErr) -> bool {
    let runtime = match error {
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => return true,
        DbErr::Exec(runtime) | DbErr::Query(runtime) => runtime,
        _ => return false,
    };
    let RuntimeErr::SqlxError(error) = runtime else {
        return false;
    };
    if let Some(refusal) = error.as_database_error() {
        let code = refusal.code().unwrap_or_default();
        // SQLite: BUSY, LOCKED and their extended codes. PostgreSQL: serialization,
        // deadlock, too many connections, shutting down, a lock, a statement or a
        // transaction that took too long, connection exceptions.
        return matches!(
            code.as_ref(),
            "5" | "6"
                | "261"
                | "262"
                | "517"
                | "773"
                | "40001"
                | "40P01"
                | "55P03"
                | "57014"
                | "25P03"
                | "53300"
                | "57P01"
                | "57P02"
                | "57P03"
        ) || code.starts_with("08");
    }
    // No refusal of the database: I/O, TLS, protocol, closed pool, timeout.
    true
}

/// Puts what was being done to what the database said.
pub(crate) trait Doing<T> {
    /// See [`CatalogError::from_db`].
    fn doing(self, doing: &'static str) -> Result<T, CatalogError>;
}

impl<T> Doing<T> for Result<T, DbErr> {
    fn doing(self, doing: &'static str) -> Result<T, CatalogError> {
        self.map_err(|source| CatalogError::from_db(doing, source))
    }
}
