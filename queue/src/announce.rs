//! Announcements: what happened, told to whichever services want to know, as
//! CloudEvents.

use async_trait::async_trait;

use crate::QueueError;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Its id: an announcement that comes twice has the same one.
    pub id: String,
    /// What kind of thing, for example `nora.backup.completed`: its CloudEvents
    /// type, and the key by which listeners choose.
    pub kind: String,
    /// The CloudEvent, version 1.0, in JSON, in structured mode.
    pub body: Vec<u8>,
}

/// Tells other services.
#[async_trait]
pub trait Announcer: Send + Sync {
    /// Announces; returns once whatever brings it to the listeners has it.
    /// After an error it may have been announced all the same: announce it
    /// again, with the same id.
    async fn announce(&self, announcement: &Announcement) -> Result<(), QueueError>;
}

/// For one process: there are no other services.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

#[async_trait]
impl Announcer for Nobody {
    async fn announce(&self, _announcement: &Announcement) -> Result<(), QueueError> {
        Ok(())
    }
}
