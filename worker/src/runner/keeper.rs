//! Keeps the lease of a running job, and sees when someone wants it canceled.

use std::time::Duration;

use catalog::JobState;
use futures::StreamExt as _;
use proto::queue::v1::JobEvent;
use queue::EventStream;
use tokio::time::{Instant, sleep_until};

use super::{context::JobContext, stop::StopCause};

/// How often the catalog is asked whether the job was canceled: events may get lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Goes on until it is dropped.
pub(super) async fn keep(context: &JobContext) {
    let renew_every = context.worker.settings.lease / 3;
    let look_every = LOOK_EVERY.min(renew_every);
    let mut renew_at = Instant::now() + renew_every;
    let mut look_at = Instant::now() + look_every;
    let mut events = subscribe(context).await;
    loop {
        tokio::select! {
            () = sleep_until(renew_at) => {
                context.renew().await;
                // After a failed renewal not much time is left.
                let left = context.held_until().saturating_duration_since(Instant::now());
                renew_at = Instant::now() + renew_every.min(left / 3).max(look_every / 2);
                look_at = Instant::now() + look_every;
            }
            () = sleep_until(look_at) => {
                look(context).await;
                look_at = Instant::now() + look_every;
                if events.is_none() {
                    events = subscribe(context).await;
                }
            }
            event = next(&mut events) => match event {
                Some(event) if event.cancel_requested
                    && event.job_id == context.lease.job.job_id => look(context).await,
                Some(_) => {}
                None => events = None,
            },
        }
        if Instant::now() >= context.held_until() {
            context.stop.tell(StopCause::LeaseLost);
        }
    }
}

async fn subscribe(context: &JobContext) -> Option<EventStream> {
    let subject_id = context.lease.job.subject_id();
    context.worker.bus.subscribe(subject_id).await.ok()
}

async fn next(events: &mut Option<EventStream>) -> Option<JobEvent> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Looks whether the job still is this attempt's, and wanted.
async fn look(context: &JobContext) {
    let fence = context.fence();
    match context.worker.catalog.get_job(&fence.job_id).await {
        Ok(Some(job)) if job.state == JobState::Running && job.attempt == fence.attempt => {
            if job.cancel_requested {
                context.stop.tell(StopCause::Canceled);
            }
        }
        // The job may just have been ended by this attempt itself: then nobody listens.
        Ok(_) => context.stop.tell(StopCause::LeaseLost),
        Err(error) => tracing::warn!(job_id = fence.job_id, %error, "look at a job"),
    }
}
