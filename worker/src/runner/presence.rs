//! Shows that this worker is there: jobs of pools that nobody serves say so, and a key that
//! a worker lacks is not the only one.

use std::{sync::Arc, time::Duration};

use catalog::{KeyHolder, Worker};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Shared;
use crate::clock::now_ms;

/// How often it gives a sign of life.
const EVERY: Duration = Duration::from_secs(10);
/// How long it takes leave.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// Goes on until the worker shall stop; then takes leave.
pub(crate) async fn be_seen(worker: Arc<Shared>) {
    let start_time_ms = now_ms();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shutdown = worker.shutdown.clone();
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let seen: Vec<Worker> = worker
            .settings
            .pools
            .iter()
            .map(|pool| Worker {
                worker: worker.name.clone(),
                pool: pool.clone(),
                concurrency: worker.settings.concurrency.into(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                start_time_ms,
                seen_time_ms: now_ms(),
            })
            .collect();
        if let Err(error) = worker.catalog.see_worker(&seen).await {
            tracing::warn!(%error, "give a sign of life");
        }
        let holder = KeyHolder {
            replica: worker.name.clone(),
            kind: "worker".to_owned(),
            key_ids: worker.keyring.key_ids(),
            seen_time_ms: now_ms(),
        };
        if let Err(error) = worker.catalog.see_key_holder(&holder).await {
            tracing::warn!(%error, "tell which keys are held");
        }
    }
    let leave = async {
        worker.catalog.forget_worker(&worker.name).await?;
        worker.catalog.forget_key_holder(&worker.name).await
    };
    if let Ok(Err(error)) = timeout(LEAVE_MAX, leave).await {
        tracing::debug!(%error, "take leave");
    }
}
