//! Copies of backups at other destinations: asked for in the transaction that completes a
//! backup, made by a job each, and shown with the backup.

use std::collections::HashMap;

use proto::backup::v1::Progress;
use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, ConnectionTrait, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, QueryTrait as _,
};

use crate::{
    Backup, BackupCopy, BackupState, Catalog, CatalogError, CopyState, Failure, Fence, JobKind,
    JobState, Urgency, agents,
    completion::lock_kind,
    connection::Tx,
    destinations,
    entities::{backup_copies, backups, jobs},
    error::Doing as _,
    stored,
    transitions::{self, NewJob},
};

impl Catalog {
    /// The copy is there, and was read back; it took so many bytes. Errors: `Fenced`.
    pub async fn complete_copy(
        &self,
        fence: &Fence,
        stored_bytes: u64,
        progress: Option<Progress>,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("complete copy").await?;
        let job = lock_kind(&tx, fence, JobKind::Copy).await?;
        note(&tx, &job, CopyState::Completed, None, now_ms).await?;
        agents::add_vault_bytes(&tx, &job.agent_id, stored_bytes).await?;
        transitions::end_job(&tx, &job, JobState::Completed, None, progress, now_ms).await?;
        tx.commit_with_work().await
    }

    /// Queues the copy of a backup that was just completed, where its agent has a second
    /// destination that is another place.
    pub(crate) async fn ask_for_copy(
        &self,
        tx: &Tx,
        backup_job: &jobs::Model,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let Some(agent) = agents::lock_agent(tx, &backup_job.agent_id).await? else {
            return Ok(());
        };
        let second = agent.second_destination_id.as_str();
        let backup_id = backup_job.backup_id.as_deref().unwrap_or_default();
        let backup = backups::Entity::find_by_id(backup_id).one(tx.db()).await;
        let Some(backup) = backup.doing(tx.doing())? else {
            return Ok(());
        };
        if second.is_empty() || second == backup.destination_id {
            return Ok(());
        }
        let place = destinations::place(tx, second).await?;
        if place.is_some() && place == destinations::place(tx, &backup.destination_id).await? {
            return Ok(());
        }
        let row = backup_copies::Model {
            backup_id: backup.backup_id.clone(),
            destination_id: second.to_owned(),
            agent_id: agent.agent_id.clone(),
            state: CopyState::Pending,
            failure_reason: None,
            failure_message: None,
            update_time_ms: now_ms,
        };
        backup_copies::Entity::insert(backup_copies::ActiveModel::from(row))
            .exec_without_returning(tx.db())
            .await
            .doing(tx.doing())?;
        let job = NewJob {
            job_id: transitions::new_id(now_ms),
            kind: JobKind::Copy,
            agent_id: &agent.agent_id,
            owner_id: &agent.owner_id,
            backup_id: Some(backup_id),
            restore_id: None,
            depth: None,
            destination_id: second,
            pool: &agent.pool,
            urgency: Urgency::Scheduled,
            due_time_ms: now_ms,
            max_attempts: self.retry.max_attempts,
        };
        transitions::insert_job(tx, job, now_ms).await?;
        Ok(())
    }
}

/// Whether the agent has a vault besides the one in which a job has made a backup.
pub(crate) async fn has_other_vaults(tx: &Tx, job: &jobs::Model) -> Result<bool, CatalogError> {
    let copied = backup_copies::Entity::find()
        .filter(backup_copies::Column::AgentId.eq(&job.agent_id))
        .one(tx.db())
        .await
        .doing(tx.doing())?;
    if copied.is_some() {
        return Ok(true);
    }
    let here = backups::Entity::find()
        .select_only()
        .column(backups::Column::DestinationId)
        .filter(backups::Column::BackupId.eq(job.backup_id.as_deref()));
    let elsewhere = backups::Entity::find()
        .filter(backups::Column::AgentId.eq(&job.agent_id))
        .filter(backups::Column::DestinationId.not_in_subquery(here.into_query()))
        .one(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(elsewhere.is_some())
}

/// Notes how the copy that a job makes stands.
pub(crate) async fn note(
    tx: &Tx,
    job: &jobs::Model,
    state: CopyState,
    failure: Option<&Failure>,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let change = backup_copies::ActiveModel {
        state: Set(state),
        failure_reason: Set(failure.map(|failure| failure.reason.clone())),
        failure_message: Set(failure.map(|failure| failure.message.clone())),
        update_time_ms: Set(now_ms),
        ..Default::default()
    };
    backup_copies::Entity::update_many()
        .set(change)
        .filter(backup_copies::Column::BackupId.eq(job.backup_id.as_deref()))
        .filter(backup_copies::Column::DestinationId.eq(&job.destination_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

/// Where a backup is to be read: at this destination, or (empty) where it lies.
pub(crate) async fn check_readable_at(
    tx: &Tx,
    backup: &backups::Model,
    destination_id: &str,
) -> Result<(), CatalogError> {
    if destination_id.is_empty() || destination_id == backup.destination_id {
        return Ok(());
    }
    let key = (backup.backup_id.clone(), destination_id.to_owned());
    let copy = backup_copies::Entity::find_by_id(key).one(tx.db()).await;
    let copy = copy.doing(tx.doing())?;
    if copy.is_some_and(|copy| copy.state == CopyState::Completed) {
        return Ok(());
    }
    Err(CatalogError::CopyNotCompleted {
        backup_id: backup.backup_id.clone(),
        destination_id: destination_id.to_owned(),
    })
}

/// Forgets the copies of a backup (`Column::BackupId`) or an agent (`Column::AgentId`).
pub(crate) async fn forget(
    tx: &Tx,
    column: backup_copies::Column,
    id: &str,
) -> Result<(), CatalogError> {
    backup_copies::Entity::delete_many()
        .filter(column.eq(id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

/// Adds what is known of the backups' copies.
pub(crate) async fn attach<'a>(
    db: &impl ConnectionTrait,
    found: impl IntoIterator<Item = &'a mut Backup>,
) -> Result<(), CatalogError> {
    let mut found: HashMap<String, &mut Backup> = found
        .into_iter()
        .filter(|backup| matches!(backup.state, BackupState::Completed | BackupState::Deleting))
        .map(|backup| (backup.backup_id.clone(), backup))
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    let rows = backup_copies::Entity::find()
        .filter(backup_copies::Column::BackupId.is_in(found.keys().cloned()))
        .order_by_asc(backup_copies::Column::DestinationId)
        .all(db)
        .await
        .doing("read copies")?;
    for row in rows {
        if let Some(backup) = found.get_mut(&row.backup_id) {
            backup.copies.push(BackupCopy {
                destination_id: row.destination_id,
                state: row.state,
                update_time_ms: row.update_time_ms,
                failure: stored::failure(row.failure_reason, row.failure_message),
            });
        }
    }
    Ok(())
}
