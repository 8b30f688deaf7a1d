//! Signals that end a program.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// At the first SIGINT or SIGTERM calls `note` and cancels `stop`; returns at the
/// second.
pub async fn told_to_stop(stop: CancellationToken, note: impl FnOnce()) {
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        return std::future::pending().await;
    };
    let mut told = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    told().await;
    note();
    stop.cancel();
    told().await;
}
