//! A new container as the target of a restore.

use proto::backup::v1::DockerTarget;

use super::{RestoreContext, Target, TargetError};
use crate::settings::WorkerSettings;

/// Opens a container to be made as a target. Does not reach out yet.
pub fn open(
    _settings: &WorkerSettings,
    target: DockerTarget,
    _context: RestoreContext,
) -> Result<Box<dyn Target>, TargetError> {
    Err(TargetError::EngineUnavailable(format!(
        "container {:?} can't be made: this worker has no Docker Engine",
        target.container_name
    )))
}
