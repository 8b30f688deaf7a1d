//! How often a call is tried, and with what pauses.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use super::limits::{CONNECT_MAX, RETRY_FIRST_MS, RETRY_FOR};
use crate::error::{StoreError, StoreErrorKind};

/// The tries of one call.
#[derive(Debug)]
pub(super) struct Attempts {
    /// When the present one began.
    began: Instant,
    failed: Option<Instant>,
    failures: u32,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            failed: None,
            failures: 0,
        }
    }
}

impl Attempts {
    /// Whether it was tried before: then the outcome is looked at first.
    pub(super) fn is_repeated(&self) -> bool {
        self.failures > 0
    }

    /// Ends with a result that counts, or waits and lets it be tried again.
    pub(super) async fn settle<T>(
        &mut self,
        result: Result<T, StoreError>,
    ) -> ControlFlow<Result<T, StoreError>> {
        let error = match result {
            Err(error) if may_pass(error.kind) && !self.waited_in_vain(error.kind) => error,
            other => return ControlFlow::Break(other),
        };
        let failed = *self.failed.get_or_insert_with(Instant::now);
        let pause = Self::pause(self.failures);
        if failed.elapsed() + pause > RETRY_FOR {
            return ControlFlow::Break(Err(error));
        }
        self.failures += 1;
        tracing::debug!(
            action = error.action,
            object = error.object,
            cause = error.detail,
            pause_ms = pause.as_millis() as u64,
            "tried again"
        );
        tokio::time::sleep(pause).await;
        self.began = Instant::now();
        ControlFlow::Continue(())
    }

    /// Whether the whole time for connecting went by: that was try enough. A transfer
    /// that stood still took longer to be given up.
    fn waited_in_vain(&self, kind: StoreErrorKind) -> bool {
        kind == StoreErrorKind::Timeout && self.began.elapsed() < CONNECT_MAX * 2
    }

    /// Doubled each time, and up to a quarter more so that not all come at once.
    fn pause(failures: u32) -> Duration {
        let base_ms = RETRY_FIRST_MS << failures.min(10);
        let more = u64::from(crate::random::bytes::<1>()[0]) * base_ms / 1024;
        Duration::from_millis(base_ms + more)
    }
}

/// What may be otherwise in a moment. What reads back wrong is not: the caller looks.
fn may_pass(kind: StoreErrorKind) -> bool {
    kind.is_retryable() && kind != StoreErrorKind::Corrupt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: StoreErrorKind) -> Result<(), StoreError> {
        Err(StoreError {
            action: "read",
            object: "o".to_owned(),
            kind,
            detail: String::new(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again_for_a_while() {
        let mut attempts = Attempts::default();
        assert!(!attempts.is_repeated());
        assert!(
            attempts
                .settle(failed(StoreErrorKind::Unavailable))
                .await
                .is_continue()
        );
        assert!(attempts.is_repeated());
        // The clock that counts stands still here, so the doubling ends it.
        let mut tries = 1;
        while attempts
            .settle(failed(StoreErrorKind::Other))
            .await
            .is_continue()
        {
            tries += 1;
        }
        assert_eq!(tries, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_wrong_is_told_at_once() {
        for kind in [
            StoreErrorKind::Denied,
            StoreErrorKind::Untrusted,
            StoreErrorKind::Full,
            StoreErrorKind::Timeout,
            StoreErrorKind::Corrupt,
        ] {
            let end = Attempts::default().settle(failed(kind)).await;
            assert!(end.is_break(), "{kind:?}");
        }
        assert!(Attempts::default().settle(Ok(())).await.is_break());
    }
}
