//! Retention: removes what the rules say, agent by agent; and looks how full the storage is.
//!
//! An agent is looked at when one of its backups was completed, when a caller changed something
//! that the rules depend on, and every now and then. Each look is claimed, so any number of
//! replicas may run this.

use std::{sync::Arc, time::Duration};

use catalog::{RemovalRule, retention::Rules};
use tracing::{info, warn};

use crate::{backoff::rounds, clock::now_ms, state::State, status::ApiError};

/// Agents claimed at once.
const BATCH: u64 = 50;
/// How long they are in this replica's hands.
const HOLD: Duration = Duration::from_mins(2);
/// How long the record of a removal is kept.
const RECORD: Duration = Duration::from_hours(90 * 24);
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// The rules that hold for every agent; 0 turns one off.
pub fn rules(limit_per_agent: usize, retention_days: usize) -> Rules {
    Rules {
        retain: None,
        limit: (limit_per_agent > 0).then_some(limit_per_agent as u32),
        age_ms: (retention_days > 0).then_some(retention_days as i64 * DAY_MS),
    }
}

/// The name of a rule, in logs and metrics.
fn name(rule: RemovalRule) -> &'static str {
    match rule {
        RemovalRule::Retain => "retain",
        RemovalRule::Limit => "limit",
        RemovalRule::Age => "age",
        RemovalRule::Ended => "ended",
        RemovalRule::Request => "request",
        RemovalRule::Deregister => "deregister",
    }
}

/// Runs until the server is told to stop.
pub async fn run(state: Arc<State>) {
    let stop = state.stop.asked.clone();
    rounds(stop, "apply retention", || round(state.clone())).await;
}

/// Answers when the next one is.
async fn round(state: Arc<State>) -> Result<Duration, ApiError> {
    let catalog = &state.catalog;
    while !state.stop.asked.is_cancelled() {
        let now = now_ms();
        let hold_ms = HOLD.as_millis() as i64;
        let agents = catalog.claim_retention(BATCH, hold_ms, now).await?;
        if agents.is_empty() {
            break;
        }
        for agent_id in agents {
            let removed = catalog
                .prune(&agent_id, state.retention, now + hold_ms, now)
                .await?;
            for removal in removed {
                let (backup_id, rule) = (removal.backup_id, name(removal.rule));
                info!(agent_id, backup_id, rule, "backup removed by a rule");
                metrics::counter!("nora_backup_backups_pruned_total", "rule" => rule).increment(1);
            }
        }
    }
    let before = now_ms() - RECORD.as_millis() as i64;
    catalog.expire_removals(before).await?;
    look_at_storage(&state).await?;
    Ok(state.schedule_poll)
}

/// Tells when the storage gets full, or less so. Backups go on all the same.
async fn look_at_storage(state: &State) -> Result<(), ApiError> {
    let limit_bytes = state.storage_limit_bytes;
    let stored_bytes = state.catalog.stored_bytes().await?;
    metrics::gauge!("nora_backup_storage_stored_bytes").set(stored_bytes as f64);
    metrics::gauge!("nora_backup_storage_limit_bytes").set(limit_bytes as f64);
    if limit_bytes == 0 {
        return Ok(());
    }
    let level = state
        .catalog
        .note_storage(stored_bytes, limit_bytes, now_ms())
        .await?;
    if let Some(percent) = level {
        warn!(
            percent,
            stored_bytes, limit_bytes, "the storage has crossed a level"
        );
    }
    Ok(())
}
