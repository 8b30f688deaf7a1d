//! Queue, bus and announcements on RabbitMQ.
//!
//! ```text
//! RabbitMq --- Line "publishes" --- Link: one connection   publish.rs
//!          `-- Line "consumes"  --- Link: one connection   consume.rs, bus.rs
//! ```
//!
//! Two connections, because RabbitMQ stops reading from one that publishes when
//! it is short of memory or disk, and consuming must go on. Each is kept up by a
//! [`line::Line`], which drops all of a connection that failed and makes a new
//! one; meanwhile publishing is `Unavailable`, and consumers are `Closed`.
//!
//! - [`dial`]: from a URL to a connection
//! - [`link`], [`line`]: one connection, and its successors
//! - [`topology`], [`message`]: what exists in RabbitMQ, and what travels
//! - [`publish`], [`consume`], [`bus`]: the work

mod bus;
mod consume;
mod dial;
mod error;
mod line;
mod link;
mod message;
mod publish;
mod topology;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use lapin::{ExchangeKind, options::ExchangeDeclareOptions, types::FieldTable};
use proto::queue::v1::JobEvent;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::error::ConnectError;
use self::{bus::Bus, dial::Dialer, line::Line, link::Link, topology::PoolNames};
use crate::{
    AmqpSettings, Announcement, Announcer, EventBus, EventStream, JobConsumer, JobQueue, PoolDepth,
    QueueError, Route,
};

/// How long RabbitMQ may take to answer.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long closing may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Manual messages in a row before a waiting scheduled one gets its turn.
const MANUAL_STREAK_MAX: u32 = crate::in_process::MANUAL_STREAK_MAX;

/// RabbitMQ. Clones use the same connections; they end with the last of them.
#[derive(Clone)]
pub struct RabbitMq {
    shared: Arc<Shared>,
}

struct Shared {
    publishing: Arc<Line>,
    consuming: Arc<Line>,
    bus: Bus,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl RabbitMq {
    /// Connects, once. Afterwards the connections are kept up, whatever happens
    /// to RabbitMQ. The name is shown there.
    pub async fn connect(
        settings: &AmqpSettings,
        connection_name: &str,
    ) -> Result<Self, ConnectError> {
        let parts = Parts::new(settings, connection_name)?;
        let publishes = parts.publishing.open(&parts.tasks).await?;
        match parts.consuming.open(&parts.tasks).await {
            Ok(consumes) => Ok(parts.keep_up(Some(publishes), Some(consumes))),
            Err(error) => {
                publishes.close().await;
                Err(error)
            }
        }
    }

    /// Begins to connect, and goes on until it succeeds. Refuses only settings
    /// that cannot be read. To be called on a runtime.
    pub fn start(settings: &AmqpSettings, connection_name: &str) -> Result<Self, ConnectError> {
        Ok(Parts::new(settings, connection_name)?.keep_up(None, None))
    }

    /// Ends it: consumers are `Closed`, event streams end, nothing is taken any
    /// more. What was delivered and not settled goes to others.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if timeout(CLOSE_LIMIT, self.shared.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("RabbitMQ did not take leave in time");
        }
    }
}

/// What it is made of, before anything runs.
struct Parts {
    publishing: Arc<Line>,
    consuming: Arc<Line>,
    tasks: TaskTracker,
}

impl Parts {
    fn new(settings: &AmqpSettings, connection_name: &str) -> Result<Self, ConnectError> {
        let dialer = Arc::new(Dialer::new(settings, connection_name)?);
        Ok(Self {
            publishing: Line::new(&dialer, "publishes"),
            consuming: Line::new(&dialer, "consumes"),
            tasks: TaskTracker::new(),
        })
    }

    /// Keeps both lines up from now on, beginning with the connections there are.
    fn keep_up(self, publishes: Option<Arc<Link>>, consumes: Option<Arc<Link>>) -> RabbitMq {
        let Self {
            publishing,
            consuming,
            tasks,
        } = self;
        let stop = CancellationToken::new();
        for (line, link) in [(&publishing, publishes), (&consuming, consumes)] {
            tasks.spawn(Arc::clone(line).keep_up(link, stop.clone(), tasks.clone()));
        }
        let (bus, served) = Bus::new(consuming.watch(), stop.clone());
        tasks.spawn(served);
        RabbitMq {
            shared: Arc::new(Shared {
                publishing,
                consuming,
                bus,
                stop,
                tasks,
            }),
        }
    }
}

impl fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RabbitMq")
    }
}

#[async_trait]
impl JobQueue for RabbitMq {
    async fn publish(&self, route: &Route, job_id: &str) -> Result<(), QueueError> {
        let link = self.shared.publishing.link("publish a job")?;
        publish::job(&link, route, job_id).await
    }

    async fn consume(&self, pool: &str, prefetch: u16) -> Result<Box<dyn JobConsumer>, QueueError> {
        let link = self.shared.consuming.link("receive jobs")?;
        consume::consume(link, pool, prefetch, &self.shared.tasks).await
    }

    async fn depth(&self, pool: &str) -> Result<PoolDepth, QueueError> {
        const DOING: &str = "count messages";
        let link = self.shared.consuming.link(DOING)?;
        let names = PoolNames::new(pool)?;
        let counted = link.within(DOING, async {
            link.ensure_pool(pool, &names).await?;
            let counted = link.control(DOING, async |channel| {
                Ok(PoolDepth {
                    manual: topology::count(&channel, names.jobs(crate::Urgency::Manual)).await?,
                    scheduled: topology::count(&channel, names.jobs(crate::Urgency::Scheduled))
                        .await?,
                    dead_letters: topology::count(&channel, &names.dead).await?,
                })
            });
            counted.await
        });
        let counted = counted.await;
        if counted.is_err() {
            // Perhaps its queues were deleted.
            link.forget_pool(pool);
        }
        counted
    }

    async fn check(&self) -> Result<(), QueueError> {
        const DOING: &str = "use RabbitMQ";
        self.shared.publishing.link(DOING)?.check_blocked(DOING)?;
        let link = self.shared.consuming.link(DOING)?;
        let asked = link.control(DOING, async |channel| {
            let options = ExchangeDeclareOptions {
                passive: true,
                ..ExchangeDeclareOptions::default()
            };
            let (name, kind) = (topology::JOBS.into(), ExchangeKind::Direct);
            channel
                .exchange_declare(name, kind, options, FieldTable::default())
                .await
        });
        link.within(DOING, asked).await
    }
}

#[async_trait]
impl EventBus for RabbitMq {
    async fn publish(&self, event: JobEvent) -> Result<(), QueueError> {
        let link = self.shared.publishing.link("publish an event")?;
        publish::event(&link, event).await
    }

    async fn subscribe(&self, subject_id: &str) -> Result<EventStream, QueueError> {
        self.shared.bus.subscribe(Some(subject_id.to_owned())).await
    }

    async fn subscribe_all(&self) -> Result<EventStream, QueueError> {
        self.shared.bus.subscribe(None).await
    }
}

#[async_trait]
impl Announcer for RabbitMq {
    async fn announce(&self, announcement: &Announcement) -> Result<(), QueueError> {
        let link = self.shared.publishing.link("announce")?;
        publish::announcement(&link, announcement).await
    }
}
