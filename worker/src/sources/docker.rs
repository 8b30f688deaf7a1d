//! A container on a Docker Engine as a source.

use proto::backup::v1::DockerSource;

use super::{Source, SourceError};
use crate::settings::WorkerSettings;

/// Opens a container as a source. Does not reach out yet.
pub fn open(
    _settings: &WorkerSettings,
    source: &DockerSource,
) -> Result<Box<dyn Source>, SourceError> {
    Err(SourceError::EngineUnavailable(format!(
        "container {:?} can't be read: this worker has no Docker Engine",
        source.container
    )))
}

/// Says whether the configured Docker Engine answers; `None` when none is configured.
pub async fn check(_settings: &WorkerSettings) -> Option<Result<(), SourceError>> {
    None
}

/// Resumes a container that a dead attempt left paused. Fine when it is gone or not paused.
pub async fn resume(_settings: &WorkerSettings, _container: &str) -> Result<(), SourceError> {
    Ok(())
}
