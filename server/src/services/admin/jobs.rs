//! Jobs: what goes on, what is the matter with it, and a new try.

use catalog::{JobCondition, JobFilter, JobKind, JobState, PageRequest};
use proto::{
    backup::v1::{Job, ListJobsRequest, ListJobsResponse, RetryJobRequest, RetryJobResponse, job},
    queue::v1::JobEvent,
};

use super::{Admin, set};
use crate::{
    clock::{now_ms, timestamp},
    convert,
    page::{self, Listing},
    services::Call,
    status::ApiError,
    validation::{Checks, PAGE_DEFAULT},
};

impl Admin {
    pub(super) async fn jobs(
        &self,
        call: Call<ListJobsRequest>,
    ) -> Result<ListJobsResponse, ApiError> {
        let request = call.message;
        let mut checks = Checks::new();
        let limit = checks.page_size(request.page_size, PAGE_DEFAULT);
        checks.page_token(&request.page_token);
        checks.optional_id("agent_id", &request.agent_id);
        checks.text("pool", &request.pool, POOL_CHARS_MAX);
        let kind = kind_of(&mut checks, request.kind);
        let state = state_of(&mut checks, request.state);
        let condition = condition_of(&mut checks, request.condition);
        checks.done()?;
        let listing = Listing::new(
            "jobs",
            [
                request.pool.as_bytes(),
                request.agent_id.as_bytes(),
                format!("{kind:?} {state:?} {condition:?}").as_bytes(),
            ],
        );
        let after = listing.open_text(&request.page_token)?;
        let filter = JobFilter {
            kind,
            state,
            condition,
            pool: set(request.pool),
            agent_id: set(request.agent_id),
        };
        let page = PageRequest { limit, after };
        let now = now_ms();
        let found = self.state.catalog.list_jobs(&filter, &page, now).await?;
        let mut jobs: Vec<Job> = found.items.into_iter().map(|job| shown(job, now)).collect();
        let fitting = page::fitting(&jobs);
        let next = if fitting < jobs.len() {
            jobs.truncate(fitting);
            jobs.last().map(|job| job.job_id.clone())
        } else {
            found.next
        };
        Ok(ListJobsResponse {
            jobs,
            next_page_token: next.map_or_else(String::new, |key| listing.token(key.as_bytes())),
        })
    }

    pub(super) async fn retry(
        &self,
        call: Call<RetryJobRequest>,
    ) -> Result<RetryJobResponse, ApiError> {
        let mut checks = Checks::new();
        checks.id("job_id", &call.message.job_id);
        checks.done()?;
        let now = now_ms();
        let job = self
            .state
            .catalog
            .retry_job(&call.message.job_id, now)
            .await?;
        tracing::info!(
            job_id = job.job_id,
            agent_id = job.agent_id,
            "job tried again"
        );
        let event = JobEvent {
            subject_id: job.subject_id().to_owned(),
            job_id: job.job_id.clone(),
            state_changed: true,
            ..JobEvent::default()
        };
        self.state.announce(event).await;
        Ok(RetryJobResponse {
            job: Some(shown(job, now)),
        })
    }
}

/// Names of pools are no longer.
const POOL_CHARS_MAX: usize = 64;

fn kind_of(checks: &mut Checks, kind: i32) -> Option<JobKind> {
    match job::Kind::try_from(kind) {
        Ok(job::Kind::Unspecified) => None,
        Ok(job::Kind::Backup) => Some(JobKind::Backup),
        Ok(job::Kind::Restore) => Some(JobKind::Restore),
        Ok(job::Kind::Verify) => Some(JobKind::Verify),
        Ok(job::Kind::Delete) => Some(JobKind::Delete),
        Ok(job::Kind::Compact) => Some(JobKind::Compact),
        Ok(job::Kind::Rotate) => Some(JobKind::Rotate),
        Ok(job::Kind::Erase) => Some(JobKind::Erase),
        Ok(job::Kind::Copy) => Some(JobKind::Copy),
        Err(_) => {
            checks.fault("kind", "holds no kind that there is");
            None
        }
    }
}

fn state_of(checks: &mut Checks, state: i32) -> Option<JobState> {
    match job::State::try_from(state) {
        Ok(job::State::Unspecified) => None,
        Ok(job::State::Queued) => Some(JobState::Queued),
        Ok(job::State::Running) => Some(JobState::Running),
        Ok(job::State::Completed) => Some(JobState::Completed),
        Ok(job::State::Failed) => Some(JobState::Failed),
        Ok(job::State::Canceled) => Some(JobState::Canceled),
        Err(_) => {
            checks.fault("state", "holds no state that there is");
            None
        }
    }
}

fn condition_of(checks: &mut Checks, condition: i32) -> Option<JobCondition> {
    match job::Condition::try_from(condition) {
        Ok(job::Condition::Unspecified) => None,
        Ok(job::Condition::Stuck) => Some(JobCondition::Stuck),
        Ok(job::Condition::Retrying) => Some(JobCondition::Retrying),
        Ok(job::Condition::Dead) => Some(JobCondition::Dead),
        Err(_) => {
            checks.fault("condition", "holds no condition that there is");
            None
        }
    }
}

fn shown(job: catalog::Job, now_ms: i64) -> Job {
    let condition = match JobCondition::of(&job, now_ms) {
        None => job::Condition::Unspecified,
        Some(JobCondition::Stuck) => job::Condition::Stuck,
        Some(JobCondition::Retrying) => job::Condition::Retrying,
        Some(JobCondition::Dead) => job::Condition::Dead,
    };
    let kind = match job.kind {
        JobKind::Backup => job::Kind::Backup,
        JobKind::Restore => job::Kind::Restore,
        JobKind::Verify => job::Kind::Verify,
        JobKind::Delete => job::Kind::Delete,
        JobKind::Compact => job::Kind::Compact,
        JobKind::Rotate => job::Kind::Rotate,
        JobKind::Erase => job::Kind::Erase,
        JobKind::Copy => job::Kind::Copy,
    };
    let state = match job.state {
        JobState::Queued => job::State::Queued,
        JobState::Running => job::State::Running,
        JobState::Completed => job::State::Completed,
        JobState::Failed => job::State::Failed,
        JobState::Canceled => job::State::Canceled,
    };
    Job {
        job_id: job.job_id,
        kind: kind.into(),
        state: state.into(),
        condition: condition.into(),
        agent_id: job.agent_id,
        owner_id: job.owner_id,
        backup_id: job.backup_id.unwrap_or_default(),
        restore_id: job.restore_id.unwrap_or_default(),
        pool: job.pool,
        attempt: job.attempt,
        tries: job.tries,
        max_attempts: job.max_attempts,
        due_time: Some(timestamp(job.due_time_ms)),
        worker_id: job.lease_owner.unwrap_or_default(),
        lease_expire_time: job.lease_expire_time_ms.map(timestamp),
        cancel_requested: job.cancel_requested,
        failure: job.failure,
        progress: Some(convert::progress(job.progress, job.state.is_ended())),
        create_time: Some(timestamp(job.create_time_ms)),
        start_time: job.start_time_ms.map(timestamp),
        end_time: job.end_time_ms.map(timestamp),
    }
}
