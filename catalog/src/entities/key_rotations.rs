//! Rotations of keys, each beside its job.

use sea_orm::entity::prelude::*;

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "key_rotations")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) job_id: String,
    pub(crate) writing_key_id: String,
    pub(crate) retire_previous: bool,
    /// Always empty: how far it is stands with each destination, in `problems`.
    pub(crate) cursor: String,
    pub(crate) vaults_done: i64,
    pub(crate) vaults_total: i64,
    pub(crate) vaults_changed: i64,
    pub(crate) vaults_failed: i64,
    /// What is not right, and how far it is at each destination.
    pub(crate) problems: Vec<u8>,
}

/// What a row is joined with.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {
    /// Its job: state, attempts, times.
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
