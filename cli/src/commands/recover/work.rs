//! Work that blocks, with its progress shown, and ended by Ctrl-C.

use std::{sync::Arc, time::Instant};

use tokio::{signal, time};
use tokio_util::sync::CancellationToken;
use vault::Meter as Counters;
use worker::progress::Gauge;

use crate::{
    error::{CliError, Result},
    exit::Exit,
    output::Output,
    progress::Meter,
};

/// How often progress is looked at.
const LOOK: time::Duration = time::Duration::from_millis(250);

/// What a piece of work is given: when to stop, and where to count.
#[derive(Clone, Default)]
pub(super) struct Work {
    pub cancel: CancellationToken,
    pub counters: Arc<Counters>,
}

impl Work {
    /// Drives a future to its end, showing how far it is. Ctrl-C tells it to stop; the
    /// answer then is that it was interrupted.
    pub(super) async fn drive<T>(
        &self,
        out: Output,
        what: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut meter = Meter::new(out, what);
        let mut gauge = Gauge::new(1);
        let mut tick = time::interval(LOOK);
        tokio::pin!(work);
        loop {
            tokio::select! {
                ended = &mut work => {
                    drop(meter);
                    if self.cancel.is_cancelled() {
                        return Err(CliError::silent(Exit::Interrupted));
                    }
                    return ended;
                }
                _ = tick.tick() => {
                    let now_ms = jiff::Timestamp::now().as_millisecond();
                    meter.show(&gauge.read(&self.counters, Instant::now(), now_ms));
                }
                Ok(()) = signal::ctrl_c(), if !self.cancel.is_cancelled() => {
                    self.cancel.cancel();
                }
            }
        }
    }

    /// The same for work that blocks a thread.
    pub(super) async fn block<T: Send + 'static>(
        &self,
        out: Output,
        what: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let task = tokio::task::spawn_blocking(work);
        self.drive(out, what, async {
            task.await
                .map_err(|error| CliError::failed(format!("{what}: {error}")))?
        })
        .await
    }
}
