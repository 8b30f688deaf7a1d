//! Backups brought back as new agents.

use sea_orm::entity::prelude::*;

use crate::RestoreState;

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "restores")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) restore_id: String,
    pub(crate) backup_id: String,
    pub(crate) agent_id: String,
    pub(crate) owner_id: String,
    pub(crate) state: RestoreState,
    pub(crate) plan: Vec<u8>,
    pub(crate) new_agent_id: String,
    pub(crate) decisions: Vec<u8>,
    pub(crate) warnings: Vec<u8>,
    pub(crate) job_id: Option<String>,
    pub(crate) failure_reason: Option<String>,
    pub(crate) failure_message: Option<String>,
    pub(crate) create_time_ms: i64,
    pub(crate) start_time_ms: Option<i64>,
    pub(crate) end_time_ms: Option<i64>,
    pub(crate) expire_time_ms: Option<i64>,
    pub(crate) in_place: bool,
    pub(crate) safety_backup_id: Option<String>,
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
