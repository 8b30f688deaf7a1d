//! Workers as last seen.

use sea_orm::entity::prelude::*;

/// One row: a worker and one of its pools.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "workers")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) worker: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) pool: String,
    pub(crate) concurrency: i32,
    pub(crate) version: String,
    pub(crate) start_time_ms: i64,
    pub(crate) seen_time_ms: i64,
}

/// None: rows are joined where they are read.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
