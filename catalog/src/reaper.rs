//! Leases that ran out, and what their dead workers may have left.

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::Expr,
};

use crate::{
    Catalog, CatalogError, Failure, Job, JobKind, JobState, ReapOutcome, Reaped,
    entities::jobs,
    error::Doing as _,
    limits,
    partial::{is_in_state, is_literally},
    stored,
    transitions::{self, Requeue},
};

impl Catalog {
    /// Takes RUNNING jobs whose lease ran out from their workers: back to the
    /// queue with backoff, FAILED (`WORKER_LOST`) when no try is left, CANCELED
    /// when that had been asked for. What a backup that ends so had stored is
    /// removed by a compaction. At most `limit` of them.
    pub async fn reap_expired(&self, limit: u64, now_ms: i64) -> Result<Vec<Reaped>, CatalogError> {
        let expired: Vec<String> = jobs::Entity::find()
            .select_only()
            .column(jobs::Column::JobId)
            .filter(is_in_state(JobState::Running))
            .filter(jobs::Column::LeaseExpireTimeMs.lt(now_ms))
            .order_by_asc(jobs::Column::LeaseExpireTimeMs)
            .limit(limit.clamp(1, limits::PAGE_MAX))
            .into_tuple()
            .all(self.read())
            .await
            .doing("read expired leases")?;
        let mut reaped = Vec::new();
        for job_id in expired {
            reaped.extend(self.reap(&job_id, now_ms).await?);
        }
        Ok(reaped)
    }

    /// Reaps one job, in a transaction of its own; None when its worker or
    /// another reaper was faster.
    async fn reap(&self, job_id: &str, now_ms: i64) -> Result<Option<Reaped>, CatalogError> {
        let tx = self.begin("reap job").await?;
        let job = transitions::lock_job(&tx, job_id).await?;
        let expired = |job: &jobs::Model| {
            job.state == JobState::Running
                && job
                    .lease_expire_time_ms
                    .is_some_and(|expire| expire < now_ms)
        };
        let Some(mut job) = job.filter(expired) else {
            return Ok(None);
        };
        // A restore may be half-made, a container may be paused, or wait for a command.
        job.leftover = job.kind == JobKind::Restore || stored::owes_container(&job);
        let outcome = if job.cancel_requested {
            transitions::end_canceled(&tx, &job, now_ms).await?;
            ReapOutcome::Canceled
        } else {
            let failure = worker_lost(&job);
            if job.tries < job.max_attempts {
                let at_ms = self.retry_at_ms(&job, now_ms);
                let how = Requeue {
                    due_time_ms: at_ms,
                    failure: Some(&failure),
                    waiting_reason: &failure.message,
                    counts: true,
                    leftover: job.leftover,
                };
                transitions::requeue(&tx, &job, how, now_ms).await?;
                ReapOutcome::Requeued { at_ms }
            } else {
                transitions::end_failed(&tx, &job, &failure, now_ms).await?;
                ReapOutcome::Failed
            }
        };
        if job.kind == JobKind::Backup && !matches!(outcome, ReapOutcome::Requeued { .. }) {
            // Nobody else will ask for what its attempts stored to be removed.
            let (agent_id, owner_id) = (&job.agent_id, &job.owner_id);
            self.insert_compact(&tx, agent_id, owner_id, &job.pool, now_ms, now_ms)
                .await?;
        }
        let after = jobs::Entity::find_by_id(job_id).one(tx.db()).await;
        let after = after.doing(tx.doing())?.map(stored::job).transpose()?;
        tx.commit_with_work().await?;
        Ok(after.map(|job| Reaped { job, outcome }))
    }

    /// Jobs of a pool that have ended and whose dead worker may have left
    /// something: a paused container (`paused_container`), a command that was not
    /// run (`after_hook`), or a half-made restore. A worker of the pool cleans up, then calls `leftover_cleaned`.
    pub async fn leftovers(&self, pool: &str, limit: u64) -> Result<Vec<Job>, CatalogError> {
        let rows = jobs::Entity::find()
            .filter(is_literally(jobs::Column::Leftover, true))
            .filter(jobs::Column::Pool.eq(pool))
            .filter(jobs::Column::State.is_not_in([JobState::Queued, JobState::Running]))
            .order_by_asc(jobs::Column::JobId)
            .limit(limit.clamp(1, limits::PAGE_MAX))
            .all(self.read())
            .await
            .doing("read leftovers")?;
        rows.into_iter().map(stored::job).collect()
    }

    /// What the job's dead workers left is gone.
    pub async fn leftover_cleaned(&self, job_id: &str) -> Result<(), CatalogError> {
        let tx = self.begin("note cleanup").await?;
        jobs::Entity::update_many()
            .col_expr(jobs::Column::Leftover, Expr::value(false))
            .col_expr(jobs::Column::PausedContainer, Expr::value(None::<String>))
            .col_expr(jobs::Column::AfterHook, Expr::value(None::<Vec<u8>>))
            .filter(jobs::Column::JobId.eq(job_id))
            .filter(jobs::Column::State.is_not_in([JobState::Queued, JobState::Running]))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await
    }
}

fn worker_lost(job: &jobs::Model) -> Failure {
    let owner = job.lease_owner.as_deref().unwrap_or("unknown");
    Failure {
        reason: "WORKER_LOST".to_owned(),
        message: format!(
            "worker {owner} was lost in attempt {} of {}: see its log, and whether it had enough memory",
            job.tries, job.max_attempts
        ),
    }
}
