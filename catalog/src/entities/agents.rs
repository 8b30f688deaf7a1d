//! What is backed up.

use sea_orm::entity::prelude::*;

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "agents")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) agent_id: String,
    pub(crate) display_name: String,
    pub(crate) owner_id: String,
    pub(crate) workspace_id: String,
    pub(crate) source: Vec<u8>,
    pub(crate) integrations: Vec<u8>,
    pub(crate) pool: String,
    pub(crate) etag: String,
    pub(crate) restore_id: Option<String>,
    pub(crate) vault_bytes: i64,
    pub(crate) create_time_ms: i64,
    pub(crate) update_time_ms: i64,
    pub(crate) deregister_time_ms: Option<i64>,
    pub(crate) retention_due_ms: i64,
    pub(crate) backups_kept: bool,
    pub(crate) patterns: Vec<u8>,
    pub(crate) size_warning_bytes: i64,
    pub(crate) destination_id: String,
    pub(crate) second_destination_id: String,
}

/// None: rows are joined where they are read.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
