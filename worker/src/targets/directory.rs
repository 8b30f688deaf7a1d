//! A new folder as the target of a restore.

use async_trait::async_trait;
use proto::backup::v1 as api;
use vault::BackupReader;

use super::{RestoreContext, Restored, Target, TargetError};
use crate::settings::WorkerSettings;

/// A folder that a restore makes.
pub struct DirectoryTarget {}

impl DirectoryTarget {
    /// The folder that a restore's plan names.
    pub fn new(
        _settings: &WorkerSettings,
        _target: api::DirectoryTarget,
        _context: RestoreContext,
    ) -> Self {
        Self {}
    }
}

#[async_trait]
impl Target for DirectoryTarget {
    async fn clean(&self) -> Result<(), TargetError> {
        Ok(())
    }

    async fn write(&self, _reader: BackupReader) -> Result<Restored, TargetError> {
        Ok(Restored::default())
    }

    async fn publish(&self) -> Result<(), TargetError> {
        Ok(())
    }

    async fn settle(&self) -> Result<(), TargetError> {
        Ok(())
    }
}
