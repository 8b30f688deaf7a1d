//! What time takes away by itself, a bounded batch at a time.

use sea_orm::{
    ActiveEnum as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
};

use crate::{
    Catalog, CatalogError, JobKind, RestoreState,
    entities::{jobs, pins, requests, restores},
    error::Doing as _,
    limits,
    partial::is_literally,
};

impl Catalog {
    /// Removes drafts whose time is over; returns their ids.
    pub async fn expire_drafts(
        &self,
        limit: u64,
        now_ms: i64,
    ) -> Result<Vec<String>, CatalogError> {
        let tx = self.begin("expire drafts").await?;
        let expired: Vec<String> = restores::Entity::find()
            .select_only()
            .column(restores::Column::RestoreId)
            .filter(is_literally(
                restores::Column::State,
                RestoreState::Draft.to_value(),
            ))
            .filter(restores::Column::ExpireTimeMs.lte(now_ms))
            .limit(batch(limit))
            .lock_exclusive()
            .into_tuple()
            .all(tx.db())
            .await
            .doing(tx.doing())?;
        if !expired.is_empty() {
            restores::Entity::delete_many()
                .filter(restores::Column::RestoreId.is_in(&expired))
                .filter(restores::Column::State.eq(RestoreState::Draft))
                .exec(tx.db())
                .await
                .doing(tx.doing())?;
            tx.commit().await?;
        }
        Ok(expired)
    }

    /// Forgets `request_id`s whose time is over; returns how many.
    pub async fn expire_requests(&self, limit: u64, now_ms: i64) -> Result<u64, CatalogError> {
        let tx = self.begin("expire requests").await?;
        let keys: Vec<(String, String)> = requests::Entity::find()
            .select_only()
            .columns([requests::Column::Caller, requests::Column::RequestId])
            .filter(requests::Column::ExpireTimeMs.lte(now_ms))
            .order_by_asc(requests::Column::ExpireTimeMs)
            .limit(batch(limit))
            .into_tuple()
            .all(tx.db())
            .await
            .doing(tx.doing())?;
        let mut forgotten = 0;
        for key in keys {
            let deleted = requests::Entity::delete_by_id(key)
                .filter(requests::Column::ExpireTimeMs.lte(now_ms))
                .exec(tx.db())
                .await
                .doing(tx.doing())?;
            forgotten += deleted.rows_affected;
        }
        tx.commit().await?;
        Ok(forgotten)
    }

    /// Removes pins whose time is over; returns how many.
    pub async fn expire_pins(&self, limit: u64, now_ms: i64) -> Result<u64, CatalogError> {
        let tx = self.begin("expire pins").await?;
        let expired: Vec<String> = pins::Entity::find()
            .select_only()
            .column(pins::Column::PinId)
            .filter(pins::Column::ExpireTimeMs.lte(now_ms))
            .limit(batch(limit))
            .into_tuple()
            .all(tx.db())
            .await
            .doing(tx.doing())?;
        let deleted = pins::Entity::delete_many()
            .filter(pins::Column::PinId.is_in(expired))
            .filter(pins::Column::ExpireTimeMs.lte(now_ms))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(deleted.rows_affected)
    }

    /// Forgets verify, delete, compact and erase jobs that ended before
    /// `ended_before_ms` and left nothing to clean up; returns how many. The jobs
    /// of backups and restores stay with them.
    pub async fn expire_jobs(&self, limit: u64, ended_before_ms: i64) -> Result<u64, CatalogError> {
        let tx = self.begin("expire jobs").await?;
        let mut expired: Vec<String> = Vec::new();
        for kind in [
            JobKind::Verify,
            JobKind::Delete,
            JobKind::Compact,
            JobKind::Erase,
            JobKind::Copy,
        ] {
            let ids: Vec<String> = jobs::Entity::find()
                .select_only()
                .column(jobs::Column::JobId)
                .filter(jobs::Column::Kind.eq(kind))
                .filter(jobs::Column::EndTimeMs.lt(ended_before_ms))
                .filter(jobs::Column::Leftover.eq(false))
                .limit(batch(limit))
                .into_tuple()
                .all(tx.db())
                .await
                .doing(tx.doing())?;
            expired.extend(ids);
        }
        let deleted = jobs::Entity::delete_many()
            .filter(jobs::Column::JobId.is_in(expired))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(deleted.rows_affected)
    }
}

fn batch(limit: u64) -> u64 {
    limit.clamp(1, limits::BATCH_ROWS_MAX)
}
