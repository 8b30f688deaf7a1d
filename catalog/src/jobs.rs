//! Jobs: claimed, renewed, failed, handed back, canceled. Every write of a
//! worker names its [`Fence`].

use prost::Message as _;
use proto::backup::v1::{Phase, Progress};
use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, EntityTrait as _, PaginatorTrait as _, QueryFilter as _,
};

use crate::{
    AfterHook, BackupState, Catalog, CatalogError, ClaimOutcome, FailOutcome, Failure, Fence, Job,
    JobKind, JobState, Lease, Renewal, RestoreState,
    connection::Tx,
    copies,
    entities::{agents, backups, jobs, restores},
    error::Doing as _,
    limits, stored,
    transitions::{self, Requeue},
};

impl Catalog {
    /// A job: a verification, for example.
    pub async fn get_job(&self, job_id: &str) -> Result<Option<Job>, CatalogError> {
        let row = jobs::Entity::find_by_id(job_id).one(self.read()).await;
        row.doing("read job")?.map(stored::job).transpose()
    }

    /// Claims a job for a worker: RUNNING, the next attempt, a lease. Its backup
    /// or restore becomes RUNNING with it.
    pub async fn claim_job(
        &self,
        job_id: &str,
        owner: &str,
        lease_ms: i64,
        now_ms: i64,
    ) -> Result<ClaimOutcome, CatalogError> {
        let tx = self.begin("claim job").await?;
        let Some(job) = transitions::lock_job(&tx, job_id).await? else {
            return Ok(ClaimOutcome::Unknown);
        };
        if job.state != JobState::Queued {
            return Ok(ClaimOutcome::Gone);
        }
        // One that was dispatched was due by the dispatcher's clock, which may be
        // ahead of this one's: it is not sent to and fro until they agree.
        if job.due_time_ms > now_ms && job.dispatch_time_ms.is_none() {
            forget_dispatch(&tx, &job).await?;
            tx.commit_with_work().await?;
            return Ok(ClaimOutcome::NotDue);
        }
        if job.exclusive && another_runs(&tx, &job).await? {
            return wait_for_agent(tx, &job, now_ms).await;
        }
        match take(&tx, &job, owner, lease_ms, now_ms).await {
            Ok(()) => {}
            // Another claim for the same agent was faster, and its transaction
            // was not to be seen yet: the index refused.
            Err(error) if error.is_unique_violation() => {
                drop(tx);
                let tx = self.begin("claim job").await?;
                return match transitions::lock_job(&tx, job_id).await? {
                    Some(job) if job.state == JobState::Queued => {
                        wait_for_agent(tx, &job, now_ms).await
                    }
                    _ => Ok(ClaimOutcome::Gone),
                };
            }
            Err(error) => return Err(error),
        }
        let lease = lease(&tx, job_id).await?;
        tx.commit().await?;
        Ok(lease.map_or(ClaimOutcome::Gone, |lease| {
            ClaimOutcome::Claimed(Box::new(lease))
        }))
    }

    /// Prolongs the lease to `now_ms + lease_ms`, and keeps the progress when
    /// there is any.
    pub async fn renew_lease(
        &self,
        fence: &Fence,
        lease_ms: i64,
        now_ms: i64,
        progress: Option<&Progress>,
    ) -> Result<Renewal, CatalogError> {
        let tx = self.begin("renew lease").await?;
        let job = match transitions::lock_held(&tx, fence).await {
            Ok(job) => job,
            Err(CatalogError::Fenced { .. }) => return Ok(Renewal::Lost),
            Err(error) => return Err(error),
        };
        let mut change = jobs::ActiveModel {
            lease_expire_time_ms: Set(Some(now_ms.saturating_add(lease_ms))),
            ..Default::default()
        };
        if let Some(progress) = progress {
            let mut progress = progress.clone();
            progress.attempt = fence.attempt;
            change.progress = Set(progress.encode_to_vec());
        }
        transitions::change_job(&tx, &job, change).await?;
        tx.commit().await?;
        Ok(Renewal::Held {
            cancel_requested: job.cancel_requested,
        })
    }

    /// Notes which container this attempt is about to pause, or (None) that it
    /// is resumed. Errors: `Fenced`.
    pub async fn note_paused(
        &self,
        fence: &Fence,
        container: Option<&str>,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("note paused container").await?;
        let job = transitions::lock_held(&tx, fence).await?;
        let change = jobs::ActiveModel {
            paused_container: Set(container.map(str::to_owned)),
            ..Default::default()
        };
        transitions::change_job(&tx, &job, change).await?;
        tx.commit().await
    }

