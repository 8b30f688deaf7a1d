//! What the queue should have word of. The dispatcher reads
//! `undispatched_jobs`, publishes each, and marks it; jobs whose word got lost
//! show up in `stale_dispatched`.

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, Order, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    Select,
    sea_query::{Expr, ExprTrait as _},
};

use crate::{
    Catalog, CatalogError, DispatchItem, JobState, Urgency, entities::jobs, error::Doing as _,
    limits,
};

/// The columns read, in this order.
type Row = (String, String, Urgency, i64);

impl Catalog {
    /// QUEUED jobs that are due and not dispatched, the longest due first. At
    /// most `limit` (1 to [`limits::PAGE_MAX`]); what a busy agent holds back is
    /// not among them.
    pub async fn undispatched_jobs(
        &self,
        limit: u64,
        now_ms: i64,
    ) -> Result<Vec<DispatchItem>, CatalogError> {
        let query = queued()
            .filter(jobs::Column::DispatchTimeMs.is_null())
            .filter(jobs::Column::DueTimeMs.lte(now_ms))
            .order_by(jobs::Column::DueTimeMs, Order::Asc);
        self.dispatch_items(query, limit).await
    }

    /// When the next undispatched job is due: then call `undispatched_jobs`.
    pub async fn next_due_ms(&self) -> Result<Option<i64>, CatalogError> {
        jobs::Entity::find()
            .select_only()
            .column(jobs::Column::DueTimeMs)
            .filter(jobs::Column::State.eq(JobState::Queued))
            .filter(jobs::Column::DispatchTimeMs.is_null())
            .order_by_asc(jobs::Column::DueTimeMs)
            .limit(1)
            .into_tuple()
            .one(self.read())
            .await
            .doing("read outbox")
    }

    /// The queue has word of it. Tells whether that still is news: false when
    /// the job was claimed, ended or is to be dispatched anew.
    pub async fn mark_dispatched(
        &self,
        item: &DispatchItem,
        now_ms: i64,
    ) -> Result<bool, CatalogError> {
        let tx = self.begin("mark dispatched").await?;
        let changed = jobs::Entity::update_many()
            .col_expr(jobs::Column::DispatchTimeMs, Expr::value(Some(now_ms)))
            .filter(jobs::Column::JobId.eq(&item.job_id))
            .filter(jobs::Column::State.eq(JobState::Queued))
            .filter(jobs::Column::DispatchVersion.eq(item.dispatch_version))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(changed.rows_affected == 1)
    }

    /// QUEUED jobs dispatched before `older_than_ms`: publish and mark them
    /// again. A doubled message is harmless.
    pub async fn stale_dispatched(
        &self,
        older_than_ms: i64,
        limit: u64,
    ) -> Result<Vec<DispatchItem>, CatalogError> {
        let query = queued()
            .filter(jobs::Column::DispatchTimeMs.lt(older_than_ms))
            .order_by(jobs::Column::DispatchTimeMs, Order::Asc);
        self.dispatch_items(query, limit).await
    }

    /// Makes all dispatched QUEUED jobs undispatched: for a start with an
    /// in-process queue, which forgot everything. Returns how many.
    pub async fn redispatch_all(&self) -> Result<u64, CatalogError> {
        let tx = self.begin("redispatch").await?;
        let changed = jobs::Entity::update_many()
            .col_expr(jobs::Column::DispatchTimeMs, Expr::value(None::<i64>))
            .col_expr(
                jobs::Column::DispatchVersion,
                Expr::col(jobs::Column::DispatchVersion).add(1),
            )
            .filter(jobs::Column::State.eq(JobState::Queued))
            .filter(jobs::Column::DispatchTimeMs.is_not_null())
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit_with_work().await?;
        Ok(changed.rows_affected)
    }

    /// Returns when a call through this catalog (or a clone of it) may have
    /// made a job that is to be dispatched; one waiter is woken at a time. Other
    /// processes' calls don't show here: poll besides.
    pub async fn work_added(&self) {
        self.connection.work_added().await;
    }

    async fn dispatch_items(
        &self,
        query: Select<jobs::Entity>,
        limit: u64,
    ) -> Result<Vec<DispatchItem>, CatalogError> {
        let rows: Vec<Row> = query
            .limit(limit.clamp(1, limits::PAGE_MAX))
            .into_tuple()
            .all(self.read())
            .await
            .doing("read outbox")?;
        let items = rows.into_iter();
        Ok(items
            .map(|(job_id, pool, urgency, dispatch_version)| DispatchItem {
                job_id,
                pool,
                urgency,
                dispatch_version,
            })
            .collect())
    }
}

/// The columns of dispatch items, of queued jobs.
fn queued() -> Select<jobs::Entity> {
    jobs::Entity::find()
        .select_only()
        .columns([
            jobs::Column::JobId,
            jobs::Column::Pool,
            jobs::Column::Urgency,
            jobs::Column::DispatchVersion,
        ])
        .filter(jobs::Column::State.eq(JobState::Queued))
}
