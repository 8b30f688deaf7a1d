//! The end of an agent by the destruction of its keys: one job destroys the data keys
//! first, then removes the rest.

use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, sea_query::Expr};

use crate::{
    Catalog, CatalogError, Fence, JobKind, JobState, Urgency,
    agents::{has_callers_job, lock_agent, not_found},
    copies, deletion,
    entities::{agents, backup_copies, backups, jobs},
    error::Doing as _,
    jobs as job_calls, keys, schedules,
    transitions::{self, NewJob},
};

/// Keys that were to be destroyed are, however often it takes.
const ATTEMPTS_MAX: u32 = 1_000;

impl Catalog {
    /// Forgets an agent and has its data keys destroyed. It is hidden at once, its backups
    /// become DELETING, and all go together. Returns the job's id.
    ///
    /// Errors: `AgentNotFound`, `AgentBusy` (a backup, restore or verification waits or
    /// runs), `BackupInUse`, `BackupProtected`.
    pub async fn erase_agent(&self, agent_id: &str, now_ms: i64) -> Result<String, CatalogError> {
        let tx = self.begin("erase agent").await?;
        let row = lock_agent(&tx, agent_id).await?;
        let row = row.filter(|row| row.deregister_time_ms.is_none() || row.backups_kept);
        let row = row.ok_or_else(|| not_found(agent_id))?;
        if has_callers_job(&tx, agent_id).await? {
            return Err(CatalogError::AgentBusy {
                agent_id: agent_id.to_owned(),
                doing: "a backup, restore or verification waits or runs",
            });
        }
        deletion::check_all_deletable(&tx, agent_id, now_ms).await?;
        schedules::remove(&tx, agent_id).await?;
        // Deletions and compactions that wait have nothing to do any more.
        let waiting = jobs::Entity::find()
            .filter(jobs::Column::AgentId.eq(agent_id))
            .filter(jobs::Column::State.eq(JobState::Queued))
            .all(tx.db())
            .await
            .doing(tx.doing())?;
        for job in waiting {
            job_calls::cancel(&tx, &job, now_ms).await?;
        }
        deletion::mark_deleting(&tx, backups::Column::AgentId, agent_id).await?;
        agents::Entity::update_many()
            .col_expr(agents::Column::DeregisterTimeMs, Expr::value(now_ms))
            .col_expr(agents::Column::BackupsKept, Expr::value(false))
            .filter(agents::Column::AgentId.eq(agent_id))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        let job = NewJob {
            job_id: transitions::new_id(now_ms),
            kind: JobKind::Erase,
            agent_id,
            owner_id: &row.owner_id,
            backup_id: None,
            restore_id: None,
            depth: None,
            destination_id: "",
            pool: &row.pool,
            urgency: Urgency::Manual,
            due_time_ms: now_ms,
            max_attempts: ATTEMPTS_MAX,
        };
        let job = transitions::insert_job(&tx, job, now_ms).await?;
        tx.commit_with_work().await?;
        Ok(job.job_id)
    }

    /// Nothing is left of the agent's vaults: its backups and itself are forgotten.
    /// Errors: `Fenced`.
    pub async fn complete_erase(&self, fence: &Fence, now_ms: i64) -> Result<(), CatalogError> {
        let tx = self.begin("complete erase").await?;
        let job = transitions::lock_held(&tx, fence).await?;
        if job.kind != JobKind::Erase {
            return Err(transitions::fenced(&fence.job_id, fence.attempt));
        }
        let agent_id = job.agent_id.as_str();
        backups::Entity::delete_many()
            .filter(backups::Column::AgentId.eq(agent_id))
            .filter(backups::Column::State.eq(crate::BackupState::Deleting))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        jobs::Entity::delete_many()
            .filter(jobs::Column::AgentId.eq(agent_id))
            .filter(jobs::Column::Kind.eq(JobKind::Backup))
            .filter(jobs::Column::State.is_not_in([JobState::Queued, JobState::Running]))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        copies::forget(&tx, backup_copies::Column::AgentId, agent_id).await?;
        keys::forget_vaults(&tx, agent_id).await?;
        transitions::end_job(&tx, &job, JobState::Completed, None, None, now_ms).await?;
        crate::agents::remove_if_last(&tx, agent_id).await?;
        tx.commit_with_work().await
    }
}
