//! Receiving jobs.
//!
//! A worker that is busy must not sit on messages that another could take, and a
//! manual one must not wait behind a scheduled one. So nothing is prefetched: a
//! message is fetched when somebody waits in `next` and has room for it. Only
//! when both queues are empty does the consumer listen to them, and it stops as
//! soon as a message came. Who has room for manual messages only looks at, and
//! listens to, that queue alone.
//!
//! ```text
//! next() --wants--> Desk --Look--> Fetcher: get manual, get scheduled, else listen
//! next() <--item--- Desk <---------'
//! ```
//!
//! One fetcher task has one channel, and lives until the consumer and all its
//! deliveries are gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use lapin::{
    Acker,
    options::{BasicAckOptions, BasicNackOptions, BasicQosOptions},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use super::{error::unavailable, link::Link, topology::PoolNames};
use crate::{Delivery, JobConsumer, QueueError, Settlement, Urgency, Verdict, Wanted};

mod fetcher;

use fetcher::Fetcher;

const DOING: &str = "receive jobs";

/// Begins to receive a pool's jobs.
pub(super) async fn consume(
    link: Arc<Link>,
    pool: &str,
    prefetch: u16,
    tasks: &TaskTracker,
) -> Result<Box<dyn JobConsumer>, QueueError> {
    let names = PoolNames::new(pool)?;
    let channel = link
        .within(DOING, async {
            link.ensure_pool(pool, &names).await?;
            let channel = link.channel(DOING).await?;
            // For each of the two queues.
            let one = channel.basic_qos(1, BasicQosOptions::default()).await;
            one.map_err(unavailable(DOING))?;
            Ok(channel)
        })
        .await?;
    let desk = Arc::<Desk>::default();
    let (orders, received) = mpsc::unbounded_channel();
    let fetcher = Fetcher::new(&link, channel, pool, names, &desk, received);
    tasks.spawn(fetcher.run());
    Ok(Box::new(RabbitConsumer {
        link,
        desk,
        orders,
        room: Arc::new(Semaphore::new(usize::from(prefetch.max(1)))),
    }))
}

/// A message that is a job's.
struct Item {
    job_id: String,
    urgency: Urgency,
    redelivered: bool,
    acker: Acker,
}

/// What a consumer tells its fetcher.
enum Order {
    /// What the desk says has changed.
    Look,
    /// A delivery was dropped.
    GiveBack(Acker),
}

/// Where the consumer and its fetcher meet.
#[derive(Default)]
struct Desk {
    state: Mutex<DeskState>,
    /// Told when there is an item, or never will be.
    ready: Notify,
}

#[derive(Default)]
struct DeskState {
    /// What somebody waits for in `next_of`, and has room for.
    wanted: Option<Wanted>,
    item: Option<Item>,
    closed: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, DeskState> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wanted and not there.
    fn lacks(&self) -> Option<Wanted> {
        let state = self.lock();
        let wanted = state.wanted?;
        let there = state.item.as_ref();
        (!there.is_some_and(|item| wanted.accepts(item.urgency))).then_some(wanted)
    }
}

struct RabbitConsumer {
    link: Arc<Link>,
    desk: Arc<Desk>,
    orders: mpsc::UnboundedSender<Order>,
    /// One permit for each delivery that may be unsettled.
    room: Arc<Semaphore>,
}

#[async_trait]
impl JobConsumer for RabbitConsumer {
    async fn next_of(&mut self, wanted: Wanted) -> Result<Delivery, QueueError> {
        // Being lost is told even when there is no room.
        let permit = tokio::select! {
            permit = Arc::clone(&self.room).acquire_owned() => permit,
            () = self.link.lost() => return Err(QueueError::Closed),
        };
        let permit = permit.map_err(|_| QueueError::Closed)?;
        let _waiting = Waiting(self);
        loop {
            let ready = self.desk.ready.notified();
            tokio::pin!(ready);
            ready.as_mut().enable();
            {
                let mut state = self.desk.lock();
                if state.closed {
                    return Err(QueueError::Closed);
                }
                let accepted = |item: &mut Item| wanted.accepts(item.urgency);
                if let Some(item) = state.item.take_if(accepted) {
                    drop(state);
                    let settlement = Unsettled {
                        acker: item.acker,
                        link: Arc::clone(&self.link),
                        orders: self.orders.clone(),
                        _permit: permit,
                    };
                    return Ok(Delivery::new(
                        item.job_id,
                        item.urgency,
                        item.redelivered,
                        Box::new(settlement),
                    ));
                }
                if state.wanted != Some(wanted) {
                    state.wanted = Some(wanted);
                    // Fails only when the fetcher ended, which the desk knows.
                    let _ = self.orders.send(Order::Look);
                }
            }
            ready.await;
        }
    }
}

/// Somebody waits in `next`; when no more, the fetcher is told.
struct Waiting<'a>(&'a RabbitConsumer);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.desk.lock().wanted = None;
        let _ = self.0.orders.send(Order::Look);
    }
}

/// A delivered message; its permit gives the room back.
struct Unsettled {
    acker: Acker,
    link: Arc<Link>,
    orders: mpsc::UnboundedSender<Order>,
    _permit: OwnedSemaphorePermit,
}

#[async_trait]
impl Settlement for Unsettled {
    async fn settle(self: Box<Self>, verdict: Verdict) -> Result<(), QueueError> {
        let settled = self.link.within("settle a message", async {
            let settled = match verdict {
                Verdict::Ack => self.acker.ack(BasicAckOptions::default()).await,
                Verdict::Requeue => self.acker.nack(nack(true)).await,
                Verdict::DeadLetter => self.acker.nack(nack(false)).await,
            };
            settled.map_err(unavailable("settle a message"))
        });
        match settled.await {
            Ok(true) => Ok(()),
            // Its channel is gone: it is delivered again, whatever was meant.
            Ok(false) | Err(_) => Err(QueueError::Closed),
        }
    }

    fn abandon(self: Box<Self>) {
        // Fails only when the channel is gone, and with it the delivery.
        let _ = self.orders.send(Order::GiveBack(self.acker.clone()));
    }
}

fn nack(requeue: bool) -> BasicNackOptions {
    BasicNackOptions {
        requeue,
        ..BasicNackOptions::default()
    }
}
