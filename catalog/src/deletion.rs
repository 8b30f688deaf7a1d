//! Deletion of backups, and the compaction that follows.

use std::collections::HashSet;

use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, EntityTrait as _, PaginatorTrait as _, QueryFilter as _,
    QuerySelect as _,
};

use crate::{
    Backup, BackupState, Catalog, CatalogError, JobKind, JobState, RemovalRule, Urgency,
    agents::lock_agent,
    backups::{lock_backup, not_found},
    connection::Tx,
    entities::{agents, backups, jobs, pins},
    error::Doing as _,
    in_place, pruning,
    transitions::{self, NewJob},
};

impl Catalog {
    /// Makes an ended backup DELETING and queues its delete job. Repeated, it
    /// changes nothing, unless the delete job before has failed: then it makes a new one.
    ///
    /// Errors: `BackupNotFound`, `BackupNotEnded`, `BackupInUse` (pinned, or a
    /// restore or verification of it waits or runs).
    pub async fn delete_backup(
        &self,
        backup_id: &str,
        now_ms: i64,
    ) -> Result<Backup, CatalogError> {
        let tx = self.begin("delete backup").await?;
        let Some(backup) = lock_backup(&tx, backup_id).await? else {
            return Err(not_found(backup_id));
        };
        match backup.state {
            BackupState::Pending | BackupState::Running => {
                return Err(CatalogError::BackupNotEnded {
                    backup_id: backup_id.to_owned(),
                });
            }
            // A pin is taken of COMPLETED backups only, so none is live here.
            BackupState::Deleting => {}
            _ if backup.protected => {
                return Err(CatalogError::BackupProtected {
                    backup_id: backup_id.to_owned(),
                });
            }
            BackupState::Completed | BackupState::Failed | BackupState::Canceled => {
                if has_open_jobs(&tx, backup_id, &[JobKind::Restore, JobKind::Verify]).await?
                    || is_pinned(&tx, backup_id, now_ms).await?
                {
                    return Err(CatalogError::BackupInUse {
                        backup_id: backup_id.to_owned(),
                    });
                }
            }
        }
        if !has_open_jobs(&tx, backup_id, &[JobKind::Delete]).await? {
            let agent = lock_agent(&tx, &backup.agent_id).await?;
            // The row of an agent outlives its backups; a job needs its pool.
            let agent = agent.ok_or_else(|| crate::agents::not_found(&backup.agent_id))?;
            let job = delete_job(&agent, backup_id, self.retry.max_attempts, now_ms);
            transitions::insert_job(&tx, job, now_ms).await?;
            mark_deleting(&tx, backups::Column::BackupId, backup_id).await?;
            pruning::note(&tx, &[backup], RemovalRule::Request, now_ms).await?;
        }
        tx.commit_with_work().await?;
        let backup = self.get_backup(backup_id).await?;
        backup.ok_or_else(|| not_found(backup_id))
    }

    /// Queues a compact job of the agent's vault, not to begin before
    /// `not_before_ms`; at most one is queued for an agent. Returns its id, or
    /// None when one is queued already (then it is not to wait for longer than
    /// this) or the agent is not known.
    pub async fn enqueue_compact(
        &self,
        agent_id: &str,
        not_before_ms: i64,
        now_ms: i64,
    ) -> Result<Option<String>, CatalogError> {
        let tx = self.begin("enqueue compact").await?;
        let Some(agent) = lock_agent(&tx, agent_id).await? else {
            return Ok(None);
        };
        let job_id = self
            .insert_compact(
                &tx,
                agent_id,
                &agent.owner_id,
                &agent.pool,
                not_before_ms,
                now_ms,
            )
            .await?;
        tx.commit_with_work().await?;
        Ok(job_id)
    }

    /// Queues a compaction, unless one is queued; also of an agent that is gone.
    /// One that is queued for later is brought forward: it may wait for minutes
    /// until readers have gone, and they may have gone since.
    pub(crate) async fn insert_compact(
        &self,
        tx: &Tx,
        agent_id: &str,
        owner_id: &str,
        pool: &str,
        not_before_ms: i64,
        now_ms: i64,
    ) -> Result<Option<String>, CatalogError> {
        let queued = jobs::Entity::find()
            .filter(jobs::Column::AgentId.eq(agent_id))
            .filter(jobs::Column::State.eq(JobState::Queued))
            .filter(jobs::Column::Kind.eq(JobKind::Compact))
            .lock_exclusive()
            .one(tx.db())
            .await
            .doing(tx.doing())?;
        if let Some(queued) = queued {
            if queued.due_time_ms > not_before_ms && queued.dispatch_time_ms.is_none() {
                let change = jobs::ActiveModel {
                    due_time_ms: Set(not_before_ms),
                    ..Default::default()
                };
                transitions::change_job(tx, &queued, change).await?;
            }
            return Ok(None);
        }
        let job = NewJob {
            job_id: transitions::new_id(now_ms),
            kind: JobKind::Compact,
            agent_id,
            owner_id,
            backup_id: None,
            restore_id: None,
            depth: None,
            destination_id: "",
            pool,
            urgency: Urgency::Scheduled,
            due_time_ms: not_before_ms,
            max_attempts: self.retry.max_attempts,
        };
        let job = transitions::insert_job(tx, job, now_ms).await?;
        Ok(Some(job.job_id))
    }
}

