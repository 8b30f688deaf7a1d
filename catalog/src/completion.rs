//! How each kind of job ends well: one transaction for the job and everything
//! it changes. All answer `Fenced` when the attempt lost its lease.

use prost::Message as _;
use proto::backup::v1::Progress;
use sea_orm::{ActiveValue::Set, ColumnTrait as _, EntityTrait as _, QueryFilter as _};

use crate::{
    Backup, BackupResult, BackupState, Catalog, CatalogError, Failure, Fence, JobKind, JobState,
    Restore, RestoreResult, RestoreState, VerifyDepth, agents,
    backups::not_found,
    connection::Tx,
    copies,
    entities::{backup_copies, backups, jobs, pins, restores},
    error::Doing as _,
    limits,
    restores::{encode_warnings, read_in},
    stored, transitions,
};

impl Catalog {
    /// The backup is stored and was read back: COMPLETED.
    pub async fn complete_backup(
        &self,
        fence: &Fence,
        result: BackupResult,
        now_ms: i64,
    ) -> Result<Backup, CatalogError> {
        let tx = self.begin("complete backup").await?;
        let job = lock_kind(&tx, fence, JobKind::Backup).await?;
        let mut warnings = result.warnings;
        warnings.truncate(limits::WARNINGS_MAX);
        let change = backups::ActiveModel {
            state: Set(BackupState::Completed),
            manifest_attempt: Set(Some(result.manifest_attempt as i32)),
            manifest_digest: Set(Some(result.manifest_digest.to_vec())),
            sequence: Set(Some(result.sequence as i64)),
            size_bytes: Set(result.size_bytes as i64),
            stored_bytes: Set(result.stored_bytes as i64),
            new_bytes: Set(result.new_bytes as i64),
            entries: Set(result.entries as i64),
            warnings: Set(stored::BackupWarnings { items: warnings }.encode_to_vec()),
            warnings_total: Set(result.warnings_total as i64),
            end_time_ms: Set(Some(now_ms)),
            ..Default::default()
        };
        transitions::change_open_backup(&tx, &job, change).await?;
        let (state, last) = (JobState::Completed, result.progress);
        transitions::end_job(&tx, &job, state, None, last, now_ms).await?;
        if copies::has_other_vaults(&tx, &job).await? {
            let added = result.stored_bytes;
            agents::add_vault_bytes(&tx, &job.agent_id, added).await?;
        } else {
            agents::set_vault_bytes(&tx, &job.agent_id, result.vault_bytes).await?;
        }
        agents::look_at_retention(&tx, &job.agent_id, now_ms).await?;
        self.ask_for_copy(&tx, &job, now_ms).await?;
        let backup_id = job.backup_id.unwrap_or_default();
        let row = backups::Entity::find_by_id(backup_id.as_str()).find_also_related(jobs::Entity);
        let row = row.one(tx.db()).await.doing(tx.doing())?;
        let mut backup = stored::backup(row.ok_or_else(|| not_found(&backup_id))?)?;
        copies::attach(tx.db(), [&mut backup]).await?;
        tx.commit_with_work().await?;
        Ok(backup)
    }

    /// The new agent is there: registers it and completes the restore.
    /// Errors besides: `AgentExists`, with nothing changed.
    pub async fn complete_restore(
        &self,
        fence: &Fence,
        result: RestoreResult,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        let tx = self.begin("complete restore").await?;
        let job = lock_kind(&tx, fence, JobKind::Restore).await?;
        let restore_id = job.restore_id.clone().unwrap_or_default();
        let exists = || CatalogError::AgentExists {
            agent_id: result.agent.agent_id.clone(),
        };
        let taken = agents::lock_agent(&tx, &result.agent.agent_id).await?;
        if taken.is_some() {
            return Err(exists());
        }
        match agents::insert_agent(&tx, &result.agent, Some(&restore_id), now_ms).await {
            // Registered at this very moment.
            Err(error) if error.is_unique_violation() => return Err(exists()),
            inserted => inserted?,
        };
        let end = RestoreEnd {
            warnings: result.warnings,
            progress: result.progress,
        };
        let restore = end_restore(&tx, job, end, now_ms).await?;
        tx.commit_with_work().await?;
        Ok(restore)
    }

    /// The backup was read: found right (`found` is None), or wrong. A job that
    /// found something wrong ends FAILED with it. Only a verification of every
    /// byte sets the backup's `verify_time_ms` and clears its `verify_failure`.
    pub async fn complete_verify(
        &self,
        fence: &Fence,
        found: Option<Failure>,
        progress: Option<Progress>,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("complete verify").await?;
        let job = lock_kind(&tx, fence, JobKind::Verify).await?;
        let (state, change) = match &found {
            Some(failure) => (
                JobState::Failed,
                Some(backups::ActiveModel {
                    verify_failure_reason: Set(Some(failure.reason.clone())),
                    verify_failure_message: Set(Some(failure.message.clone())),
                    ..Default::default()
                }),
            ),
            None => (
                JobState::Completed,
                (job.depth == Some(VerifyDepth::Full)).then(|| backups::ActiveModel {
                    verify_time_ms: Set(Some(now_ms)),
                    verify_failure_reason: Set(None),
                    verify_failure_message: Set(None),
                    ..Default::default()
                }),
            ),
        };
        // What is wrong with a copy is not wrong with the backup.
        if let Some(change) = change.filter(|_| job.destination_id.is_empty()) {
            backups::Entity::update_many()
                .set(change)
                .filter(backups::Column::BackupId.eq(job.backup_id.as_deref()))
                .exec(tx.db())
                .await
                .doing(tx.doing())?;
        }
        transitions::end_job(&tx, &job, state, found.as_ref(), progress, now_ms).await?;
        tx.commit_with_work().await
    }

