//! Restores that replace the agent itself.
//!
//! First a backup of the agent as it is now, the safety backup: protected until
//! the restore has succeeded. Its end queues the restore's job, in the same
//! transaction, or ends the restore. Until then the restore's job is that of the
//! safety backup, so that watching and canceling find what is under way.

use proto::backup::v1::{RestoreDecision, RestorePlan, Source};
use sea_orm::{
    ActiveModelTrait as _, ActiveValue::Set, ColumnTrait as _, EntityTrait as _, QueryFilter as _,
    sea_query::Expr,
};

use crate::{
    BackupState, Catalog, CatalogError, Failure, Fence, JobKind, JobState, NewBackup, RequestKey,
    Restore, RestoreState, Trigger, Urgency, agents, backups,
    completion::{self, RestoreEnd},
    connection::Tx,
    entities::{backups as backup_rows, jobs, restores},
    error::Doing as _,
    requests, restores as plans,
    transitions::{self, NewJob},
};

/// An agent to be replaced by one of its backups.
#[derive(Clone, Debug, PartialEq)]
pub struct NewInPlace {
    /// The agent.
    pub agent_id: String,
    /// The backup, COMPLETED, of this agent.
    pub backup_id: String,
    /// Name of the safety backup.
    pub safety_name: String,
    /// What is made: `agent_id` is the agent's.
    pub plan: RestorePlan,
    /// What would be to decide, decided.
    pub decisions: Vec<RestoreDecision>,
    /// What the agent will not have quite as the backup has it.
    pub warnings: Vec<String>,
    /// Makes the call idempotent.
    pub request: Option<RequestKey>,
}

/// What a worker made when it completed a restore in place.
#[derive(Clone, Debug, PartialEq)]
pub struct InPlaceResult {
    /// Where the agent's state lives now.
    pub source: Source,
    /// Replaces the restore's warnings.
    pub warnings: Vec<String>,
    /// The last figures; None keeps those of the last renewal.
    pub progress: Option<proto::backup::v1::Progress>,
}

impl Catalog {
    /// Accepts a restore in place: the restore, the safety backup and its job in
    /// one transaction.
    ///
    /// Errors: `BackupNotFound` (also one of another agent), `BackupNotCompleted`,
    /// `AgentNotFound`, `AgentBusy` (another one of the agent waits or runs),
    /// `RequestIdReused`.
    pub async fn restore_in_place(
        &self,
        new: NewInPlace,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        match self.restore_in_place_once(&new, now_ms).await {
            // The same request came twice at the same moment: the other was first.
            Err(error) if error.is_unique_violation() => {
                self.restore_in_place_once(&new, now_ms).await
            }
            result => result,
        }
    }

    async fn restore_in_place_once(
        &self,
        new: &NewInPlace,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        let tx = self.begin("restore in place").await?;
        let restore_id = transitions::new_id(now_ms);
        let before = requests::note(&tx, new.request.as_ref(), &restore_id, now_ms).await?;
        if let Some(before) = before {
            drop(tx);
            let restore = self.get_restore(&before).await?;
            return restore.ok_or_else(|| plans::not_found(&before));
        }
        let backup = backups::lock_readable(&tx, &new.backup_id, None).await?;
        if backup.agent_id != new.agent_id {
            return Err(backups::not_found(&new.backup_id));
        }
        let agent = agents::lock_agent(&tx, &new.agent_id).await?;
        let agent = agent.filter(|agent| agent.deregister_time_ms.is_none());
        let agent = agent.ok_or_else(|| agents::not_found(&new.agent_id))?;
        let another = restores::Entity::find()
            .filter(restores::Column::NewAgentId.eq(&new.agent_id))
            .filter(restores::Column::State.is_in([RestoreState::Pending, RestoreState::Running]))
            .one(tx.db())
            .await
            .doing(tx.doing())?;
        if another.is_some() {
            return Err(CatalogError::AgentBusy {
                agent_id: new.agent_id.clone(),
                doing: "another restore in place of it waits or runs",
            });
        }
        let safety = NewBackup {
            agent_id: new.agent_id.clone(),
            owner_id: agent.owner_id.clone(),
            name: new.safety_name.clone(),
            trigger: Trigger::Safety,
            request: None,
        };
        let (id, tries) = (transitions::new_id(now_ms), self.retry.max_attempts);
        let safety = backups::insert(&tx, &safety, &agent, &id, tries, now_ms).await?;
        let row = restores::Model {
            restore_id: restore_id.clone(),
            backup_id: backup.backup_id,
            agent_id: backup.agent_id,
            owner_id: backup.owner_id,
            state: RestoreState::Pending,
            plan: prost::Message::encode_to_vec(&new.plan),
            new_agent_id: new.agent_id.clone(),
            decisions: plans::encode_decisions(new.decisions.clone()),
            warnings: plans::encode_warnings(new.warnings.clone()),
            job_id: Some(safety.job_id),
            failure_reason: None,
            failure_message: None,
            create_time_ms: now_ms,
            start_time_ms: None,
            end_time_ms: None,
            expire_time_ms: None,
            in_place: true,
            safety_backup_id: Some(safety.backup_id),
            destination_id: String::new(),
        };
        restores::Entity::insert(restores::ActiveModel::from(row).reset_all())
            .exec_without_returning(tx.db())
            .await
            .doing(tx.doing())?;
        let restore = plans::read_in(&tx, &restore_id).await?;
        tx.commit_with_work().await?;
        Ok(restore)
    }

