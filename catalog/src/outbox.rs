//! What the queue should have word of. A dispatcher takes a page with
//! `claim_undispatched`, publishes each job, and marks it; jobs whose word got
//! lost show up in `stale_dispatched`. What a dispatcher has in its hands others
//! leave alone for a while: a doubled message would be harmless, but work.

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    Select,
    sea_query::{Expr, ExprTrait as _, LockBehavior, LockType},
};
use tokio::sync::watch;

use crate::{
    Catalog, CatalogError, DispatchItem, JobState, Urgency, connection::Tx, entities::jobs,
    error::Doing as _, limits, partial::is_in_state,
};

/// Hears of work that calls through a catalog, or a clone of it, add. Other
/// processes' calls don't show here.
#[derive(Clone, Debug)]
pub struct Work(watch::Receiver<()>);

impl Work {
    /// Returns when there may be a job to be dispatched that was not there when
    /// this returned before. Never, once the catalog is gone.
    pub async fn added(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

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
        self.dispatch_items(due(now_ms), limit).await
    }

    /// The same, taken into one dispatcher's hands until `now_ms + hold_ms`.
    pub async fn claim_undispatched(
        &self,
        limit: u64,
        hold_ms: i64,
        now_ms: i64,
    ) -> Result<Vec<DispatchItem>, CatalogError> {
        let free = || due(now_ms).filter(jobs::Column::DispatchHoldMs.lte(now_ms));
        // Mostly there are none: no transaction then.
        if self.dispatch_items(free(), 1).await?.is_empty() {
            return Ok(Vec::new());
        }
        let tx = self.begin("claim undispatched").await?;
        let rows: Vec<Row> = free()
            .limit(limit.clamp(1, limits::PAGE_MAX))
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .into_tuple()
            .all(tx.db())
            .await
            .doing(tx.doing())?;
        let items = items(rows);
        hold(&tx, &items, now_ms.saturating_add(hold_ms)).await?;
        tx.commit().await?;
        Ok(items)
    }

    /// Could not be published: anybody may try now.
    pub async fn release_undispatched(&self, items: &[DispatchItem]) -> Result<(), CatalogError> {
        let tx = self.begin("release undispatched").await?;
        hold(&tx, items, 0).await?;
        tx.commit().await
    }

    /// When the next undispatched job is due: then call `undispatched_jobs`.
    pub async fn next_due_ms(&self) -> Result<Option<i64>, CatalogError> {
        next_due()
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
            .col_expr(jobs::Column::DispatchHoldMs, Expr::value(0_i64))
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
        self.dispatch_items(stale(older_than_ms), limit).await
    }

    /// Makes all dispatched QUEUED jobs undispatched: for a start with an
    /// in-process queue, which forgot everything. Returns how many.
    pub async fn redispatch_all(&self) -> Result<u64, CatalogError> {
        let tx = self.begin("redispatch").await?;
        let changed = jobs::Entity::update_many()
            .col_expr(jobs::Column::DispatchTimeMs, Expr::value(None::<i64>))
            .col_expr(jobs::Column::DispatchHoldMs, Expr::value(0_i64))
            .col_expr(
                jobs::Column::DispatchVersion,
                Expr::col(jobs::Column::DispatchVersion).add(1),
            )
            .filter(is_in_state(JobState::Queued))
            .filter(
                jobs::Column::DispatchTimeMs
                    .is_not_null()
                    .or(jobs::Column::DispatchHoldMs.gt(0)),
            )
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit_with_work().await?;
        Ok(changed.rows_affected)
    }

    /// Word of work from now on.
    pub fn work(&self) -> Work {
        Work(self.connection.work())
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
        Ok(items(rows))
    }
}

fn items(rows: Vec<Row>) -> Vec<DispatchItem> {
    rows.into_iter()
        .map(|(job_id, pool, urgency, dispatch_version)| DispatchItem {
            job_id,
            pool,
            urgency,
            dispatch_version,
        })
        .collect()
}

/// Sets until when these are in somebody's hands.
async fn hold(tx: &Tx, items: &[DispatchItem], until_ms: i64) -> Result<(), CatalogError> {
    let ids = items.iter().map(|item| item.job_id.as_str());
    jobs::Entity::update_many()
        .col_expr(jobs::Column::DispatchHoldMs, Expr::value(until_ms))
        .filter(jobs::Column::JobId.is_in(ids))
        .filter(jobs::Column::State.eq(JobState::Queued))
        .filter(jobs::Column::DispatchTimeMs.is_null())
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
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
        .filter(is_in_state(JobState::Queued))
}

fn due(now_ms: i64) -> Select<jobs::Entity> {
    queued()
        .filter(jobs::Column::DispatchTimeMs.is_null())
        .filter(jobs::Column::DueTimeMs.lte(now_ms))
        .order_by_asc(jobs::Column::DueTimeMs)
}

fn stale(older_than_ms: i64) -> Select<jobs::Entity> {
    queued()
        .filter(jobs::Column::DispatchTimeMs.lt(older_than_ms))
        .order_by_asc(jobs::Column::DispatchTimeMs)
}

fn next_due() -> Select<jobs::Entity> {
    jobs::Entity::find()
        .select_only()
        .column(jobs::Column::DueTimeMs)
        .filter(is_in_state(JobState::Queued))
        .filter(jobs::Column::DispatchTimeMs.is_null())
        .order_by_asc(jobs::Column::DueTimeMs)
        .limit(1)
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectionTrait as _, DbBackend, QueryTrait as _};

    use super::*;
    use crate::CatalogSettings;

    #[tokio::test]
    async fn the_outbox_is_read_by_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let settings = CatalogSettings::sqlite(folder.path().join("catalog.db"));
        let catalog = Catalog::connect(&settings).await.unwrap();
        catalog.migrate().await.unwrap();
        for query in [
            due(1).filter(jobs::Column::DispatchHoldMs.lte(1)),
            stale(1),
            next_due(),
        ] {
            let mut statement = query.build(DbBackend::Sqlite);
            statement.sql = format!("EXPLAIN QUERY PLAN {}", statement.sql);
            let plan = catalog.read().query_all_raw(statement).await.unwrap();
            let plan: Vec<String> = plan
                .iter()
                .map(|row| row.try_get("", "detail").unwrap())
                .collect();
            assert_eq!(plan.len(), 1, "no sorting besides: {plan:?}");
            assert!(plan[0].contains("jobs_queued"), "{plan:?}");
        }
    }
}
