//! The transitions of jobs and of what they are about, as pieces of a
//! transaction. Each compares what is there with what it expects.
//!
//! ```text
//!            claim                 complete
//!  QUEUED ----------> RUNNING -----------------> COMPLETED
//!    |  ^               |  |
//!    |  +---------------+  +-- no try left ----> FAILED
//!    |    fail, lease      |
//!    |    lost, hand back  |
//!    +---- cancel ---------+-------------------> CANCELED
//! ```

use prost::Message as _;
use proto::backup::v1::{Phase, Progress};
use sea_orm::{
    ActiveModelTrait as _,
    ActiveValue::Set,
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _},
};
use uuid::{NoContext, Timestamp, Uuid};

use crate::{
    BackupState, CatalogError, CopyState, Failure, Fence, JobKind, JobState, RestoreState, Urgency,
    VerifyDepth, announcements,
    connection::Tx,
    copies,
    entities::{backups, jobs, restores},
    error::Doing as _,
    in_place, schedules, stored,
};

/// A new id that sorts after those made before.
pub(crate) fn new_id(now_ms: i64) -> String {
    let now_ms = u64::try_from(now_ms).unwrap_or(0);
    let nanos = (now_ms % 1_000) as u32 * 1_000_000;
    Uuid::new_v7(Timestamp::from_unix(NoContext, now_ms / 1_000, nanos)).to_string()
}

/// The least id that was made at this time: what is older sorts before it.
pub(crate) fn first_id(time_ms: i64) -> String {
    // Later than any id can say counts as the latest.
    let time_ms = time_ms.clamp(0, (1 << 48) - 1);
    let hex = format!("{time_ms:012x}");
    format!("{}-{}-7000-8000-000000000000", &hex[..8], &hex[8..])
}

/// A job to queue.
#[derive(Debug)]
pub(crate) struct NewJob<'a> {
    pub(crate) job_id: String,
    pub(crate) kind: JobKind,
    pub(crate) agent_id: &'a str,
    pub(crate) owner_id: &'a str,
    pub(crate) backup_id: Option<&'a str>,
    pub(crate) restore_id: Option<&'a str>,
    pub(crate) depth: Option<VerifyDepth>,
    pub(crate) destination_id: &'a str,
    pub(crate) pool: &'a str,
    pub(crate) urgency: Urgency,
    pub(crate) due_time_ms: i64,
    pub(crate) max_attempts: u32,
}

