//! A folder as a source.

use async_trait::async_trait;
use proto::backup::v1 as api;
use vault::BackupWriter;

use super::{CaptureContext, Source, SourceError};
use crate::settings::WorkerSettings;

/// A folder that this worker can read.
pub struct DirectorySource {}

impl DirectorySource {
    /// The folder that an agent is registered with.
    pub fn new(_settings: &WorkerSettings, _source: &api::DirectorySource) -> Self {
        Self {}
    }
}

#[async_trait]
impl Source for DirectorySource {
    async fn capture(
        &self,
        _context: CaptureContext,
        writer: BackupWriter,
    ) -> Result<BackupWriter, SourceError> {
        Ok(writer)
    }
}
