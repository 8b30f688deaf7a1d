//! Why a job is told to stop. The first cause counts.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Why a job shall end before its work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// Someone canceled it.
    Canceled,
    /// It took longer than a job may.
    TimedOut,
    /// The worker stops, and waited as long as it may.
    ShuttingDown,
    /// It is another attempt's by now.
    LeaseLost,
    /// What it reads is not kept for it any more.
    PinLost,
}

/// Tells one job to stop. Clones tell the same job.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    cause: Arc<OnceLock<StopCause>>,
}

impl Stop {
    /// Tells the job to stop; further causes change nothing.
    pub fn tell(&self, cause: StopCause) {
        let _ = self.cause.set(cause);
        self.token.cancel();
    }

    /// Why the job was told to stop, if it was.
    pub fn cause(&self) -> Option<StopCause> {
        self.cause.get().copied()
    }

    /// Canceled when the job is told to stop.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_counts() {
        let stop = Stop::default();
        assert_eq!(stop.cause(), None);
        stop.tell(StopCause::TimedOut);
        stop.clone().tell(StopCause::Canceled);
        assert_eq!(stop.cause(), Some(StopCause::TimedOut));
        assert!(stop.token().is_cancelled());
    }
}
