//! Pins: what keeps a backup while it is read.

use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, sea_query::Expr,
};

use crate::{
    Catalog, CatalogError, Pin, backups, entities::pins, error::Doing as _, limits, stored,
    transitions,
};

impl Catalog {
    /// Pins a COMPLETED backup until `now_ms + ttl_ms`.
    /// Errors: `BackupNotFound`, `BackupNotCompleted`.
    pub async fn pin_backup(
        &self,
        backup_id: &str,
        holder: &str,
        ttl_ms: i64,
        now_ms: i64,
    ) -> Result<Pin, CatalogError> {
        let tx = self.begin("pin backup").await?;
        // Locked: a deletion at the same moment comes before or after, and then
        // sees the pin.
        let backup = backups::lock_readable(&tx, backup_id, None).await?;
        let row = pins::Model {
            pin_id: transitions::new_id(now_ms),
            backup_id: backup.backup_id,
            agent_id: backup.agent_id,
            holder: holder.to_owned(),
            create_time_ms: now_ms,
            expire_time_ms: now_ms.saturating_add(ttl_ms),
        };
        pins::Entity::insert(pins::ActiveModel::from(row.clone()).reset_all())
            .exec_without_returning(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(stored::pin(row))
    }

    /// Prolongs a pin to `now_ms + ttl_ms`. Errors: `PinLost` when it has ended.
    pub async fn renew_pin(
        &self,
        pin_id: &str,
        ttl_ms: i64,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let tx = self.begin("renew pin").await?;
        let expire_time_ms = now_ms.saturating_add(ttl_ms);
        let changed = pins::Entity::update_many()
            .col_expr(pins::Column::ExpireTimeMs, Expr::value(expire_time_ms))
            .filter(pins::Column::PinId.eq(pin_id))
            .filter(pins::Column::ExpireTimeMs.gt(now_ms))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        if changed.rows_affected != 1 {
            return Err(CatalogError::PinLost {
                pin_id: pin_id.to_owned(),
            });
        }
        tx.commit().await
    }

    /// Ends a pin; one that has ended already is no error.
    pub async fn unpin(&self, pin_id: &str) -> Result<(), CatalogError> {
        let tx = self.begin("unpin").await?;
        let deleted = pins::Entity::delete_by_id(pin_id).exec(tx.db()).await;
        deleted.doing(tx.doing())?;
        tx.commit().await
    }

    /// The live pins of an agent's backups: compaction leaves what they need.
    pub async fn agent_pins(&self, agent_id: &str, now_ms: i64) -> Result<Vec<Pin>, CatalogError> {
        let mut live = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = pins::Entity::find()
                .filter(pins::Column::AgentId.eq(agent_id))
                .filter(pins::Column::ExpireTimeMs.gt(now_ms))
                .order_by_asc(pins::Column::PinId)
                .limit(limits::BATCH_ROWS_MAX);
            if let Some(after) = &after {
                query = query.filter(pins::Column::PinId.gt(after));
            }
            let rows = query.all(self.read()).await.doing("read pins")?;
            let more = rows.len() as u64 == limits::BATCH_ROWS_MAX;
            live.extend(rows.into_iter().map(stored::pin));
            if !more {
                return Ok(live);
            }
            after = live.last().map(|pin| pin.pin_id.clone());
        }
    }
}
