//! Where a backup is brought back to: one file a kind of target.
//!
//! - [`directory`]: a new folder
//! - [`docker`]: a new container with new volumes
//! - `warnings`: what the new agent has not quite as the backup has it
//!
//! Either also in place of what is there: that is put aside when the new one is published, put
//! back by [`Target::clean`], and removed by [`Target::settle`].
//!
//! A restore happens in steps, so that nothing half-made is ever seen, whatever is killed when:
//! [`Target::clean`] removes what dead attempts left, [`Target::write`] makes everything out of
//! sight, [`Target::publish`] puts it in its place at one stroke, the catalog registers the new
//! agent, and [`Target::settle`] removes the marks that the next attempt would have needed.
//! When anything goes wrong before the catalog knows of the new agent, `clean` is called again;
//! but when the job was lost to another attempt, only [`Target::abandon`] is.

use std::sync::Arc;

use async_trait::async_trait;
use proto::backup::v1::{RestoreDecision, RestorePlan, Source as SourceMessage, restore_plan};
use tokio_util::sync::CancellationToken;
use vault::{BackupReader, Meter, VaultError};

use crate::settings::WorkerSettings;

pub mod directory;
pub mod docker;
mod warnings;

/// What a target is told about the restore it is made for.
#[derive(Clone)]
pub struct RestoreContext {
    /// The restore's id. Names of what is made are derived from it, so that a later attempt finds
    /// what a dead one left.
    pub restore_id: String,
    /// The attempt (fence), from 1.
    pub attempt: u32,
    /// What to make.
    pub plan: RestorePlan,
    /// Whether what is at the target now is to be replaced.
    pub in_place: bool,
    /// What was decided, with `choice` set.
    pub decisions: Vec<RestoreDecision>,
    /// Canceled when the job shall end, for whatever cause.
    pub cancel: CancellationToken,
    /// Where progress is counted: entries and bytes done by the vault's walk, or by the target
    /// where it does not use that.
    pub meter: Arc<Meter>,
}

/// What a restore made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Restored {
    /// The source that the new agent is registered with.
    pub source: SourceMessage,
    /// What the new agent has not quite as the backup has it. At most
    /// [`WARNINGS_MAX`], the last of which then says how many more there were.
    pub warnings: Vec<String>,
}

/// Warnings that a restore keeps at the most.
pub const WARNINGS_MAX: usize = 100;

/// Makes one new agent's state.
///
/// Futures are driven to their end even when the job is canceled (they return
/// [`TargetError::Canceled`] within a second); they never block the async runtime.
#[async_trait]
pub trait Target: Send + Sync {
    /// Removes whatever this or an earlier attempt of the same restore made, finished or not.
    /// Works also when the job was canceled. Changes nothing when there is nothing.
    async fn clean(&self) -> Result<(), TargetError>;

    /// Removes what this very attempt made out of sight, and nothing else: the job is another
    /// attempt's by now, which cleans up what it can see.
    async fn abandon(&self) -> Result<(), TargetError> {
        Ok(())
    }

    /// Makes everything, whole and durable, out of sight of whoever looks at the target.
    async fn write(&self, reader: BackupReader) -> Result<Restored, TargetError>;

    /// Puts what was written in its place. Called once, after the worker has made sure that it
    /// still holds the job.
    async fn publish(&self) -> Result<(), TargetError>;

    /// Removes the marks by which `clean` would have found what was published. Called when the
    /// catalog has the new agent; a failure is only logged.
    async fn settle(&self) -> Result<(), TargetError>;
}

/// Opens the target that a restore's plan names. Does not reach out yet.
pub fn open(
    settings: &WorkerSettings,
    context: RestoreContext,
) -> Result<Box<dyn Target>, TargetError> {
    match context.plan.target.clone() {
        Some(restore_plan::Target::Directory(target)) => Ok(Box::new(
            directory::DirectoryTarget::new(settings, target, context),
        )),
        Some(restore_plan::Target::Docker(target)) => docker::open(settings, target, context),
        None => Err(TargetError::Unusable(
            "the restore names no target: make a new draft with one".to_owned(),
        )),
    }
}

/// Why a restore could not be made. Each message says what happened, to what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The target exists already, can't be made, or is not allowed.
    #[error("{0}")]
    Unusable(String),
    /// The target is usable, but writing failed; it may work later.
    #[error("{0}")]
    Unwritable(String),
    /// The backup holds an entry that may not be made there; it is named.
    #[error("{0}")]
    EntryRefused(String),
    /// The Docker image that the new container needs is not on the engine.
    #[error("{0}")]
    ImageMissing(String),
    /// The Docker Engine cannot be reached.
    #[error("{0}")]
    EngineUnavailable(String),
    /// The backup could not be read.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The job was told to end.
    #[error("the restore was canceled")]
    Canceled,
}

impl TargetError {
    /// Whether the same attempt may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unusable(_) | Self::EntryRefused(_) | Self::ImageMissing(_) | Self::Canceled => {
                false
            }
            Self::Unwritable(_) | Self::EngineUnavailable(_) => true,
            Self::Vault(error) => error.is_retryable(),
        }
    }

    /// The stable reason, an `ErrorReason` without its prefix.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unusable(_) | Self::Unwritable(_) => "TARGET_UNUSABLE",
            Self::EntryRefused(_) => "ENTRY_REFUSED",
            Self::ImageMissing(_) => "IMAGE_MISSING",
            Self::EngineUnavailable(_) => "ENGINE_UNAVAILABLE",
            Self::Vault(error) => error.reason(),
            Self::Canceled => "CANCELED",
        }
    }
}
