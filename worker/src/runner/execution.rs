//! One claimed job, from its claim to its end in the catalog.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use catalog::{FailOutcome, JobState, Lease};
use futures::FutureExt as _;
use proto::backup::v1::{Failure, source::Kind};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::{Shared, context::JobContext, keeper::keep, reporter::report, stop::StopCause};
use crate::{
    clock::now_ms,
    failure::{JobError, failure},
    jobs,
    settings::STOPPING_MAX,
    sources::docker::hooks::time_limit,
};

/// How long a job may take to stop when the worker itself waits for it.
const STOPPING_AT_SHUTDOWN_MAX: Duration = Duration::from_secs(15);

/// Runs a claimed job and ends it.
pub(super) async fn execute(worker: Arc<Shared>, lease: Lease, claimed: Instant) {
    let context = Arc::new(JobContext::new(worker.clone(), lease, claimed));
    let job = &context.lease.job;
    let (job_id, kind) = (job.job_id.as_str(), jobs::name(job.kind));
    info!(job_id, kind, attempt = context.lease.attempt, "job begun");
    metrics::gauge!("nora_backup_worker_jobs_running").increment(1.0);
    context.announce(None, true).await;
    let work = AssertUnwindSafe((worker.work)(context.clone())).catch_unwind();
    let mut work = AbortOnDropHandle::new(tokio::spawn(work));
    let result = tokio::select! {
        biased;
        result = &mut work => match result {
            Ok(Ok(result)) => result,
            // A panic, in the job or of the task itself.
            Ok(Err(_)) | Err(_) => Err(panicked(job_id)),
        },
        // It was told to stop and did not: it is left to itself, its lease runs out.
        () = limits(&context, claimed) => Err(JobError::Stopped),
        () = keep(&context) => Err(JobError::Stopped),
        () = report(&context) => Err(JobError::Stopped),
    };
    drop(work);
    context.unpin().await;
    let ended = end(&context, result).await;
    let elapsed_ms = claimed.elapsed().as_millis() as u64;
    info!(job_id, kind, outcome = ended, elapsed_ms, "job left");
    metrics::gauge!("nora_backup_worker_jobs_running").decrement(1.0);
    metrics::counter!("nora_backup_worker_jobs_total", "kind" => kind, "outcome" => ended)
        .increment(1);
    metrics::histogram!("nora_backup_worker_job_seconds", "kind" => kind)
        .record(claimed.elapsed().as_secs_f64());
    context.announce(None, true).await;
}

fn panicked(job_id: &str) -> JobError {
    error!(job_id, "a job panicked");
    JobError::internal(&format!("job {job_id} panicked"), false)
}

/// Tells the job to stop when its time is over or the worker waited long enough; returns when it
/// should have stopped long since.
async fn limits(context: &JobContext, claimed: Instant) {
    let settings = &context.worker.settings;
    let stop = &context.stop;
    let drained = async {
        context.worker.shutdown.cancelled().await;
        sleep(settings.drain).await;
    };
    tokio::select! {
        () = stop.token().cancelled() => {}
        () = sleep_until(claimed + settings.job_timeout) => stop.tell(StopCause::TimedOut),
        () = drained => stop.tell(StopCause::ShuttingDown),
    }
    let patience = async {
        context.worker.shutdown.cancelled().await;
        sleep(STOPPING_AT_SHUTDOWN_MAX).await;
    };
    tokio::select! {
        () = sleep(STOPPING_MAX + after_hook_max(context)) => {}
        () = patience => {}
    }
    let job_id = &context.lease.job.job_id;
    error!(job_id, cause = ?stop.cause(), "job did not stop when it was told to");
}

/// How long a command may take that has to be run before the job may stop.
fn after_hook_max(context: &JobContext) -> Duration {
    let agent = context.lease.agent.as_ref();
    match agent.and_then(|agent| agent.source.kind.as_ref()) {
        Some(Kind::Docker(docker)) => docker
            .hooks
            .as_ref()
            .and_then(|hooks| hooks.after.as_ref())
            .map_or(Duration::ZERO, time_limit),
        _ => Duration::ZERO,
    }
}

/// Writes the end into the catalog, unless the job is another's; says what it was.
async fn end(context: &Arc<JobContext>, result: Result<(), JobError>) -> &'static str {
    let outcome = match (result, context.stop.cause()) {
        (Ok(()), _) => Ok("completed"),
        (Err(JobError::Lost), _) | (_, Some(StopCause::LeaseLost)) => Err(JobError::Lost),
        (_, Some(StopCause::Canceled)) => cancel(context).await,
        (_, Some(StopCause::ShuttingDown)) => hand_back(context).await,
        (_, Some(StopCause::TimedOut)) => {
            let limit_ms = context.worker.settings.job_timeout.as_millis();
            let message = format!(
                "the job took longer than the {limit_ms} ms that NORA_BACKUP_JOB_TIMEOUT_MS \
                 allows: raise it, or make the agent's state smaller; what is stored already is \
                 used by the next attempt"
            );
            fail(context, failure("JOB_TIMEOUT", message), false).await
        }
        (_, Some(StopCause::PinLost)) | (Err(JobError::Stopped), None) => {
            match JobError::internal(&"the job stopped without being told to", true) {
                JobError::Failed { failure, retryable } => fail(context, failure, retryable).await,
                other => Err(other),
            }
        }
        (Err(JobError::Failed { failure, retryable }), None) => {
            fail(context, failure, retryable).await
        }
    };
    match outcome {
        Ok(outcome) => outcome,
        Err(JobError::Lost | JobError::Stopped) => "lost",
        Err(JobError::Failed { failure, .. }) => {
            let job_id = &context.lease.job.job_id;
            error!(
                job_id,
                reason = failure.reason,
                "the job's end was not written"
            );
            "lost"
        }
    }
}

async fn cancel(context: &Arc<JobContext>) -> Result<&'static str, JobError> {
    let (catalog, fence) = (&context.worker.catalog, context.fence());
    context
        .persist(|| catalog.cancel_job_done(&fence, now_ms()))
        .await?;
    jobs::left_behind(context).await;
    Ok("canceled")
}

async fn hand_back(context: &JobContext) -> Result<&'static str, JobError> {
    let (catalog, fence) = (&context.worker.catalog, context.fence());
    context
        .persist(|| catalog.hand_back(&fence, now_ms()))
        .await?;
    Ok("handed_back")
}

async fn fail(
    context: &Arc<JobContext>,
    failure: Failure,
    retryable: bool,
) -> Result<&'static str, JobError> {
    let (catalog, fence) = (&context.worker.catalog, context.fence());
    let (job_id, reason) = (&fence.job_id, failure.reason.as_str());
    warn!(
        job_id,
        reason,
        // Further lines are what a command in the agent said: not for the operator's log.
        message = failure.message.lines().next(),
        retryable,
        "job failed"
    );
    let outcome = context
        .persist(|| catalog.fail_job(&fence, failure.clone(), retryable, now_ms()))
        .await?;
    match outcome {
        FailOutcome::WillRetry { .. } => return Ok("retry"),
        FailOutcome::Ended(JobState::Canceled) => {
            jobs::left_behind(context).await;
            return Ok("canceled");
        }
        FailOutcome::Ended(_) => jobs::left_behind(context).await,
    }
    Ok("failed")
}
