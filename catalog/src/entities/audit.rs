//! Who did what.

use sea_orm::entity::prelude::*;

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "audit")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) audit_id: String,
    pub(crate) time_ms: i64,
    pub(crate) caller_id: String,
    pub(crate) role: String,
    pub(crate) method: String,
    pub(crate) peer: String,
    pub(crate) request_id: String,
    pub(crate) listener: String,
    pub(crate) code: String,
    pub(crate) reason: String,
    pub(crate) sent_bytes: i64,
}

/// None: rows are joined where they are read.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