    /// A job came across a backup that is damaged: keeps with it what is wrong, as
    /// a verification does.
    pub async fn note_damage(
        &self,
        fence: &Fence,
        backup_id: &str,
        found: &Failure,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("note damage").await?;
        transitions::lock_held(&tx, fence).await?;
        backups::Entity::update_many()
            .set(backups::ActiveModel {
                verify_failure_reason: Set(Some(found.reason.clone())),
                verify_failure_message: Set(Some(found.message.clone())),
                ..Default::default()
            })
            .filter(backups::Column::BackupId.eq(backup_id))
            .filter(backups::Column::State.eq(BackupState::Completed))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await
    }

    /// The backup's manifests are gone: removes its row, and the agent's row
    /// when it is deregistered and this was its last backup. With
    /// `compact_not_before_ms`, queues a compaction in the same transaction.
    pub async fn complete_delete(
        &self,
        fence: &Fence,
        vault_bytes: Option<u64>,
        compact_not_before_ms: Option<i64>,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("complete delete").await?;
        let job = lock_kind(&tx, fence, JobKind::Delete).await?;
        let backup_id = job.backup_id.as_deref();
        backups::Entity::delete_many()
            .filter(backups::Column::BackupId.eq(backup_id))
            .filter(backups::Column::State.eq(BackupState::Deleting))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        copies::forget(
            &tx,
            backup_copies::Column::BackupId,
            backup_id.unwrap_or_default(),
        )
        .await?;
        // The job that made it goes with it; restores keep theirs, for their history.
        jobs::Entity::delete_many()
            .filter(jobs::Column::BackupId.eq(backup_id))
            .filter(jobs::Column::Kind.eq(JobKind::Backup))
            .filter(jobs::Column::State.is_not_in([JobState::Queued, JobState::Running]))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        transitions::end_job(&tx, &job, JobState::Completed, None, None, now_ms).await?;
        if let Some(vault_bytes) = vault_bytes {
            agents::set_vault_bytes(&tx, &job.agent_id, vault_bytes).await?;
        }
        agents::remove_if_last(&tx, &job.agent_id).await?;
        if let Some(at_ms) = compact_not_before_ms {
            let (agent_id, owner_id) = (&job.agent_id, &job.owner_id);
            self.insert_compact(&tx, agent_id, owner_id, &job.pool, at_ms, now_ms)
                .await?;
        }
        tx.commit_with_work().await
    }

    /// The vault is compacted; the next compaction is queued when there is to be
    /// one, not to begin before `again_ms`.
    pub async fn complete_compact(
        &self,
        fence: &Fence,
        vault_bytes: u64,
        again_ms: Option<i64>,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("complete compact").await?;
        let job = lock_kind(&tx, fence, JobKind::Compact).await?;
        transitions::end_job(&tx, &job, JobState::Completed, None, None, now_ms).await?;
        agents::set_vault_bytes(&tx, &job.agent_id, vault_bytes).await?;
        if let Some(again_ms) = again_ms {
            let (agent_id, owner_id) = (&job.agent_id, &job.owner_id);
            self.insert_compact(&tx, agent_id, owner_id, &job.pool, again_ms, now_ms)
                .await?;
        }
        tx.commit_with_work().await
    }
}

/// How a restore ended well.
pub(crate) struct RestoreEnd {
    /// What is not quite as the backup has it.
    pub(crate) warnings: Vec<String>,
    /// The last figures.
    pub(crate) progress: Option<Progress>,
}

/// Makes a restore and its job COMPLETED.
pub(crate) async fn end_restore(
    tx: &Tx,
    mut job: jobs::Model,
    end: RestoreEnd,
    now_ms: i64,
) -> Result<Restore, CatalogError> {
    // The target's marks, until the worker has removed them.
    job.leftover = true;
    let change = restores::ActiveModel {
        state: Set(RestoreState::Completed),
        warnings: Set(encode_warnings(end.warnings)),
        end_time_ms: Set(Some(now_ms)),
        ..Default::default()
    };
    transitions::change_open_restore(tx, &job, change).await?;
    transitions::end_job(tx, &job, JobState::Completed, None, end.progress, now_ms).await?;
    // Nothing is read any more, even if the worker does not live to say so.
    pins::Entity::delete_many()
        .filter(pins::Column::Holder.eq(&job.job_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    read_in(tx, &job.restore_id.unwrap_or_default()).await
}

/// Reads the job that a worker holds; it must be of this kind.
pub(crate) async fn lock_kind(
    tx: &Tx,
    fence: &Fence,
    kind: JobKind,
) -> Result<jobs::Model, CatalogError> {
    let job = transitions::lock_held(tx, fence).await?;
    if job.kind == kind {
        Ok(job)
    } else {
        Err(transitions::fenced(&fence.job_id, fence.attempt))
    }
}
