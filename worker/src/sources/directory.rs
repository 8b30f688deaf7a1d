//! A folder as a source.
//!
//! The folder is walked in path order, everything relative to open folders: links are kept, never
//! followed, and paths may be of any length. Files that the previous backup has in exactly this
//! state are taken over without reading them. What can't be read, vanishes or keeps changing
//! becomes a warning by name; what the agent's patterns leave out is not looked into. Only a missing or forbidden root means that there is no backup.
//!
//! - `walk`: the order, and what becomes of each name
//! - `file`: reading one file
//! - `entry`: from what the file system says to an entry
//! - `owners`: names of users and groups
//! - `count`: the totals, counted ahead in a thread of its own

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use proto::backup::v1 as api;
use vault::BackupWriter;

use super::{CaptureContext, Source, SourceError};
use crate::{
    files::roots::{RootError, Roots},
    settings::WorkerSettings,
    unwinding::join,
};

mod count;
mod entry;
mod file;
mod owners;
mod walk;

#[cfg(test)]
mod tests;

/// What tests do to a file between reading it and looking whether it changed.
type AfterRead = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// A folder that this worker can read.
pub struct DirectorySource {
    roots: Roots,
    path: PathBuf,
    after_read: Option<AfterRead>,
}

impl DirectorySource {
    /// The folder that an agent is registered with.
    pub fn new(settings: &WorkerSettings, source: &api::DirectorySource) -> Self {
        Self {
            roots: Roots::new(&settings.source_roots),
            path: PathBuf::from(OsStr::from_bytes(source.path.as_bytes())),
            after_read: None,
        }
    }
}

#[async_trait]
impl Source for DirectorySource {
    async fn capture(
        &self,
        context: CaptureContext,
        writer: BackupWriter,
    ) -> Result<BackupWriter, SourceError> {
        let (roots, path) = (self.roots.clone(), self.path.clone());
        let after_read = self.after_read.clone();
        join(tokio::task::spawn_blocking(move || {
            let (folder, _) = roots.open(&path)?;
            let _counting = count::start(&folder, &context);
            walk::walk(folder, &context, writer, after_read)
        }))
        .await
    }
}

impl From<RootError> for SourceError {
    fn from(error: RootError) -> Self {
        match error {
            RootError::NotFound(message) => Self::NotFound(message),
            RootError::Denied(message) => Self::Denied(message),
        }
    }
}
