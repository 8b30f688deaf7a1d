//! Destinations and copies. What a destination needs besides its place is sealed: the
//! catalog does not look into it.

use proto::backup::v1::Failure;
use sea_orm::{DeriveActiveEnum, EnumIter};

/// Id of the destination that the environment describes.
pub const DEFAULT_DESTINATION: &str = "default";

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDestination {
    /// Its id.
    pub destination_id: String,
    /// Its name for people.
    pub display_name: String,
    /// Where it is, without secrets.
    pub place: String,
    /// Its description, sealed.
    pub sealed: Vec<u8>,
    /// Changes with every change.
    pub etag: String,
    /// When it was added.
    pub create_time_ms: i64,
    /// When it was last changed.
    pub update_time_ms: i64,
}

/// A destination as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDestination {
    /// Its id.
    pub destination_id: String,
    /// Its name for people.
    pub display_name: String,
    /// Where it is, without secrets.
    pub place: String,
    /// Its description, sealed.
    pub sealed: Vec<u8>,
}

/// Where a copy of a backup stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "snake_case")]
pub enum CopyState {
    /// Waits for a worker, or one is at it.
    Pending,
    /// Everything is there.
    Completed,
    /// Given up.
    Failed,
}

/// A copy of a backup at another destination.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupCopy {
    /// The destination.
    pub destination_id: String,
    /// Where it stands.
    pub state: CopyState,
    /// When it last changed.
    pub update_time_ms: i64,
    /// Why it failed.
    pub failure: Option<Failure>,
}
