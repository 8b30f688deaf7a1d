//! Who is there to do the work, as last seen; and which jobs wait for nobody.

use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, sea_query::OnConflict,
};

use crate::{
    Catalog, CatalogError, Job, JobState,
    entities::{jobs, workers},
    error::Doing as _,
    limits,
    partial::is_in_state,
    stored, transitions,
};

/// A worker and one of the pools it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its name, new with every start.
    pub worker: String,
    /// The pool.
    pub pool: String,
    /// Jobs that it runs at the same time.
    pub concurrency: u32,
    /// Its program's version.
    pub version: String,
    /// When it started.
    pub start_time_ms: i64,
    /// Its last sign of life.
    pub seen_time_ms: i64,
}

impl Catalog {
    /// A sign of life of a worker.
    pub async fn see_worker(&self, seen: &[Worker]) -> Result<(), CatalogError> {
        let tx = self.begin("see worker").await?;
        for worker in seen {
            let row = workers::Model {
                worker: worker.worker.clone(),
                pool: worker.pool.clone(),
                concurrency: worker.concurrency as i32,
                version: worker.version.clone(),
                start_time_ms: worker.start_time_ms,
                seen_time_ms: worker.seen_time_ms,
            };
            let again = OnConflict::columns([workers::Column::Worker, workers::Column::Pool])
                .update_column(workers::Column::SeenTimeMs)
                .to_owned();
            workers::Entity::insert(workers::ActiveModel::from(row))
                .on_conflict(again)
                .exec_without_returning(tx.db())
                .await
                .doing(tx.doing())?;
        }
        tx.commit().await
    }

    /// The worker has stopped in order.
    pub async fn forget_worker(&self, worker: &str) -> Result<(), CatalogError> {
        let tx = self.begin("forget worker").await?;
        workers::Entity::delete_many()
            .filter(workers::Column::Worker.eq(worker))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await
    }

    /// Workers seen since then, by pool.
    pub async fn workers_since(&self, since_ms: i64) -> Result<Vec<Worker>, CatalogError> {
        let rows = workers::Entity::find()
            .filter(workers::Column::SeenTimeMs.gte(since_ms))
            .order_by_asc(workers::Column::Pool)
            .order_by_asc(workers::Column::Worker)
            .limit(limits::PAGE_MAX)
            .all(self.read())
            .await
            .doing("read workers")?;
        Ok(rows
            .into_iter()
            .map(|row| Worker {
                worker: row.worker,
                pool: row.pool,
                concurrency: row.concurrency as u32,
                version: row.version,
                start_time_ms: row.start_time_ms,
                seen_time_ms: row.seen_time_ms,
            })
            .collect())
    }

    /// Pools that a worker has served since then, in alphabetical order; of very many the first.
    pub async fn pools_since(&self, since_ms: i64) -> Result<Vec<String>, CatalogError> {
        let pools = workers::Entity::find()
            .select_only()
            .column(workers::Column::Pool)
            .distinct()
            .filter(workers::Column::SeenTimeMs.gte(since_ms))
            .order_by_asc(workers::Column::Pool)
            .limit(limits::PAGE_MAX)
            .into_tuple()
            .all(self.read());
        pools.await.doing("read pools")
    }

    /// Forgets workers that gave no sign of life since then.
    pub async fn expire_workers(&self, seen_before_ms: i64) -> Result<u64, CatalogError> {
        let tx = self.begin("expire workers").await?;
        let deleted = workers::Entity::delete_many()
            .filter(workers::Column::SeenTimeMs.lt(seen_before_ms))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(deleted.rows_affected)
    }

    /// Says in jobs that have been waiting since before `now_ms - unserved_ms`
    /// that no worker serves their pool, where that is so; returns those that
    /// did not say so before. At most `limit` of each pool.
    pub async fn explain_unserved(
        &self,
        unserved_ms: i64,
        limit: u64,
        now_ms: i64,
    ) -> Result<Vec<Job>, CatalogError> {
        let before_ms = now_ms.saturating_sub(unserved_ms);
        let pools: Vec<String> = waiting(before_ms)
            .select_only()
            .column(jobs::Column::Pool)
            .distinct()
            .into_tuple()
            .all(self.read())
            .await
            .doing("read waiting jobs")?;
        let mut explained = Vec::new();
        for pool in pools {
            let served = workers::Entity::find()
                .filter(workers::Column::Pool.eq(&pool))
                .filter(workers::Column::SeenTimeMs.gte(before_ms))
                .one(self.read())
                .await
                .doing("read workers")?;
            if served.is_some() {
                continue;
            }
            let why = format!(
                "no worker has served pool {pool} for {} s: start one with NORA_BACKUP_WORKER_POOLS={pool}",
                unserved_ms / 1_000
            );
            let found = waiting(before_ms)
                .filter(jobs::Column::Pool.eq(&pool))
                .order_by_asc(jobs::Column::DispatchTimeMs)
                .limit(limit.clamp(1, limits::PAGE_MAX))
                .all(self.read())
                .await
                .doing("read waiting jobs")?;
            for job in found {
                if stored::job_progress(&job)?.waiting_reason != why {
                    explained.extend(self.explain(&job, &why).await?);
                }
            }
        }
        Ok(explained)
    }

    /// Writes the reason into one job, unless something happened to it.
    async fn explain(&self, found: &jobs::Model, why: &str) -> Result<Option<Job>, CatalogError> {
        let tx = self.begin("explain waiting").await?;
        let job = transitions::lock_job(&tx, &found.job_id).await?;
        let Some(job) = job.filter(|job| {
            job.state == JobState::Queued && job.dispatch_version == found.dispatch_version
        }) else {
            return Ok(None);
        };
        let progress = stored::waiting_progress(&job, why)?;
        let change = jobs::ActiveModel {
            progress: Set(progress.clone()),
            ..Default::default()
        };
        transitions::change_job(&tx, &job, change).await?;
        tx.commit().await?;
        stored::job(jobs::Model { progress, ..job }).map(Some)
    }
}

/// Jobs that the queue has had word of since before then, and nobody took.
fn waiting(before_ms: i64) -> sea_orm::Select<jobs::Entity> {
    jobs::Entity::find()
        .filter(is_in_state(JobState::Queued))
        .filter(jobs::Column::DispatchTimeMs.is_not_null())
        .filter(jobs::Column::DueTimeMs.lt(before_ms))
}
