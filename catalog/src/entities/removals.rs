//! Which backups were removed, and why.

use sea_orm::entity::prelude::*;

use crate::RemovalRule;

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "removals")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) removal_id: String,
    pub(crate) backup_id: String,
    pub(crate) agent_id: String,
    pub(crate) name: String,
    pub(crate) rule: RemovalRule,
    pub(crate) create_time_ms: i64,
    pub(crate) removal_time_ms: i64,
}

/// None: rows are joined where they are read.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
