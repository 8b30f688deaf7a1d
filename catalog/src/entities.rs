//! The tables, as the migrations made them.

pub(crate) mod agents;
pub(crate) mod announcements;
pub(crate) mod audit;
pub(crate) mod audit_resources;
pub(crate) mod backup_copies;
pub(crate) mod backups;
pub(crate) mod destinations;
pub(crate) mod erased_keys;
pub(crate) mod host_keys;
pub(crate) mod jobs;
pub(crate) mod key_holders;
pub(crate) mod key_rotations;
pub(crate) mod pins;
pub(crate) mod removals;
pub(crate) mod requests;
pub(crate) mod restores;
pub(crate) mod schedules;
pub(crate) mod storage_levels;
pub(crate) mod vault_keys;
pub(crate) mod workers;
