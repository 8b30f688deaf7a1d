//! Places for vaults.

use sea_orm::entity::prelude::*;

/// One row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "destinations")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) destination_id: String,
    pub(crate) display_name: String,
    pub(crate) place: String,
    pub(crate) sealed: Vec<u8>,
    pub(crate) etag: String,
    pub(crate) create_time_ms: i64,
    pub(crate) update_time_ms: i64,
}

/// None: rows are joined where they are read.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
