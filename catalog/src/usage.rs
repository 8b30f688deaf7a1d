//! What backups take.

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QuerySelect as _,
    sea_query::{Alias, Expr, ExprTrait as _, Func},
};

use crate::{
    BackupState, Catalog, CatalogError, StorageUsage,
    entities::{agents, backups},
    error::Doing as _,
};

impl Catalog {
    /// Sums up COMPLETED backups and vaults: of an owner, of an agent, or of all.
    pub async fn storage_usage(
        &self,
        owner_id: Option<&str>,
        agent_id: Option<&str>,
    ) -> Result<StorageUsage, CatalogError> {
        let mut completed = backups::Entity::find()
            .select_only()
            .expr(Expr::col(backups::Column::BackupId).count())
            .expr(sum(backups::Column::SizeBytes))
            .expr(Expr::col(backups::Column::AgentId).count_distinct())
            .filter(backups::Column::State.eq(BackupState::Completed));
        let mut vaults = agents::Entity::find()
            .select_only()
            .expr(sum(agents::Column::VaultBytes));
        if let Some(owner_id) = owner_id {
            completed = completed.filter(backups::Column::OwnerId.eq(owner_id));
            vaults = vaults.filter(agents::Column::OwnerId.eq(owner_id));
        }
        if let Some(agent_id) = agent_id {
            completed = completed.filter(backups::Column::AgentId.eq(agent_id));
            vaults = vaults.filter(agents::Column::AgentId.eq(agent_id));
        }
        let counts: Option<(i64, Option<i64>, i64)> = completed
            .into_tuple()
            .one(self.read())
            .await
            .doing("sum up backups")?;
        let stored: Option<Option<i64>> = vaults
            .into_tuple()
            .one(self.read())
            .await
            .doing("sum up vaults")?;
        let (backups, size_bytes, agents) = counts.unwrap_or_default();
        Ok(StorageUsage {
            backups: backups as u64,
            size_bytes: size_bytes.unwrap_or_default() as u64,
            stored_bytes: stored.flatten().unwrap_or_default() as u64,
            agents: agents as u64,
        })
    }
}

/// A sum as a 64-bit number: PostgreSQL makes a decimal of it.
pub(crate) fn sum(column: impl sea_orm::sea_query::IntoColumnRef) -> Expr {
    Func::cast_as(Expr::col(column).sum(), Alias::new("bigint")).into()
}
