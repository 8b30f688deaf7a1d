//! Shows that this server is there and which keys it holds: a key that it lacks is not made the
//! only one.

use std::{sync::Arc, time::Duration};

use catalog::KeyHolder;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use crate::{clock::now_ms, state::State};

/// How often it gives a sign of life.
const EVERY: Duration = Duration::from_secs(10);
/// How long it takes leave.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// Runs until the server is told to stop; then takes leave.
pub async fn run(state: Arc<State>) {
    let replica = name();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let asked = &state.stop.asked;
    while asked.run_until_cancelled(ticks.tick()).await.is_some() {
        let holder = KeyHolder {
            replica: replica.clone(),
            kind: "server".to_owned(),
            key_ids: state.keyring.key_ids(),
            seen_time_ms: now_ms(),
        };
        if let Err(error) = state.catalog.see_key_holder(&holder).await {
            warn!(%error, "tell which keys are held");
        }
    }
    let leave = state.catalog.forget_key_holder(&replica);
    if let Ok(Err(error)) = timeout(LEAVE_MAX, leave).await {
        debug!(%error, "take leave");
    }
}

/// For people, and never the same twice.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{}-{}-{}", host.trim(), std::process::id(), &id[..8])
}