/// Makes sure that nothing keeps an agent's backups, and notes that they are removed.
pub(crate) async fn check_all_deletable(
    tx: &Tx,
    agent_id: &str,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let pin = pins::Entity::find()
        .filter(pins::Column::AgentId.eq(agent_id))
        .filter(pins::Column::ExpireTimeMs.gt(now_ms))
        .one(tx.db())
        .await
        .doing(tx.doing())?;
    if let Some(pin) = pin {
        return Err(CatalogError::BackupInUse {
            backup_id: pin.backup_id,
        });
    }
    let rows = backups::Entity::find()
        .filter(backups::Column::AgentId.eq(agent_id))
        .filter(backups::Column::State.ne(BackupState::Deleting))
        .all(tx.db())
        .await
        .doing(tx.doing())?;
    if let Some(protected) = rows.iter().find(|row| row.protected) {
        return Err(CatalogError::BackupProtected {
            backup_id: protected.backup_id.clone(),
        });
    }
    pruning::note(tx, &rows, RemovalRule::Deregister, now_ms).await
}

/// Makes all backups of an agent DELETING, each with its job. The caller knows
/// that none of them waits or runs.
pub(crate) async fn delete_all(
    tx: &Tx,
    agent: &agents::Model,
    max_attempts: u32,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let agent_id = agent.agent_id.as_str();
    check_all_deletable(tx, agent_id, now_ms).await?;
    let being_deleted: Vec<Option<String>> = jobs::Entity::find()
        .select_only()
        .column(jobs::Column::BackupId)
        .filter(jobs::Column::AgentId.eq(agent_id))
        .filter(jobs::Column::State.is_in([JobState::Queued, JobState::Running]))
        .filter(jobs::Column::Kind.eq(JobKind::Delete))
        .into_tuple()
        .all(tx.db())
        .await
        .doing(tx.doing())?;
    let being_deleted: HashSet<String> = being_deleted.into_iter().flatten().collect();
    let backup_ids: Vec<String> = backups::Entity::find()
        .select_only()
        .column(backups::Column::BackupId)
        .filter(backups::Column::AgentId.eq(agent_id))
        .into_tuple()
        .all(tx.db())
        .await
        .doing(tx.doing())?;
    for backup_id in backup_ids {
        if being_deleted.contains(&backup_id) {
            continue;
        }
        let job = delete_job(agent, &backup_id, max_attempts, now_ms);
        transitions::insert_job(tx, job, now_ms).await?;
    }
    mark_deleting(tx, backups::Column::AgentId, agent_id).await
}

pub(crate) fn delete_job<'a>(
    agent: &'a agents::Model,
    backup_id: &'a str,
    max_attempts: u32,
    now_ms: i64,
) -> NewJob<'a> {
    NewJob {
        job_id: transitions::new_id(now_ms),
        kind: JobKind::Delete,
        agent_id: &agent.agent_id,
        owner_id: &agent.owner_id,
        backup_id: Some(backup_id),
        restore_id: None,
        depth: None,
        destination_id: "",
        pool: &agent.pool,
        urgency: Urgency::Manual,
        due_time_ms: now_ms,
        max_attempts,
    }
}

pub(crate) async fn mark_deleting(
    tx: &Tx,
    column: backups::Column,
    value: &str,
) -> Result<(), CatalogError> {
    let change = backups::ActiveModel {
        state: Set(BackupState::Deleting),
        failure_reason: Set(None),
        failure_message: Set(None),
        ..Default::default()
    };
    backups::Entity::update_many()
        .set(change)
        .filter(column.eq(value))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

pub(crate) async fn has_open_jobs(
    tx: &Tx,
    backup_id: &str,
    kinds: &[JobKind],
) -> Result<bool, CatalogError> {
    let open = jobs::Entity::find()
        .filter(jobs::Column::BackupId.eq(backup_id))
        .filter(jobs::Column::State.is_in([JobState::Queued, JobState::Running]))
        .filter(jobs::Column::Kind.is_in(kinds.iter().copied()))
        .count(tx.db())
        .await;
    if open.doing(tx.doing())? > 0 {
        return Ok(true);
    }
    Ok(kinds.contains(&JobKind::Restore) && in_place::waits_for(tx, backup_id).await?)
}

pub(crate) async fn is_pinned(tx: &Tx, backup_id: &str, now_ms: i64) -> Result<bool, CatalogError> {
    let pins = pins::Entity::find()
        .filter(pins::Column::BackupId.eq(backup_id))
        .filter(pins::Column::ExpireTimeMs.gt(now_ms))
        .count(tx.db())
        .await;
    Ok(pins.doing(tx.doing())? > 0)
}
