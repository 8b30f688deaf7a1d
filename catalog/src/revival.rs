//! A new try for a job that has failed, with its backup or restore.

use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QuerySelect as _,
};

use crate::{
    BackupState, Catalog, CatalogError, CopyState, Job, JobKind, JobState, RestoreState, agents,
    backups,
    connection::Tx,
    copies, deletion,
    entities::{backups as backup_rows, jobs, restores as restore_rows},
    error::Doing as _,
    restores, rotations, stored, transitions,
};

/// What is shown until a worker takes it.
const WHY: &str = "an administrator asked for a new try";

impl Catalog {
    /// Gives a FAILED job a new try, with all its attempts, in the pool where its
    /// agent is now: its backup or restore is PENDING again. A job that waits for
    /// its next attempt begins it now.
    ///
    /// Errors: `JobNotFound`, `JobNotFailed`; `AgentNotFound`, `BackupNotFound`,
    /// `RestoreNotFound` when what it worked on is gone; `BackupNotCompleted`,
    /// `AgentExists`, `AgentBusy`, `AlreadyEnded` (a restore in place) when it can't be done any more.
    pub async fn retry_job(&self, job_id: &str, now_ms: i64) -> Result<Job, CatalogError> {
        let tx = self.begin("retry job").await?;
        let job = transitions::lock_job(&tx, job_id).await?;
        let job = job.ok_or_else(|| CatalogError::JobNotFound {
            job_id: job_id.to_owned(),
        })?;
        let pool = match job.state {
            JobState::Failed => revive(&tx, &job).await?,
            JobState::Queued if job.tries > 0 => job.pool.clone(),
            state => return Err(not_failed(job_id, state)),
        };
        let again = job.state == JobState::Failed;
        let change = jobs::ActiveModel {
            state: Set(JobState::Queued),
            pool: Set(pool),
            tries: Set(if again { 0 } else { job.tries }),
            due_time_ms: Set(now_ms),
            dispatch_time_ms: Set(None),
            dispatch_version: Set(job.dispatch_version + 1),
            dispatch_hold_ms: Set(0),
            waiting: Set(false),
            cancel_requested: Set(false),
            failure_reason: Set(None),
            failure_message: Set(None),
            progress: Set(stored::waiting_progress(&job, WHY)?),
            end_time_ms: Set(None),
            ..Default::default()
        };
        transitions::change_job(&tx, &job, change).await?;
        let queued = jobs::Entity::find_by_id(job_id).one(tx.db()).await;
        let queued = queued
            .doing(tx.doing())?
            .ok_or_else(|| CatalogError::JobNotFound {
                job_id: job_id.to_owned(),
            })?;
        tx.commit_with_work().await?;
        stored::job(queued)
    }
}

fn not_failed(job_id: &str, state: JobState) -> CatalogError {
    CatalogError::JobNotFailed {
        job_id: job_id.to_owned(),
        state: match state {
            JobState::Queued => "QUEUED",
            JobState::Running => "RUNNING",
            JobState::Completed => "COMPLETED",
            JobState::Failed => "FAILED",
            JobState::Canceled => "CANCELED",
        },
    }
}

/// Brings back what the job was about; tells the agent's pool.
async fn revive(tx: &Tx, job: &jobs::Model) -> Result<String, CatalogError> {
    if job.kind == JobKind::Rotate {
        // It is about all vaults, and there is one at a time.
        return match rotations::open_rotation(tx).await? {
            Some(rotation_id) => Err(CatalogError::KeyRotationRunning { rotation_id }),
            None => Ok(job.pool.clone()),
        };
    }
    let agent = agents::lock_agent(tx, &job.agent_id).await?;
    let agent = agent.ok_or_else(|| agents::not_found(&job.agent_id))?;
    let backup_id = job.backup_id.as_deref().unwrap_or_default();
    match job.kind {
        JobKind::Backup => {
            if agent.deregister_time_ms.is_some() {
                return Err(agents::not_found(&job.agent_id));
            }
            let change = backup_rows::ActiveModel {
                state: Set(BackupState::Pending),
                end_time_ms: Set(None),
                ..unfailed()
            };
            change_backup(tx, backup_id, BackupState::Failed, change).await?;
        }
        JobKind::Restore => {
            backups::lock_readable(tx, backup_id, None).await?;
            revive_restore(tx, job.restore_id.as_deref().unwrap_or_default()).await?;
        }
        JobKind::Verify => {
            backups::lock_readable(tx, backup_id, None).await?;
        }
        JobKind::Delete => {
            if deletion::has_open_jobs(tx, backup_id, &[JobKind::Delete]).await? {
                return Err(CatalogError::AgentBusy {
                    agent_id: job.agent_id.clone(),
                    doing: "this backup is being deleted already",
                });
            }
            change_backup(tx, backup_id, BackupState::Deleting, unfailed()).await?;
        }
        JobKind::Erase => {
            backup_rows::Entity::update_many()
                .set(unfailed())
                .filter(backup_rows::Column::AgentId.eq(&job.agent_id))
                .filter(backup_rows::Column::State.eq(BackupState::Deleting))
                .exec(tx.db())
                .await
                .doing(tx.doing())?;
        }
        JobKind::Copy => {
            backups::lock_readable(tx, backup_id, None).await?;
            copies::note(tx, job, CopyState::Pending, None, job.create_time_ms).await?;
        }
        JobKind::Compact | JobKind::Rotate => {}
    }
    Ok(agent.pool)
}

fn unfailed() -> backup_rows::ActiveModel {
    backup_rows::ActiveModel {
        failure_reason: Set(None),
        failure_message: Set(None),
        ..Default::default()
    }
}

async fn change_backup(
    tx: &Tx,
    backup_id: &str,
    state: BackupState,
    change: backup_rows::ActiveModel,
) -> Result<(), CatalogError> {
    let changed = backup_rows::Entity::update_many()
        .set(change)
        .filter(backup_rows::Column::BackupId.eq(backup_id))
        .filter(backup_rows::Column::State.eq(state))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    if changed.rows_affected == 1 {
        Ok(())
    } else {
        Err(backups::not_found(backup_id))
    }
}

async fn revive_restore(tx: &Tx, restore_id: &str) -> Result<(), CatalogError> {
    let row = restore_rows::Entity::find_by_id(restore_id).lock_exclusive();
    let row = row.one(tx.db()).await.doing(tx.doing())?;
    let row = row.filter(|row| row.state == RestoreState::Failed);
    let row = row.ok_or_else(|| restores::not_found(restore_id))?;
    if row.in_place {
        // Its safety backup is of an agent that may have changed since.
        return Err(CatalogError::AlreadyEnded {
            what: "restore",
            id: restore_id.to_owned(),
        });
    }
    restores::refuse_taken(tx, &row.new_agent_id).await?;
    let change = restore_rows::ActiveModel {
        state: Set(RestoreState::Pending),
        failure_reason: Set(None),
        failure_message: Set(None),
        end_time_ms: Set(None),
        ..Default::default()
    };
    restore_rows::Entity::update_many()
        .set(change)
        .filter(restore_rows::Column::RestoreId.eq(restore_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}
