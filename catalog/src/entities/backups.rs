//! Points in time of agents.

use sea_orm::entity::prelude::*;

use crate::{BackupState, Trigger};

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "backups")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) backup_id: String,
    pub(crate) agent_id: String,
    pub(crate) owner_id: String,
    pub(crate) name: String,
    pub(crate) state: BackupState,
    pub(crate) trigger_kind: Trigger,
    pub(crate) job_id: String,
    pub(crate) manifest_attempt: Option<i32>,
    pub(crate) manifest_digest: Option<Vec<u8>>,
    pub(crate) sequence: Option<i64>,
    pub(crate) size_bytes: i64,
    pub(crate) stored_bytes: i64,
    pub(crate) new_bytes: i64,
    pub(crate) entries: i64,
    pub(crate) warnings: Vec<u8>,
    pub(crate) warnings_total: i64,
    pub(crate) verify_time_ms: Option<i64>,
    pub(crate) verify_failure_reason: Option<String>,
    pub(crate) verify_failure_message: Option<String>,
    pub(crate) failure_reason: Option<String>,
    pub(crate) failure_message: Option<String>,
    pub(crate) create_time_ms: i64,
    pub(crate) start_time_ms: Option<i64>,
    pub(crate) end_time_ms: Option<i64>,
    pub(crate) protected: bool,
    pub(crate) destination_id: String,
}

/// What a row is joined with.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {
    /// Its job, for the progress.
    #[sea_orm(
        belongs_to = "super::jobs::Entity",
        from = "Column::JobId",
        to = "super::jobs::Column::JobId"
    )]
    Job,
}

impl Related<super::jobs::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Job.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
