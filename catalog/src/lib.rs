//! What we know: agents, backups, jobs and restores, and every transition of
//! their states.
//!
//! The catalog is the truth about work: a queue only carries word of it. All
//! changes are short transactions whose updates compare the state (and, for
//! workers, the attempt) they expect with the one that is there; an update
//! that touches no row means that somebody was faster. No
//! transaction is open while something else than the database is called.
//!
//! In reading order:
//!
//! - [`model`]: what the catalog answers with
//! - [`settings`], [`error`], [`limits`]
//! - `connection`: SQLite or PostgreSQL, reading and writing
//! - `entities`: the tables; `stored`: rows to models and back; `pages`;
//!   `partial`: conditions with a partial index behind them
//! - [`patterns`]: what is left out of an agent's backups, a pure calculation
//! - `agents`, `backups`, `deletion`, `restores`, `in_place`, `verification`, `usage`, `storage`:
//!   what callers ask for; `requests`: each call once
//! - `transitions`: the states of jobs and of what they are about; `jobs`: claim,
//!   renew, fail, hand back; `completion`: the good end of each kind of job;
//!   `retry`: when to try again
//! - `outbox`: what to tell the queue; `announcements`: what to tell other
//!   services; `workers`: who is there; `reaper`: leases that ran out;
//!   `housekeeping`: what time takes away
//! - [`timing`]: when schedules run, and [`retention`]: what goes, both pure;
//!   `schedules` and `pruning` do it
//! - `rotations`, `keys`: what is under which key, and who holds it; `erasure`: the
//!   end of an agent with its keys first
//! - `recovered`: what vaults tell, for a catalog that was lost
//! - `overview` (everyone's backups, and jobs), `revival` (a new try for a failed
//!   job) and `audit` (who did what): what administrators ask for
//! - `destinations`: places for vaults, and the one that the environment gives; `copies`:
//!   backups at a second one
//! - `pins`, `manifests`: what deletion and compaction must respect
//!
//! With the feature `failpoints`, each writing call has two named points:
//! `catalog-before-commit-<call>` and `catalog-after-commit-<call>`, for example
//! `catalog-before-commit-complete-backup`.
//!
//! It must not know of queues, vaults, sources or gRPC.

pub mod error;
pub mod limits;
pub mod model;
pub mod patterns;
pub mod retention;
pub mod settings;
pub mod timing;

mod agents;
mod announcements;
mod audit;
mod backups;
mod completion;
mod connection;
mod copies;
mod deletion;
mod destinations;
mod entities;
mod erasure;
mod housekeeping;
mod in_place;
mod jobs;
mod keys;
mod manifests;
mod outbox;
mod overview;
mod pages;
mod partial;
mod pins;
mod pruning;
mod reaper;
mod recovered;
mod requests;
mod restores;
mod retry;
mod revival;
mod rotations;
mod schedules;
mod storage;
mod stored;
mod transitions;
mod usage;
mod verification;
mod workers;

pub use announcements::Announcement;
pub use audit::{AuditEntry, AuditFilter};
pub use error::CatalogError;
pub use in_place::{InPlaceResult, NewInPlace};
pub use model::*;
pub use outbox::Work;
pub use overview::{AllBackupsFilter, JobCondition, JobFilter};
pub use patterns::Patterns;
pub use recovered::{Adopt, Adopted, RecoveredAgent, RecoveredBackup};
pub use settings::{CatalogSettings, DatabaseUrl};
pub use workers::Worker;

use connection::{Connection, Tx};
use retry::RetryPolicy;
use sea_orm::DatabaseConnection;

/// The catalog. Clones share one pool of connections.
#[derive(Clone, Debug)]
pub struct Catalog {
    connection: Connection,
    retry: RetryPolicy,
}

impl Catalog {
    /// Connects to the database. An SQLite file is made with mode 0600 when it
    /// is not there.
    pub async fn connect(settings: &CatalogSettings) -> Result<Self, CatalogError> {
        Ok(Self {
            connection: Connection::open(settings).await?,
            retry: RetryPolicy::new(settings),
        })
    }

    /// Connects to the database of a fleet and brings its schema up to date.
    /// Says at once when there is none, or when it can't be reached.
    pub async fn open(settings: &CatalogSettings) -> Result<Self, CatalogError> {
        connection::dial(&settings.database_url).await?;
        let catalog = Self::connect(settings).await?;
        catalog.migrate().await?;
        Ok(catalog)
    }

    /// Brings the schema up to date. Several processes may do so at once.
    pub async fn migrate(&self) -> Result<(), CatalogError> {
        self.connection.migrate().await
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), CatalogError> {
        self.connection.ping().await
    }

    /// Closes all connections; SQLite folds its log into the file.
    pub async fn close(self) -> Result<(), CatalogError> {
        self.connection.close().await
    }

    fn read(&self) -> &DatabaseConnection {
        self.connection.read()
    }

    async fn begin(&self, doing: &'static str) -> Result<Tx, CatalogError> {
        self.connection.begin(doing).await
    }
}
