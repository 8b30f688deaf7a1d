//! The reaper: takes jobs from workers that are gone, says which wait for nobody, and removes what
//! time is over for.
//!
//! Every step is a bounded page of the catalog, each in transactions of its own, so that any
//! number of replicas may run this.

use std::{sync::Arc, time::Duration};

use catalog::{Job, ReapOutcome};
use proto::queue::v1::JobEvent;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{backoff::Backoff, clock::now_ms, state::State, status::ApiError};

/// How often to look for leases that ran out.
const POLL: Duration = Duration::from_secs(2);
/// How often to look for the rest.
const HOUSEKEEPING: Duration = Duration::from_mins(1);
/// Rows in one step at the most.
const PAGE: u64 = 200;
/// How long ended verifications, deletions and compactions are kept.
const ENDED_JOBS: Duration = Duration::from_hours(7 * 24);

/// How often to look for pools without a worker.
const UNSERVED_POLL: Duration = Duration::from_secs(15);
/// How long a pool may be without a worker before its waiting jobs say so.
const UNSERVED: Duration = Duration::from_mins(2);
/// How long workers are remembered that give no sign of life.
const WORKERS_KEPT: Duration = Duration::from_hours(24);

/// Runs until the server is told to stop.
pub async fn run(state: Arc<State>) {
    let mut backoff = Backoff::new();
    let mut next_housekeeping = Instant::now();
    let mut next_unserved = Instant::now() + UNSERVED;
    loop {
        let round = async {
            let mut full = reap(&state).await?;
            if Instant::now() >= next_housekeeping {
                let more = housekeeping(&state).await?;
                if !more {
                    next_housekeeping = Instant::now() + HOUSEKEEPING;
                }
                full |= more;
            }
            if Instant::now() >= next_unserved {
                next_unserved = Instant::now() + UNSERVED_POLL;
                unserved(&state).await?;
            }
            Ok::<bool, ApiError>(full)
        };
        let wait = match round.await {
            Ok(true) => Duration::ZERO,
            Ok(false) => {
                backoff.reset();
                POLL
            }
            Err(error) => {
                warn!(%error, "reap jobs");
                backoff.failed()
            }
        };
        tokio::select! {
            biased;
            () = state.stop.asked.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Leases that ran out. Tells whether there may be more.
async fn reap(state: &State) -> Result<bool, ApiError> {
    let reaped = state.catalog.reap_expired(PAGE, now_ms()).await?;
    let full = reaped.len() as u64 >= PAGE;
    for reaped in reaped {
        let job = &reaped.job;
        let outcome = match reaped.outcome {
            ReapOutcome::Requeued { .. } => "requeued",
            ReapOutcome::Failed => "failed",
            ReapOutcome::Canceled => "canceled",
        };
        info!(
            job_id = job.job_id,
            agent_id = job.agent_id,
            attempt = job.attempt,
            outcome,
            "job taken from a worker that is gone"
        );
        metrics::counter!("nora_backup_jobs_reaped_total", "outcome" => outcome).increment(1);
        tell(state, job).await;
    }
    Ok(full)
}

/// Tells watchers that something about a job changed.
async fn tell(state: &State, job: &Job) {
    let event = JobEvent {
        subject_id: job.subject_id().to_owned(),
        job_id: job.job_id.clone(),
        state_changed: true,
        ..JobEvent::default()
    };
    state.announce(event).await;
}

/// Jobs that wait for a pool without workers.
async fn unserved(state: &State) -> Result<(), ApiError> {
    let catalog = &state.catalog;
    let unserved_ms = UNSERVED.as_millis() as i64;
    for job in catalog
        .explain_unserved(unserved_ms, PAGE, now_ms())
        .await?
    {
        let (job_id, pool) = (&job.job_id, &job.pool);
        warn!(job_id, pool, "a job waits for a pool that no worker serves");
        tell(state, &job).await;
    }
    Ok(())
}

/// Drafts, requests, pins and old jobs. Tells whether there may be more.
async fn housekeeping(state: &State) -> Result<bool, ApiError> {
    let now = now_ms();
    let catalog = &state.catalog;
    let drafts = catalog.expire_drafts(PAGE, now).await?;
    let mut most = drafts.len() as u64;
    for restore_id in drafts {
        info!(restore_id, "restore draft expired");
        let event = JobEvent {
            subject_id: restore_id,
            state_changed: true,
            ..JobEvent::default()
        };
        state.announce(event).await;
    }
    most = most.max(catalog.expire_requests(PAGE, now).await?);
    most = most.max(catalog.expire_pins(PAGE, now).await?);
    let unseen_since = now - WORKERS_KEPT.as_millis() as i64;
    catalog.expire_workers(unseen_since).await?;
    catalog.expire_key_holders(unseen_since).await?;
    let kept_ms = state.audit_kept.as_millis() as i64;
    let done_before = now.saturating_sub(kept_ms);
    most = most.max(catalog.expire_audit(PAGE, done_before).await?);
    let ended_before = now - ENDED_JOBS.as_millis() as i64;
    most = most.max(catalog.expire_jobs(PAGE, ended_before).await?);
    Ok(most >= PAGE)
}
