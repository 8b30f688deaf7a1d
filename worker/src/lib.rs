//! The worker: runs jobs; reads agents and brings them back.
//!
//! In reading order:
//!
//! - [`settings`]: what can be configured
//! - [`mod@run`]: puts a worker together from its parts and runs it until it is told to stop
//! - [`runner`]: takes jobs from the queue, holds their leases, ends them
//! - `jobs`: what each kind of job does, one file a kind
//! - [`sources`]: where an agent's state is read from
//! - [`targets`]: where a backup is brought back to
//! - [`progress`]: turns counters into progress with rate and time to go
//! - [`failure`]: the one place that turns errors into failures for people
//! - [`ops`]: `/health` and `/metrics`; [`program`]: the binary `nora-backup-worker`
//! - `files`: what reading and making folders have in common; `clock`, `unwinding`
//!
//! A worker knows nothing of gRPC and of servers: it talks to the catalog, the queue and the
//! vault. The catalog's word counts: whoever lost the lease of a job writes nothing more.

mod clock;
pub mod failure;
pub(crate) mod files;
pub(crate) mod jobs;
pub mod ops;
pub mod program;
pub mod progress;
pub mod run;
pub mod runner;
pub mod settings;
pub mod sources;
pub mod targets;
#[cfg(test)]
mod testing;
mod unwinding;

pub use ops::Ops;
pub use run::{WorkerParts, run};
pub use settings::WorkerSettings;
