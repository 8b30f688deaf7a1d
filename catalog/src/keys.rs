//! Which key-encryption keys vaults are under, who holds which, and which data keys
//! were destroyed.

use std::collections::{BTreeMap, HashSet};

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, OnConflict, Query},
};

use crate::{
    Catalog, CatalogError, KeyHolder, KeyUse,
    connection::Tx,
    entities::{erased_keys, key_holders, vault_keys},
    error::Doing as _,
    limits,
};

impl Catalog {
    /// A sign of life of a process that holds keys.
    pub async fn see_key_holder(&self, holder: &KeyHolder) -> Result<(), CatalogError> {
        let tx = self.begin("see key holder").await?;
        let row = key_holders::Model {
            replica: holder.replica.clone(),
            kind: holder.kind.clone(),
            key_ids: holder.key_ids.join(" "),
            seen_time_ms: holder.seen_time_ms,
        };
        let again = OnConflict::column(key_holders::Column::Replica)
            .update_columns([key_holders::Column::SeenTimeMs, key_holders::Column::KeyIds])
            .to_owned();
        key_holders::Entity::insert(key_holders::ActiveModel::from(row))
            .on_conflict(again)
            .exec_without_returning(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await
    }

    /// The process has stopped in order.
    pub async fn forget_key_holder(&self, replica: &str) -> Result<(), CatalogError> {
        let tx = self.begin("forget key holder").await?;
        key_holders::Entity::delete_by_id(replica)
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await
    }

    /// Forgets processes that gave no sign of life since then.
    pub async fn expire_key_holders(&self, seen_before_ms: i64) -> Result<u64, CatalogError> {
        let tx = self.begin("expire key holders").await?;
        let deleted = key_holders::Entity::delete_many()
            .filter(key_holders::Column::SeenTimeMs.lt(seen_before_ms))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(deleted.rows_affected)
    }

    /// Processes that are there, as far as can be told.
    pub async fn key_holders(&self, now_ms: i64) -> Result<Vec<KeyHolder>, CatalogError> {
        let since_ms = now_ms.saturating_sub(limits::REPLICA_GONE_MS);
        let rows = key_holders::Entity::find()
            .filter(key_holders::Column::SeenTimeMs.gte(since_ms))
            .order_by_asc(key_holders::Column::SeenTimeMs)
            .limit(limits::PAGE_MAX)
            .all(self.read())
            .await
            .doing("read key holders")?;
        let mut holders: Vec<KeyHolder> = rows
            .into_iter()
            .map(|row| KeyHolder {
                key_ids: row.key_ids.split(' ').map(str::to_owned).collect(),
                replica: row.replica,
                kind: row.kind,
                seen_time_ms: row.seen_time_ms,
            })
            .collect();
        holders.sort_by(|a, b| (&a.kind, &a.replica).cmp(&(&b.kind, &b.replica)));
        Ok(holders)
    }

    /// Processes that are there and do not write with a key, or do not say with which they do:
    /// what they begin would be under another one.
    pub(crate) async fn replicas_without(
        &self,
        key_id: &str,
        now_ms: i64,
    ) -> Result<Vec<String>, CatalogError> {
        let holders = self.key_holders(now_ms).await?;
        let since_ms = now_ms.saturating_sub(limits::REPLICA_GONE_MS);
        let workers = self.workers_since(since_ms).await?;
        let told: HashSet<&str> = holders.iter().map(|h| h.replica.as_str()).collect();
        let mut without: Vec<String> = holders
            .iter()
            .filter(|holder| holder.key_ids.first().is_none_or(|id| id != key_id))
            .map(|holder| format!("{} {}", holder.kind, holder.replica))
            .collect();
        // Workers of a version that does not tell.
        let silent = workers.iter().filter(|w| !told.contains(w.worker.as_str()));
        without.extend(silent.map(|worker| format!("worker {}", worker.worker)));
        without.sort();
        without.dedup();
        Ok(without)
    }

    /// Notes which keys a vault is under; nothing is written where that is known.
    pub async fn note_vault_keys(
        &self,
        destination_id: &str,
        agent_id: &str,
        key_ids: &[String],
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let known = vault_keys::Entity::find()
            .filter(vault_keys::Column::DestinationId.eq(destination_id))
            .filter(vault_keys::Column::AgentId.eq(agent_id))
            .all(self.read())
            .await
            .doing("read vault keys")?;
        let wanted: HashSet<String> = key_ids.iter().cloned().collect();
        if wanted == known.into_iter().map(|row| row.key_id).collect() {
            return Ok(());
        }
        let tx = self.begin("note vault keys").await?;
        vault_keys::Entity::delete_many()
            .filter(vault_keys::Column::DestinationId.eq(destination_id))
            .filter(vault_keys::Column::AgentId.eq(agent_id))
            .filter(vault_keys::Column::KeyId.is_not_in(wanted.clone()))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        for key_id in wanted {
            let row = vault_keys::ActiveModel {
                destination_id: Set(destination_id.to_owned()),
                agent_id: Set(agent_id.to_owned()),
                key_id: Set(key_id),
                update_time_ms: Set(now_ms),
            };
            let again = OnConflict::columns([
                vault_keys::Column::DestinationId,
                vault_keys::Column::AgentId,
                vault_keys::Column::KeyId,
            ])
            .update_column(vault_keys::Column::UpdateTimeMs)
            .to_owned();
            vault_keys::Entity::insert(row)
                .on_conflict(again)
                .exec_without_returning(tx.db())
                .await
                .doing(tx.doing())?;
        }
        tx.commit().await
    }

    /// How many vaults are under each key, as of their last backup or rotation.
    pub async fn key_uses(&self) -> Result<Vec<KeyUse>, CatalogError> {
        let count = |query: sea_orm::Select<vault_keys::Entity>| async move {
            let rows: Vec<(String, i64)> = query
                .select_only()
                .column(vault_keys::Column::KeyId)
                .column_as(vault_keys::Column::AgentId.count(), "vaults")
                .group_by(vault_keys::Column::KeyId)
                .into_tuple()
                .all(self.read())
                .await
                .doing("count vaults by key")?;
            Ok::<_, CatalogError>(rows)
        };
        let mut uses: BTreeMap<String, KeyUse> = BTreeMap::new();
        for (key_id, vaults) in count(vault_keys::Entity::find()).await? {
            let found = KeyUse {
                key_id: key_id.clone(),
                vaults: vaults as u64,
                vaults_only: 0,
            };
            uses.insert(key_id, found);
        }
        // Those of which there is no other row.
        let other = Query::select()
            .expr(Expr::value(1))
            .from_as("vault_keys", "other")
            .and_where(
                Expr::col(("other", "agent_id"))
                    .equals((vault_keys::Entity, vault_keys::Column::AgentId)),
            )
            .and_where(
                Expr::col(("other", "destination_id"))
                    .equals((vault_keys::Entity, vault_keys::Column::DestinationId)),
            )
            .and_where(
                Expr::col(("other", "key_id"))
                    .not_equals((vault_keys::Entity, vault_keys::Column::KeyId)),
            )
            .to_owned();
        let alone = vault_keys::Entity::find().filter(Expr::exists(other).not());
        for (key_id, vaults) in count(alone).await? {
            if let Some(found) = uses.get_mut(&key_id) {
                found.vaults_only = vaults as u64;
            }
        }
        Ok(uses.into_values().collect())
    }

    /// Notes that data keys are destroyed: to be called before they are, so that whoever
    /// rewrites one at the same time finds out.
    pub async fn note_erased_keys(
        &self,
        agent_id: &str,
        data_key_ids: &[String],
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        if data_key_ids.is_empty() {
            return Ok(());
        }
        let tx = self.begin("note erased keys").await?;
        for data_key_id in data_key_ids {
            let row = erased_keys::ActiveModel {
                data_key_id: Set(data_key_id.clone()),
                agent_id: Set(agent_id.to_owned()),
                erase_time_ms: Set(now_ms),
            };
            let again = OnConflict::column(erased_keys::Column::DataKeyId)
                .update_column(erased_keys::Column::AgentId)
                .to_owned();
            erased_keys::Entity::insert(row)
                .on_conflict(again)
                .exec_without_returning(tx.db())
                .await
                .doing(tx.doing())?;
        }
        tx.commit().await
    }

    /// Which of these data keys were destroyed.
    pub async fn erased_among(&self, data_key_ids: &[String]) -> Result<Vec<String>, CatalogError> {
        erased_keys::Entity::find()
            .select_only()
            .column(erased_keys::Column::DataKeyId)
            .filter(erased_keys::Column::DataKeyId.is_in(data_key_ids.to_vec()))
            .into_tuple()
            .all(self.read())
            .await
            .doing("read erased keys")
    }
}

/// Nothing of an agent's vaults is left.
pub(crate) async fn forget_vaults(tx: &Tx, agent_id: &str) -> Result<(), CatalogError> {
    vault_keys::Entity::delete_many()
        .filter(vault_keys::Column::AgentId.eq(agent_id))
        .exec(tx.db())
        .await
        .doing(tx.doing())?;
    Ok(())
}
