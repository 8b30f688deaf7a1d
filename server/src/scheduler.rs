//! The scheduler: begins the backups of schedules that are due.
//!
//! A round claims bounded batches in the catalog until it finds nothing more; each due time is
//! taken once, so any number of replicas may run this.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use crate::{backoff::rounds, clock::now_ms, state::State, status::ApiError};

/// Schedules in one batch at the most.
const BATCH: u64 = 200;

/// Runs until the server is told to stop.
pub async fn run(state: Arc<State>) {
    let stop = state.stop.asked.clone();
    rounds(stop, "claim schedules", || round(state.clone())).await;
}

/// Answers when the next one is.
async fn round(state: Arc<State>) -> Result<Duration, ApiError> {
    while !state.stop.asked.is_cancelled() {
        let done = state.catalog.claim_due(BATCH, now_ms()).await?;
        if done.is_empty() {
            break;
        }
        for (agent_id, backup_id) in &done.begun {
            info!(agent_id, backup_id, "scheduled backup begun");
        }
        for agent_id in &done.skipped {
            warn!(agent_id, "scheduled backup skipped: the last one goes on");
        }
        for agent_id in &done.spread {
            info!(agent_id, "missed scheduled backup begins soon");
        }
        for (outcome, count) in [
            ("begun", done.begun.len()),
            ("skipped", done.skipped.len()),
            ("missed", done.spread.len()),
        ] {
            metrics::counter!("nora_backup_schedules_claimed_total", "outcome" => outcome)
                .increment(count as u64);
        }
    }
    Ok(state.schedule_poll)
}
