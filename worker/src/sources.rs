//! Where an agent's state is read from: one file a kind of source.
//!
//! - [`directory`]: a folder that this worker can read
//! - [`docker`]: a container on a Docker Engine that this worker can reach
//!
//! A source streams entries, in path order, into a [`BackupWriter`] and hands
//! it back unfinished: committing is the job's business, not the source's.

use std::sync::Arc;

use async_trait::async_trait;
use catalog::{AfterHook, CatalogError, Patterns};
use proto::backup::v1::{Source as SourceMessage, source::Kind};
use tokio_util::sync::CancellationToken;
use vault::{BackupWriter, Meter, VaultError};

use crate::settings::WorkerSettings;

pub mod directory;
pub mod docker;

/// What a source is told about the backup it reads for.
#[derive(Clone)]
pub struct CaptureContext {
    /// The backup's id; names what a source leaves outside (a pause) so that a later attempt finds it.
    pub backup_id: String,
    /// The attempt (fence), from 1.
    pub attempt: u32,
    /// The agent's id.
    pub agent_id: String,
    /// When the previous backup began, milliseconds since 1970: what was written close to that
    /// moment may have changed unseen, and is read again.
    pub previous_start_ms: Option<i64>,
    /// Canceled when the job shall end, for whatever cause. A source returns
    /// [`SourceError::Canceled`] within a second, with everything undone that it did to the agent.
    pub cancel: CancellationToken,
    /// Where progress is counted: what is done by the writer, the totals by the source.
    pub meter: Arc<Meter>,
    /// What is left out, relative to the top of the source.
    pub patterns: Arc<Patterns>,
    /// Where a source that changes something about its agent writes that down, before it does so.
    pub undo: Arc<dyn UndoLog>,
}

/// Remembers what an attempt has to undo, so that it is undone even when the worker dies.
#[async_trait]
pub trait UndoLog: Send + Sync {
    /// Notes that `container` is about to be paused, or (`None`) that nothing is paused any more.
    /// An error means that it is not noted: do not pause.
    async fn note_paused(&self, container: Option<&str>) -> Result<(), CatalogError>;

    /// Notes that a command has to be run, before what it undoes is done, or (`None`) that it
    /// was. An error means that it is not noted: do not begin.
    async fn note_after(&self, hook: Option<&AfterHook>) -> Result<(), CatalogError>;
}

/// Reads an agent's whole state.
///
/// The future is driven to its end even when the job is canceled; it never blocks the async
/// runtime: the writer is only used inside `spawn_blocking`.
#[async_trait]
pub trait Source: Send + Sync {
    /// Streams everything into `writer` and returns it, not finished. What can't be read, or
    /// changes while it is read, becomes a warning of the writer; an error means that there is
    /// no backup.
    async fn capture(
        &self,
        context: CaptureContext,
        writer: BackupWriter,
    ) -> Result<BackupWriter, SourceError>;
}

/// Opens the source that an agent is registered with. Does not reach out yet.
pub fn open(
    settings: &WorkerSettings,
    source: &SourceMessage,
) -> Result<Box<dyn Source>, SourceError> {
    match &source.kind {
        Some(Kind::Directory(directory)) => Ok(Box::new(directory::DirectorySource::new(
            settings, directory,
        ))),
        Some(Kind::Docker(docker)) => docker::open(settings, docker),
        None => Err(SourceError::NotFound(
            "the agent is registered without a source: register it again with one".to_owned(),
        )),
    }
}

/// Why a source could not be read as a whole. Each message says what happened, to what, and what
/// to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The source does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The source may not be read: not under an allowed root, or no permission.
    #[error("{0}")]
    Denied(String),
    /// The source is there, but reading it failed; it may work later.
    #[error("{0}")]
    Unreadable(String),
    /// The Docker Engine cannot be reached.
    #[error("{0}")]
    EngineUnavailable(String),
    /// The command before the backup failed.
    #[error("{0}")]
    HookFailed(String),
    /// The catalog did not take note of a pause.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The vault refused what was read, or could not store it.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The job was told to end.
    #[error("the capture was canceled")]
    Canceled,
}

impl SourceError {
    /// Whether the same attempt may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotFound(_) | Self::Denied(_) | Self::HookFailed(_) | Self::Canceled => false,
            Self::Unreadable(_) | Self::EngineUnavailable(_) => true,
            Self::Vault(error) => error.is_retryable(),
            Self::Catalog(error) => error.is_retryable(),
        }
    }

    /// The stable reason, an `ErrorReason` without its prefix.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "SOURCE_NOT_FOUND",
            Self::Denied(_) | Self::Unreadable(_) => "SOURCE_DENIED",
            Self::EngineUnavailable(_) => "ENGINE_UNAVAILABLE",
            Self::HookFailed(_) => "HOOK_FAILED",
            Self::Vault(error) => error.reason(),
            Self::Catalog(error) => error.reason(),
            Self::Canceled => "CANCELED",
        }
    }
}
