//! Growing waits between attempts at something that fails, and loops that have them.

use std::{fmt, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::warn;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);

/// The waits of one loop.
#[derive(Debug)]
pub struct Backoff {
    wait: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Backoff {
    /// Nothing has failed yet.
    pub fn new() -> Self {
        Self { wait: FIRST }
    }

    /// Something worked.
    pub fn reset(&mut self) {
        self.wait = FIRST;
    }

    /// How long to wait after this failure.
    pub fn failed(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST);
        wait
    }
}

/// Makes rounds until it is told to stop. A round answers how long the pause after it is; one
/// that fails is logged as `doing`, and comes again after a growing wait.
pub async fn rounds<F, E>(
    stop: CancellationToken,
    doing: &'static str,
    mut round: impl FnMut() -> F,
) where
    F: Future<Output = Result<Duration, E>>,
    E: fmt::Display,
{
    let mut backoff = Backoff::new();
    loop {
        let wait = match round().await {
            Ok(pause) => {
                backoff.reset();
                pause
            }
            Err(error) => {
                warn!(%error, doing, "a round failed");
                backoff.failed()
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_begin_again() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = (0..8).map(|_| backoff.failed()).collect();
        assert_eq!(waits[0], FIRST);
        assert_eq!(waits[1], FIRST * 2);
        assert_eq!(waits[7], LONGEST);
        backoff.reset();
        assert_eq!(backoff.failed(), FIRST);
    }
}
