//! The key-encryption keys that vaults are under, as last seen.

use sea_orm::entity::prelude::*;

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "vault_keys")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) destination_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) agent_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) key_id: String,
    pub(crate) update_time_ms: i64,
}

/// None: rows are joined where they are read.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
