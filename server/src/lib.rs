//! The server: gRPC services, authentication, dispatcher, reaper, operations HTTP.
//!
//! It is the only crate that knows gRPC. What it accepts it writes into the catalog; the dispatcher
//! tells the queue; a worker does it; watchers hear of it over the event bus. The server never
//! touches a source, and never writes to a vault.
//!
//! In reading order:
//!
//! - `run`: puts the parts together, serves, stops in order
//! - `settings`: what can be configured
//! - a call's way in: `listeners`, `connection` and `tls`, then the `gate`s: `auth` (who is calling),
//!   `admission` (how much at the same time), `limits` (how much of one caller), `audit` (who did
//!   what); then one of the `services`
//! - what the services use: `validation` (limits of fields), `access` (who may see what),
//!   `page` (page tokens), `convert` (to the API's messages), `status` (errors to statuses:
//!   the one table)
//! - streams: `watch` (always ending with the truth), `feed` (bounded, cut when not read)
//! - loops: `dispatcher`, `reaper`, `scheduler`, `retention`, `announcer`, `health`,
//!   `presence`, with `pools` (what waits in the queues)
//! - `ops`: operations HTTP; [`program`]: the binary `nora-backup-server`
//!
//! It must not know of sources, targets or workers.

mod access;
mod admission;
mod announcer;
mod audit;
mod auth;
mod backoff;
mod clock;
mod connection;
mod convert;
mod dispatcher;
mod feed;
mod gate;
mod health;
mod limits;
mod listeners;
mod methods;
mod ops;
mod page;
mod pools;
mod presence;
pub mod program;
mod reaper;
mod retention;
mod run;
mod scheduler;
mod services;
mod settings;
mod state;
mod status;
mod tls;
mod validation;
mod watch;

pub use ops::{Ops, install_metrics};
pub use run::{ServerParts, run};
pub use settings::{AccessSettings, ServerSettings, SettingsError};
