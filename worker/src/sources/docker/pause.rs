//! Pausing a container, and never leaving it paused.
//!
//! What is about to be paused is noted in the catalog first, so that a later attempt, or the
//! clearing up after dead workers, resumes it when this worker can't any more.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, time::sleep};

use super::{
    engine::{Engine, EngineError},
    engine_failed,
};
use crate::sources::{SourceError, UndoLog};

/// How often resuming is tried, and how long is waited in between.
const RESUME_TRIES: u32 = 4;
const RESUME_WAIT: Duration = Duration::from_millis(500);

/// A container that is paused until this ends, whichever way.
pub(super) struct Paused {
    runtime: Handle,
    engine: Engine,
    container: String,
    log: Arc<dyn UndoLog>,
    is_over: bool,
}

impl Paused {
    /// Pauses a container; `None` when it can't be paused because it does not run, or is paused
    /// by someone else already.
    pub(super) fn begin(
        runtime: &Handle,
        engine: &Engine,
        container: &str,
        log: &Arc<dyn UndoLog>,
    ) -> Result<Option<Self>, SourceError> {
        runtime.block_on(log.note_paused(Some(container)))?;
        // From here on it counts as paused, also when the answer gets lost.
        let mut paused = Self {
            runtime: runtime.clone(),
            engine: engine.clone(),
            container: container.to_owned(),
            log: log.clone(),
            is_over: false,
        };
        match runtime.block_on(engine.pause(container)) {
            Ok(()) => Ok(Some(paused)),
            Err(EngineError::Refused { .. }) => {
                // It said no: nothing was done.
                paused.is_over = true;
                runtime.block_on(log.note_paused(None))?;
                Ok(None)
            }
            Err(error) => {
                paused.end()?;
                Err(engine_failed(error))
            }
        }
    }

    /// Resumes the container.
    pub(super) fn end(mut self) -> Result<(), SourceError> {
        self.is_over = true;
        self.resume()
    }

    fn resume(&self) -> Result<(), SourceError> {
        self.runtime.block_on(async {
            resume(&self.engine, &self.container)
                .await
                .map_err(|error| {
                    tracing::error!(container = self.container, %error, "resume a container");
                    SourceError::EngineUnavailable(format!(
                        "container {} was paused and can't be resumed by now ({error}): it will \
                         be as soon as the engine answers, or run `docker unpause`",
                        self.container
                    ))
                })?;
            Ok(self.log.note_paused(None).await?)
        })
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if !self.is_over {
            // What goes wrong is logged, and noted in the catalog all along.
            let _ = self.resume();
        }
    }
}

/// Resumes a container; fine when it is not paused, or gone. Tries more than once.
pub(super) async fn resume(engine: &Engine, container: &str) -> Result<(), EngineError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match engine.unpause(container).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_missing() => return Ok(()),
            Err(error) => error,
        };
        match engine.inspect(container).await {
            Err(error) if error.is_missing() => return Ok(()),
            Ok(found) if found.state.as_ref().and_then(|state| state.paused) != Some(true) => {
                return Ok(());
            }
            _ if tries == RESUME_TRIES => return Err(error),
            _ => sleep(RESUME_WAIT).await,
        }
    }
}