    /// Notes which command this attempt owes a container, before it does what the
    /// command undoes, or (None) that it was run. Errors: `Fenced`.
    pub async fn note_after_hook(
        &self,
        fence: &Fence,
        hook: Option<&AfterHook>,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("note after hook").await?;
        let job = transitions::lock_held(&tx, fence).await?;
        let change = jobs::ActiveModel {
            after_hook: Set(hook.map(AfterHook::encode_to_vec)),
            ..Default::default()
        };
        transitions::change_job(&tx, &job, change).await?;
        tx.commit().await
    }

    /// Ends this attempt without success: back to the queue when `retryable`,
    /// tries are left and no cancellation was asked for. Errors: `Fenced`.
    pub async fn fail_job(
        &self,
        fence: &Fence,
        failure: Failure,
        retryable: bool,
        now_ms: i64,
    ) -> Result<FailOutcome, CatalogError> {
        let tx = self.begin("fail job").await?;
        let job = transitions::lock_held(&tx, fence).await?;
        let outcome = if job.cancel_requested {
            transitions::end_canceled(&tx, &job, now_ms).await?;
            FailOutcome::Ended(JobState::Canceled)
        } else if retryable && job.tries < job.max_attempts {
            let at_ms = self.retry_at_ms(&job, now_ms);
            let how = Requeue {
                due_time_ms: at_ms,
                failure: Some(&failure),
                waiting_reason: &failure.message,
                counts: true,
                leftover: stored::owes_container(&job),
            };
            transitions::requeue(&tx, &job, how, now_ms).await?;
            FailOutcome::WillRetry { at_ms }
        } else {
            transitions::end_failed(&tx, &job, &failure, now_ms).await?;
            FailOutcome::Ended(JobState::Failed)
        };
        tx.commit_with_work().await?;
        Ok(outcome)
    }

    /// Ends the job as CANCELED, with its backup or restore: the worker has
    /// stopped and cleaned up. Errors: `Fenced`.
    pub async fn cancel_job_done(&self, fence: &Fence, now_ms: i64) -> Result<(), CatalogError> {
        let tx = self.begin("end canceled job").await?;
        let job = transitions::lock_held(&tx, fence).await?;
        transitions::end_canceled(&tx, &job, now_ms).await?;
        tx.commit_with_work().await
    }

    /// Gives the job back, due at once, without counting the attempt: the
    /// worker stops. Tells the state it is in now: QUEUED, or CANCELED when that
    /// had been asked for. Errors: `Fenced`.
    pub async fn hand_back(&self, fence: &Fence, now_ms: i64) -> Result<JobState, CatalogError> {
        let tx = self.begin("hand back job").await?;
        let job = transitions::lock_held(&tx, fence).await?;
        let state = if job.cancel_requested {
            transitions::end_canceled(&tx, &job, now_ms).await?;
            JobState::Canceled
        } else {
            let how = Requeue {
                due_time_ms: now_ms,
                failure: None,
                waiting_reason: "its worker stopped; it goes on with the next one",
                counts: false,
                leftover: stored::owes_container(&job),
            };
            transitions::requeue(&tx, &job, how, now_ms).await?;
            JobState::Queued
        };
        tx.commit_with_work().await?;
        Ok(state)
    }

    /// When the next try of a job that failed now begins.
    pub(crate) fn retry_at_ms(&self, job: &jobs::Model, now_ms: i64) -> i64 {
        let delay_ms = self.retry.delay_ms(&job.job_id, job.tries as u32);
        now_ms.saturating_add(delay_ms)
    }
}

/// Asks the job to end: at once while it is queued, otherwise by its worker.
/// Nothing happens to one that has ended. Lock the job first.
pub(crate) async fn cancel(tx: &Tx, job: &jobs::Model, now_ms: i64) -> Result<(), CatalogError> {
    match job.state {
        JobState::Queued => transitions::end_canceled(tx, job, now_ms).await,
        JobState::Running => {
            let change = jobs::ActiveModel {
                cancel_requested: Set(true),
                ..Default::default()
            };
            transitions::change_job(tx, job, change).await
        }
        JobState::Completed | JobState::Failed | JobState::Canceled => Ok(()),
    }
}

/// Whether another exclusive job of the agent runs.
async fn another_runs(tx: &Tx, job: &jobs::Model) -> Result<bool, CatalogError> {
    let running = jobs::Entity::find()
        .filter(jobs::Column::AgentId.eq(&job.agent_id))
        .filter(jobs::Column::State.eq(JobState::Running))
        .filter(jobs::Column::Exclusive.eq(true))
        .count(tx.db())
        .await;
    Ok(running.doing(tx.doing())? > 0)
}

