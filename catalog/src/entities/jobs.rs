//! Queued work.

use sea_orm::entity::prelude::*;

use crate::{JobKind, JobState, Urgency, VerifyDepth};

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "jobs")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) job_id: String,
    pub(crate) kind: JobKind,
    pub(crate) state: JobState,
    pub(crate) agent_id: String,
    pub(crate) owner_id: String,
    pub(crate) backup_id: Option<String>,
    pub(crate) restore_id: Option<String>,
    pub(crate) depth: Option<VerifyDepth>,
    pub(crate) pool: String,
    pub(crate) urgency: Urgency,
    pub(crate) exclusive: bool,
    pub(crate) attempt: i32,
    pub(crate) tries: i32,
    pub(crate) max_attempts: i32,
    pub(crate) due_time_ms: i64,
    pub(crate) dispatch_time_ms: Option<i64>,
    pub(crate) dispatch_version: i64,
    pub(crate) dispatch_hold_ms: i64,
    pub(crate) waiting: bool,
    pub(crate) lease_owner: Option<String>,
    pub(crate) lease_expire_time_ms: Option<i64>,
    pub(crate) cancel_requested: bool,
    pub(crate) paused_container: Option<String>,
    pub(crate) after_hook: Option<Vec<u8>>,
    pub(crate) leftover: bool,
    pub(crate) failure_reason: Option<String>,
    pub(crate) failure_message: Option<String>,
    pub(crate) progress: Vec<u8>,
    pub(crate) create_time_ms: i64,
    pub(crate) start_time_ms: Option<i64>,
    pub(crate) end_time_ms: Option<i64>,
    pub(crate) destination_id: String,
}

/// None: rows are joined where they are read.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
