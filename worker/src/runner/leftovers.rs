//! Clears up after jobs that have ended while their workers were dead: half-made restores, marks of
//! completed ones, paused containers, commands that were not run. Jobs that are tried again clear up by themselves.

use std::{sync::Arc, time::Duration};

use catalog::{CatalogError, Job, RestoreState};
use tokio::time::{MissedTickBehavior, interval};
use vault::Meter;

use super::Shared;
use crate::{
    sources,
    targets::{self, RestoreContext},
};

/// How often is looked for such jobs: leases that run out are noticed elsewhere.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Jobs that are looked at together.
const JOBS_MAX: u64 = 100;

/// Goes on until the worker shall stop.
pub(crate) async fn clear_up(worker: Arc<Shared>) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shutdown = worker.shutdown.clone();
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        for pool in worker.settings.pools.iter() {
            if let Err(error) = clear_pool(&worker, pool).await {
                tracing::warn!(pool, %error, "look for what dead workers left");
            }
        }
    }
}

async fn clear_pool(worker: &Shared, pool: &str) -> Result<(), CatalogError> {
    for job in worker.catalog.leftovers(pool, JOBS_MAX).await? {
        if worker.shutdown.is_cancelled() {
            break;
        }
        let job_id = &job.job_id;
        match clear(worker, &job).await {
            Ok(()) => {
                worker.catalog.leftover_cleaned(job_id).await?;
                tracing::info!(job_id, "cleared up after a dead worker");
            }
            Err(error) => tracing::warn!(job_id, %error, "clear up after a dead worker"),
        }
    }
    Ok(())
}

async fn clear(worker: &Shared, job: &Job) -> anyhow::Result<()> {
    if let Some(container) = &job.paused_container {
        sources::docker::resume(&worker.settings, container).await?;
    }
    if let Some(owed) = &job.after_hook {
        sources::docker::run_owed(&worker.settings, owed).await?;
    }
    let Some(restore_id) = &job.restore_id else {
        return Ok(());
    };
    let Some(restore) = worker.catalog.get_restore(restore_id).await? else {
        return Ok(());
    };
    let is_completed = restore.state == RestoreState::Completed;
    if is_completed || matches!(restore.state, RestoreState::Failed | RestoreState::Canceled) {
        let context = RestoreContext {
            restore_id: restore.restore_id,
            attempt: job.attempt,
            plan: restore.plan,
            in_place: restore.in_place,
            decisions: restore.decisions,
            cancel: worker.shutdown.clone(),
            meter: Arc::new(Meter::default()),
        };
        let target = targets::open(&worker.settings, context)?;
        if is_completed {
            target.settle().await?;
        } else {
            target.clean().await?;
        }
    }
    Ok(())
}
