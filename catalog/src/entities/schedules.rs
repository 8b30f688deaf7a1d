//! When agents are backed up by themselves.

use sea_orm::entity::prelude::*;

use crate::{Frequency, SkipReason};

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "schedules")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) agent_id: String,
    pub(crate) owner_id: String,
    pub(crate) enabled: bool,
    pub(crate) frequency: Frequency,
    pub(crate) retain: i32,
    pub(crate) time_of_day: Option<i32>,
    pub(crate) time_zone: String,
    pub(crate) etag: String,
    pub(crate) anchor_time_ms: i64,
    pub(crate) next_run_time_ms: Option<i64>,
    pub(crate) last_due_time_ms: Option<i64>,
    pub(crate) last_run_time_ms: Option<i64>,
    pub(crate) last_run_backup_id: Option<String>,
    pub(crate) last_success_due_ms: Option<i64>,
    pub(crate) last_success_time_ms: Option<i64>,
    pub(crate) last_success_backup_id: Option<String>,
    pub(crate) failures: i32,
    pub(crate) skip_due_time_ms: Option<i64>,
    pub(crate) skip_reason: Option<SkipReason>,
    pub(crate) create_time_ms: i64,
    pub(crate) update_time_ms: i64,
}

/// None: rows are joined where they are read.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
