//! What we know: agents, backups, jobs and restores, and every transition of
//! their states.
//!
//! The catalog is the truth about work: a queue only carries word of it. All
//! changes are short transactions whose updates compare the state (and, for
//! workers, the attempt) they expect with the one that is there; an update
//! that touches no row means that somebody was faster. Nothing else of a
//! database ever blocks while something else is called.
//!
//! In reading order:
//!
//! - [`model`]: what the catalog answers with
//! - [`settings`], [`error`], [`limits`]
//! - `connection`: SQLite or PostgreSQL, reading and writing
//! - `entities`: the tables; `convert`: rows to models and back
//! - `agents`, `backups`, `deletion`, `restores`, `verification`: what callers ask for
//! - `jobs`: claim, renew, fail, hand back; `completion`: the ends of each kind
//!   of job; `outbox`: what to tell the queue; `reaper`: leases that ran out
//! - `pins`, `requests`, `usage`, `manifests`
//!
//! It must not know of queues, vaults, sources or gRPC.

pub mod error;
pub mod limits;
pub mod model;
pub mod settings;

mod agents;
mod backups;
mod completion;
mod deletion;
mod jobs;
mod manifests;
mod outbox;
mod pins;
mod reaper;
mod restores;
mod usage;
mod verification;

use std::sync::Arc;

use tokio::sync::Notify;

pub use error::CatalogError;
pub use model::*;
pub use settings::{CatalogSettings, DatabaseUrl};

/// The catalog. Clones share one pool of connections.
#[derive(Clone, Debug)]
pub struct Catalog {
    work: Arc<Notify>,
}

impl Catalog {
    /// Connects to the database. An SQLite file is made with mode 0600 when it
    /// is not there.
    pub async fn connect(settings: &CatalogSettings) -> Result<Self, CatalogError> {
        let _ = settings;
        unimplemented!()
    }

    /// Brings the schema up to date. Several processes may do so at once.
    pub async fn migrate(&self) -> Result<(), CatalogError> {
        unimplemented!()
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), CatalogError> {
        unimplemented!()
    }

    /// Closes all connections; SQLite folds its log into the file.
    pub async fn close(self) -> Result<(), CatalogError> {
        unimplemented!()
    }
}
