//! Processes that hold keys, as last seen.

use sea_orm::entity::prelude::*;

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "key_holders")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) replica: String,
    pub(crate) kind: String,
    pub(crate) key_ids: String,
    pub(crate) seen_time_ms: i64,
}

/// None: rows are joined where they are read.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
