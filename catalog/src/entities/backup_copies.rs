//! Copies of backups at other destinations.

use sea_orm::entity::prelude::*;

use crate::CopyState;

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "backup_copies")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) backup_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) destination_id: String,
    pub(crate) agent_id: String,
    pub(crate) state: CopyState,
    pub(crate) failure_reason: Option<String>,
    pub(crate) failure_message: Option<String>,
    pub(crate) update_time_ms: i64,
}

/// None: rows are joined where they are read.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
