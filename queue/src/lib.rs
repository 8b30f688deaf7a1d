//! How work travels: [`JobQueue`] brings word of jobs to workers, [`EventBus`]
//! brings news of jobs to whoever watches them.
//!
//! Neither is the truth. A message may come twice, late or, when a queue loses
//! its memory, never; the catalog decides what is done, and publishes again
//! what went missing. Events may get lost; who needs certainty asks the catalog
//! as well.
//!
//! In reading order:
//!
//! - [`jobs`]: the traits of a job queue, routes and deliveries
//! - [`events`]: the trait of an event bus
//! - [`error`]: what can go wrong
//! - [`announce`]: announcements to other services
//! - [`in_process`]: queue and bus inside one process
//! - [`rabbitmq`]: all of it on RabbitMQ; [`settings`]: which one
//! - `contract` (feature `contract`): what every implementation must do, as tests
//!
//! It must not know of catalogs, vaults or gRPC.

pub mod announce;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod error;
pub mod events;
pub mod in_process;
pub mod jobs;
pub mod rabbitmq;
pub mod settings;

pub use announce::{Announcement, Announcer, Nobody};
pub use error::QueueError;
pub use events::{EVENT_VERSION, EventBus, EventStream, WORK, work};
pub use in_process::{InProcessBus, InProcessQueue};
pub use jobs::{
    Delivery, JobConsumer, JobQueue, PoolDepth, Route, Settlement, Urgency, Verdict, Wanted,
};
pub use rabbitmq::{ConnectError, RabbitMq};
pub use settings::{AmqpSettings, AmqpUrl};
