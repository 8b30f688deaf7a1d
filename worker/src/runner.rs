//! Takes jobs from the queue, holds their leases, and ends them in the catalog.
//!
//! ```text
//!  queue ──► intake: a free slot, a message, a claim, an ack ──► execution of one job
//!
//!  execution:  work (jobs.rs)           the job itself, told to stop by a token
//!              keeper                   renews the lease, sees cancellations
//!              reporter                 publishes progress
//!              limits                   time limit, shutdown, and patience with stopping
//! ```
//!
//! The catalog's word counts. A message is acknowledged as soon as its job is claimed; from then
//! on only the lease says whose job it is. Who lost it stops at once and writes nothing more.
//!
//! - `intake`: from messages to claimed jobs
//! - [`stop`]: why a job is told to stop
//! - [`context`]: what a running job has at hand
//! - `execution`: one claimed job, from its claim to its end
//! - `keeper`, `reporter`: what goes on beside it
//! - `leftovers`: clearing up after workers that died
//! - `presence`, `word`: what a worker says of itself, and of work that it makes

use std::sync::Arc;

use catalog::Catalog;
use destinations::Destinations;
use futures::future::BoxFuture;
use queue::{EventBus, JobQueue};
use tokio_util::sync::CancellationToken;
use vault::{Keyring, VaultSettings};

use crate::{failure::JobError, settings::WorkerSettings};

pub mod context;
mod execution;
mod intake;
mod keeper;
mod leftovers;
mod presence;
mod reporter;
pub mod stop;
mod word;

#[cfg(test)]
mod tests;

pub(crate) use {intake::take_jobs, leftovers::clear_up, presence::be_seen, word::tell_of_work};

/// What does a job's work.
pub(crate) type Work =
    Arc<dyn Fn(Arc<context::JobContext>) -> BoxFuture<'static, Result<(), JobError>> + Send + Sync>;

/// What all jobs of a worker share.
pub struct Shared {
    /// What is known and decided.
    pub catalog: Catalog,
    /// Where word of jobs comes from.
    pub queue: Arc<dyn JobQueue>,
    /// Where news of jobs goes to.
    pub bus: Arc<dyn EventBus>,
    /// Where vaults are kept.
    pub destinations: Arc<Destinations>,
    /// The keys that open them.
    pub keyring: Keyring,
    /// How much a vault may use.
    pub vault_settings: VaultSettings,
    /// This worker's settings.
    pub settings: WorkerSettings,
    /// The name under which this worker holds leases.
    pub name: String,
    /// Canceled when the worker shall stop.
    pub shutdown: CancellationToken,
    /// What does a job's work.
    pub(crate) work: Work,
}