    /// The agent is replaced: completes the restore, and the safety backup is as
    /// any other from now on. Errors: `Fenced`, `AgentNotFound`.
    pub async fn complete_in_place(
        &self,
        fence: &Fence,
        result: InPlaceResult,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        let tx = self.begin("complete restore in place").await?;
        let job = completion::lock_kind(&tx, fence, JobKind::Restore).await?;
        agents::move_source(&tx, &job.agent_id, &result.source, now_ms).await?;
        let restore_id = job.restore_id.clone().unwrap_or_default();
        let row = restores::Entity::find_by_id(restore_id.as_str());
        let row = row.one(tx.db()).await.doing(tx.doing())?;
        if let Some(safety) = row.and_then(|row| row.safety_backup_id) {
            backup_rows::Entity::update_many()
                .col_expr(backup_rows::Column::Protected, Expr::value(false))
                .filter(backup_rows::Column::BackupId.eq(safety))
                .exec(tx.db())
                .await
                .doing(tx.doing())?;
            agents::look_at_retention(&tx, &job.agent_id, now_ms).await?;
        }
        let end = RestoreEnd {
            warnings: result.warnings,
            progress: result.progress,
        };
        let restore = completion::end_restore(&tx, job, end, now_ms).await?;
        tx.commit_with_work().await?;
        Ok(restore)
    }
}

/// When a backup's job ends that a restore in place waits for: the restore's own
/// job comes next, or nothing at all.
pub(crate) async fn note_end(
    tx: &Tx,
    job: &jobs::Model,
    state: JobState,
    failure: Option<&Failure>,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let (JobKind::Backup, Some(safety_id)) = (job.kind, &job.backup_id) else {
        return Ok(());
    };
    let waiting = restores::Entity::find()
        .filter(restores::Column::SafetyBackupId.eq(safety_id))
        .filter(restores::Column::State.eq(RestoreState::Pending))
        .one(tx.db())
        .await
        .doing(tx.doing())?;
    let Some(restore) = waiting else {
        return Ok(());
    };
    let change = match state {
        JobState::Completed => match queue(tx, job, &restore, now_ms).await? {
            Ok(job_id) => restores::ActiveModel {
                job_id: Set(Some(job_id)),
                ..Default::default()
            },
            Err(failure) => ended(RestoreState::Failed, Some(&failure), now_ms),
        },
        JobState::Canceled => ended(RestoreState::Canceled, None, now_ms),
        JobState::Failed | JobState::Queued | JobState::Running => {
            let failure = safety_failed(safety_id, failure);
            ended(RestoreState::Failed, Some(&failure), now_ms)
        }
    };
    restores::Entity::update_many()
        .set(change)
        .filter(restores::Column::RestoreId.eq(&restore.restore_id))
        .filter(restores::Column::State.eq(RestoreState::Pending))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}

/// Queues the restore's own job, unless its backup has gone meanwhile.
async fn queue(
    tx: &Tx,
    safety: &jobs::Model,
    restore: &restores::Model,
    now_ms: i64,
) -> Result<Result<String, Failure>, CatalogError> {
    let backup = backup_rows::Entity::find_by_id(restore.backup_id.as_str());
    let backup = backup.one(tx.db()).await.doing(tx.doing())?;
    if backup.is_none_or(|backup| backup.state != BackupState::Completed) {
        return Ok(Err(Failure {
            reason: "BACKUP_NOT_COMPLETED".to_owned(),
            message: format!(
                "backup {} is gone: nothing was changed; restore another one",
                restore.backup_id
            ),
        }));
    }
    let job = NewJob {
        job_id: transitions::new_id(now_ms),
        kind: JobKind::Restore,
        agent_id: &restore.agent_id,
        owner_id: &restore.owner_id,
        backup_id: Some(&restore.backup_id),
        restore_id: Some(&restore.restore_id),
        depth: None,
        destination_id: "",
        pool: &safety.pool,
        urgency: Urgency::Manual,
        due_time_ms: now_ms,
        max_attempts: safety.max_attempts as u32,
    };
    let job = transitions::insert_job(tx, job, now_ms).await?;
    Ok(Ok(job.job_id))
}

fn ended(state: RestoreState, failure: Option<&Failure>, now_ms: i64) -> restores::ActiveModel {
    restores::ActiveModel {
        state: Set(state),
        failure_reason: Set(failure.map(|failure| failure.reason.clone())),
        failure_message: Set(failure.map(|failure| failure.message.clone())),
        end_time_ms: Set(Some(now_ms)),
        ..Default::default()
    }
}

fn safety_failed(safety_id: &str, failure: Option<&Failure>) -> Failure {
    let why = failure.map_or_else(String::new, |failure| {
        format!(" ({}: {})", failure.reason, failure.message)
    });
    Failure {
        reason: "SAFETY_BACKUP_FAILED".to_owned(),
        message: format!(
            "the safety backup {safety_id} failed{why}: nothing was changed; mend that, or restore \
             the backup as a new agent"
        ),
    }
}

/// Whether a restore of a backup waits for its safety backup: it has no job of its own yet.
pub(crate) async fn waits_for(tx: &Tx, backup_id: &str) -> Result<bool, CatalogError> {
    let waiting = restores::Entity::find()
        .filter(restores::Column::BackupId.eq(backup_id))
        .filter(restores::Column::InPlace.eq(true))
        .filter(restores::Column::State.eq(RestoreState::Pending))
        .one(tx.db())
        .await;
    Ok(waiting.doing(tx.doing())?.is_some())
}