/// Queues a job; commit with `commit_with_work`.
pub(crate) async fn insert_job(
    tx: &Tx,
    new: NewJob<'_>,
    now_ms: i64,
) -> Result<jobs::Model, CatalogError> {
    let row = job_row(new, now_ms);
    let columns = jobs::ActiveModel::from(row.clone()).reset_all();
    jobs::Entity::insert(columns)
        .exec_without_returning(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(row)
}

/// A queued job, yet to be inserted.
pub(crate) fn job_row(new: NewJob<'_>, now_ms: i64) -> jobs::Model {
    jobs::Model {
        job_id: new.job_id,
        kind: new.kind,
        state: JobState::Queued,
        agent_id: new.agent_id.to_owned(),
        owner_id: new.owner_id.to_owned(),
        backup_id: new.backup_id.map(str::to_owned),
        restore_id: new.restore_id.map(str::to_owned),
        depth: new.depth,
        pool: new.pool.to_owned(),
        urgency: new.urgency,
        exclusive: new.kind.is_exclusive(),
        attempt: 0,
        tries: 0,
        max_attempts: new.max_attempts as i32,
        due_time_ms: new.due_time_ms,
        dispatch_time_ms: None,
        dispatch_version: 0,
        dispatch_hold_ms: 0,
        waiting: false,
        lease_owner: None,
        lease_expire_time_ms: None,
        cancel_requested: false,
        paused_container: None,
        after_hook: None,
        leftover: false,
        failure_reason: None,
        failure_message: None,
        progress: stored::fresh_progress(Phase::Queued, 0, now_ms).encode_to_vec(),
        create_time_ms: now_ms,
        start_time_ms: None,
        end_time_ms: None,
        destination_id: new.destination_id.to_owned(),
    }
}

/// Reads a job that the transaction will change.
pub(crate) async fn lock_job(tx: &Tx, job_id: &str) -> Result<Option<jobs::Model>, CatalogError> {
    let job = jobs::Entity::find_by_id(job_id).lock_exclusive();
    job.one(tx.db()).await.doing(tx.doing())
}

/// Reads the job that a worker holds.
pub(crate) async fn lock_held(tx: &Tx, fence: &Fence) -> Result<jobs::Model, CatalogError> {
    match lock_job(tx, &fence.job_id).await? {
        Some(job) if job.state == JobState::Running && job.attempt as u32 == fence.attempt => {
            Ok(job)
        }
        _ => Err(fenced(&fence.job_id, fence.attempt)),
    }
}

pub(crate) fn fenced(job_id: &str, attempt: u32) -> CatalogError {
    CatalogError::Fenced {
        job_id: job_id.to_owned(),
        attempt,
    }
}

/// Changes a job, provided that it is in the state and attempt it was read in.
pub(crate) async fn change_job(
    tx: &Tx,
    before: &jobs::Model,
    change: jobs::ActiveModel,
) -> Result<(), CatalogError> {
    let changed = jobs::Entity::update_many()
        .set(change)
        .filter(jobs::Column::JobId.eq(&before.job_id))
        .filter(jobs::Column::State.eq(before.state))
        .filter(jobs::Column::Attempt.eq(before.attempt))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    if changed.rows_affected == 1 {
        Ok(())
    } else {
        Err(fenced(&before.job_id, before.attempt as u32))
    }
}

/// Ends a job, and lets the agent's next one begin.
pub(crate) async fn end_job(
    tx: &Tx,
    job: &jobs::Model,
    state: JobState,
    failure: Option<&Failure>,
    last: Option<Progress>,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let change = jobs::ActiveModel {
        state: Set(state),
        waiting: Set(false),
        lease_owner: Set(None),
        lease_expire_time_ms: Set(None),
        leftover: Set(stored::has_leftover(job)),
        failure_reason: Set(failure.map(|failure| failure.reason.clone())),
        failure_message: Set(failure.map(|failure| failure.message.clone())),
        progress: Set(stored::ended_progress(job, last.clone())?),
        end_time_ms: Set(Some(now_ms)),
        ..Default::default()
    };
    change_job(tx, job, change).await?;
    announcements::note(tx, job, state, failure, last.as_ref(), now_ms).await?;
    schedules::note_end(tx, job, state, now_ms).await?;
    in_place::note_end(tx, job, state, failure, now_ms).await?;
    wake_next(tx, job, now_ms).await
}

/// Ends a job FAILED, and its backup or restore with it. A backup whose removal
/// failed stays DELETING and says why.
pub(crate) async fn end_failed(
    tx: &Tx,
    job: &jobs::Model,
    failure: &Failure,
    now_ms: i64,
) -> Result<(), CatalogError> {
    end_job(tx, job, JobState::Failed, Some(failure), None, now_ms).await?;
    let reason = Set(Some(failure.reason.clone()));
    let message = Set(Some(failure.message.clone()));
    match job.kind {
        JobKind::Backup => {
            let change = backups::ActiveModel {
                state: Set(BackupState::Failed),
                failure_reason: reason,
                failure_message: message,
                end_time_ms: Set(Some(now_ms)),
                ..Default::default()
            };
            change_open_backup(tx, job, change).await
        }
        JobKind::Restore => {
            let change = restores::ActiveModel {
                state: Set(RestoreState::Failed),
                failure_reason: reason,
                failure_message: message,
                end_time_ms: Set(Some(now_ms)),
                ..Default::default()
            };
            change_open_restore(tx, job, change).await
        }
        JobKind::Delete => {
            let change = backups::ActiveModel {
                failure_reason: reason,
                failure_message: message,
                ..Default::default()
            };
            backups::Entity::update_many()
                .set(change)
                .filter(backups::Column::BackupId.eq(job.backup_id.as_deref()))
                .filter(backups::Column::State.eq(BackupState::Deleting))
                .exec(tx.db())
                .await
                .doing(tx.doing())?;
            Ok(())
        }
        JobKind::Erase => {
            let change = backups::ActiveModel {
                failure_reason: reason,
                failure_message: message,
                ..Default::default()
            };
            backups::Entity::update_many()
                .set(change)
                .filter(backups::Column::AgentId.eq(&job.agent_id))
                .filter(backups::Column::State.eq(BackupState::Deleting))
                .exec(tx.db())
                .await
                .doing(tx.doing())?;
            Ok(())
        }
        JobKind::Copy => copies::note(tx, job, CopyState::Failed, Some(failure), now_ms).await,
        JobKind::Verify | JobKind::Compact | JobKind::Rotate => Ok(()),
    }
}

/// Ends a job CANCELED, and its backup or restore with it.
pub(crate) async fn end_canceled(
    tx: &Tx,
    job: &jobs::Model,
    now_ms: i64,
) -> Result<(), CatalogError> {
    end_job(tx, job, JobState::Canceled, None, None, now_ms).await?;
    match job.kind {
        JobKind::Backup => {
            let change = backups::ActiveModel {
                state: Set(BackupState::Canceled),
                end_time_ms: Set(Some(now_ms)),
                ..Default::default()
            };
            change_open_backup(tx, job, change).await
        }
        JobKind::Restore => {
            let change = restores::ActiveModel {
                state: Set(RestoreState::Canceled),
                end_time_ms: Set(Some(now_ms)),
                ..Default::default()
            };
            change_open_restore(tx, job, change).await
        }
        JobKind::Copy => {
            let canceled = Failure {
                reason: "CANCELED".to_owned(),
                message: "the copy was canceled: give its job a new try".to_owned(),
            };
            copies::note(tx, job, CopyState::Failed, Some(&canceled), now_ms).await
        }
        JobKind::Verify | JobKind::Delete | JobKind::Compact | JobKind::Rotate | JobKind::Erase => {
            Ok(())
        }
    }
}

/// Changes the job's backup, while it is PENDING or RUNNING.
pub(crate) async fn change_open_backup(
    tx: &Tx,
    job: &jobs::Model,
    change: backups::ActiveModel,
) -> Result<(), CatalogError> {
    let changed = backups::Entity::update_many()
        .set(change)
        .filter(backups::Column::BackupId.eq(job.backup_id.as_deref()))
        .filter(backups::Column::State.is_in([BackupState::Pending, BackupState::Running]))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    if changed.rows_affected == 1 {
        Ok(())
    } else {
        Err(fenced(&job.job_id, job.attempt as u32))
    }
}

/// Changes the job's restore, while it is PENDING or RUNNING.
pub(crate) async fn change_open_restore(
    tx: &Tx,
    job: &jobs::Model,
    change: restores::ActiveModel,
) -> Result<(), CatalogError> {
    let changed = restores::Entity::update_many()
        .set(change)
        .filter(restores::Column::RestoreId.eq(job.restore_id.as_deref()))
        .filter(restores::Column::State.is_in([RestoreState::Pending, RestoreState::Running]))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    if changed.rows_affected == 1 {
        Ok(())
    } else {
        Err(fenced(&job.job_id, job.attempt as u32))
    }
}

/// Why and when a running job goes back to the queue.
#[derive(Debug)]
pub(crate) struct Requeue<'a> {
    pub(crate) due_time_ms: i64,
    /// Of this attempt, when it failed.
    pub(crate) failure: Option<&'a Failure>,
    /// For people.
    pub(crate) waiting_reason: &'a str,
    /// Whether the attempt counts.
    pub(crate) counts: bool,
    /// Whether the attempt may have left something half-made.
    pub(crate) leftover: bool,
}