/// Its message came too early or in vain: the queue is to be told again.
async fn forget_dispatch(tx: &Tx, job: &jobs::Model) -> Result<(), CatalogError> {
    let change = jobs::ActiveModel {
        dispatch_time_ms: Set(None),
        dispatch_version: Set(job.dispatch_version + 1),
        dispatch_hold_ms: Set(0),
        ..Default::default()
    };
    transitions::change_job(tx, job, change).await
}

/// Leaves a job queued until the agent's running one ends. It becomes due by
/// itself after a while, too: the other may have ended at this very moment.
async fn wait_for_agent(
    tx: Tx,
    job: &jobs::Model,
    now_ms: i64,
) -> Result<ClaimOutcome, CatalogError> {
    let why = "another job of the agent runs; it begins when that one has ended";
    let change = jobs::ActiveModel {
        waiting: Set(true),
        due_time_ms: Set(now_ms.saturating_add(limits::BUSY_RETRY_MS)),
        dispatch_time_ms: Set(None),
        dispatch_version: Set(job.dispatch_version + 1),
        dispatch_hold_ms: Set(0),
        progress: Set(stored::waiting_progress(job, why)?),
        ..Default::default()
    };
    transitions::change_job(&tx, job, change).await?;
    tx.commit_with_work().await?;
    Ok(ClaimOutcome::Busy)
}

/// Makes the job, and what it is about, RUNNING.
async fn take(
    tx: &Tx,
    job: &jobs::Model,
    owner: &str,
    lease_ms: i64,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let attempt = job.attempt + 1;
    let progress = stored::fresh_progress(Phase::Preparing, attempt as u32, now_ms);
    let change = jobs::ActiveModel {
        state: Set(JobState::Running),
        attempt: Set(attempt),
        tries: Set(job.tries + 1),
        waiting: Set(false),
        leftover: Set(false),
        lease_owner: Set(Some(owner.to_owned())),
        lease_expire_time_ms: Set(Some(now_ms.saturating_add(lease_ms))),
        progress: Set(progress.encode_to_vec()),
        start_time_ms: Set(Some(job.start_time_ms.unwrap_or(now_ms))),
        ..Default::default()
    };
    transitions::change_job(tx, job, change).await?;
    let start_time_ms = Set(Some(job.start_time_ms.unwrap_or(now_ms)));
    match job.kind {
        JobKind::Backup => {
            let change = backups::ActiveModel {
                state: Set(BackupState::Running),
                start_time_ms,
                ..Default::default()
            };
            transitions::change_open_backup(tx, job, change).await
        }
        JobKind::Restore => {
            let change = restores::ActiveModel {
                state: Set(RestoreState::Running),
                start_time_ms,
                ..Default::default()
            };
            transitions::change_open_restore(tx, job, change).await
        }
        JobKind::Verify
        | JobKind::Delete
        | JobKind::Compact
        | JobKind::Rotate
        | JobKind::Erase
        | JobKind::Copy => Ok(()),
    }
}

/// The job that was just taken, and what it is about.
async fn lease(tx: &Tx, job_id: &str) -> Result<Option<Lease>, CatalogError> {
    let job = jobs::Entity::find_by_id(job_id).one(tx.db()).await;
    let Some(job) = job.doing(tx.doing())? else {
        return Ok(None);
    };
    let agent = agents::Entity::find_by_id(job.agent_id.as_str());
    let agent = agent.one(tx.db()).await.doing(tx.doing())?;
    let mut lease = Lease {
        attempt: job.attempt as u32,
        agent: agent.map(stored::agent).transpose()?,
        backup: None,
        restore: None,
        job: stored::job(job.clone())?,
    };
    if let Some(backup_id) = job.backup_id.as_deref() {
        let backup = backups::Entity::find_by_id(backup_id).find_also_related(jobs::Entity);
        let backup = backup.one(tx.db()).await.doing(tx.doing())?;
        lease.backup = backup.map(stored::backup).transpose()?;
        copies::attach(tx.db(), &mut lease.backup).await?;
    }
    if let Some(restore_id) = job.restore_id.as_deref() {
        let restore = restores::Entity::find_by_id(restore_id).find_also_related(jobs::Entity);
        let restore = restore.one(tx.db()).await.doing(tx.doing())?;
        lease.restore = restore.map(stored::restore).transpose()?;
    }
    Ok(Some(lease))
}
