//! The tables, as the migrations made them.

pub(crate) mod agents;
pub(crate) mod announcements;
pub(crate) mod backups;
pub(crate) mod jobs;
pub(crate) mod pins;
pub(crate) mod requests;
pub(crate) mod restores;
pub(crate) mod workers;