/// Puts a running job back into the queue, undispatched, and lets the agent's
/// next one begin.
pub(crate) async fn requeue(
    tx: &Tx,
    job: &jobs::Model,
    how: Requeue<'_>,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let change = jobs::ActiveModel {
        state: Set(JobState::Queued),
        tries: Set(if how.counts {
            job.tries
        } else {
            Ord::max(job.tries - 1, 0)
        }),
        due_time_ms: Set(how.due_time_ms),
        dispatch_time_ms: Set(None),
        dispatch_version: Set(job.dispatch_version + 1),
        dispatch_hold_ms: Set(0),
        waiting: Set(false),
        lease_owner: Set(None),
        lease_expire_time_ms: Set(None),
        leftover: Set(how.leftover),
        failure_reason: Set(how.failure.map(|failure| failure.reason.clone())),
        failure_message: Set(how.failure.map(|failure| failure.message.clone())),
        progress: Set(stored::waiting_progress(job, how.waiting_reason)?),
        ..Default::default()
    };
    change_job(tx, job, change).await?;
    wake_next(tx, job, now_ms).await
}

/// When an exclusive job ends or goes back: makes the agent's oldest job that
/// found it busy due now.
pub(crate) async fn wake_next(
    tx: &Tx,
    ended: &jobs::Model,
    now_ms: i64,
) -> Result<(), CatalogError> {
    if !ended.exclusive {
        return Ok(());
    }
    let next: Option<String> = jobs::Entity::find()
        .select_only()
        .column(jobs::Column::JobId)
        .filter(jobs::Column::AgentId.eq(&ended.agent_id))
        .filter(jobs::Column::State.eq(JobState::Queued))
        .filter(jobs::Column::Waiting.eq(true))
        .order_by_asc(jobs::Column::JobId)
        .into_tuple()
        .one(tx.db())
        .await
        .doing(tx.doing())?;
    let Some(next) = next else { return Ok(()) };
    jobs::Entity::update_many()
        .col_expr(jobs::Column::Waiting, Expr::value(false))
        .col_expr(jobs::Column::DueTimeMs, Expr::value(now_ms))
        .col_expr(jobs::Column::DispatchTimeMs, Expr::value(None::<i64>))
        .col_expr(jobs::Column::DispatchHoldMs, Expr::value(0_i64))
        .col_expr(
            jobs::Column::DispatchVersion,
            Expr::col(jobs::Column::DispatchVersion).add(1),
        )
        .filter(jobs::Column::JobId.eq(next))
        .filter(jobs::Column::State.eq(JobState::Queued))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}
