//! The job queue inside one process.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    POOL_MESSAGES_MAX,
    pool::{Message, Pool},
};
use crate::{
    Delivery, JobConsumer, JobQueue, PoolDepth, QueueError, Route, Settlement, Verdict, Wanted,
};

/// A job queue inside one process. Clones are the same queue.
#[derive(Clone, Debug, Default)]
pub struct InProcessQueue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pools: Mutex<HashMap<String, Arc<Pool>>>,
    closed: AtomicBool,
}

impl InProcessQueue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends all consumers with `Closed`; nothing is taken any more. Messages
    /// that wait are forgotten with the queue.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let pools = self.shared.pools.lock();
        for pool in pools.unwrap_or_else(PoisonError::into_inner).values() {
            pool.changed.notify_waiters();
        }
    }

    /// The job ids of a pool's last dead letters, oldest first.
    pub fn dead_letters(&self, pool: &str) -> Vec<String> {
        self.pool(pool).dead_letters()
    }

    fn pool(&self, name: &str) -> Arc<Pool> {
        let pools = self.shared.pools.lock();
        let mut pools = pools.unwrap_or_else(PoisonError::into_inner);
        Arc::clone(pools.entry(name.to_owned()).or_default())
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl JobQueue for InProcessQueue {
    async fn publish(&self, route: &Route, job_id: &str) -> Result<(), QueueError> {
        self.check().await?;
        let taken = self.pool(&route.pool).publish(Message {
            job_id: job_id.to_owned(),
            urgency: route.urgency,
            deliveries: 0,
        });
        if taken {
            return Ok(());
        }
        Err(QueueError::Unavailable {
            doing: "publish job",
            message: format!("pool {} holds {POOL_MESSAGES_MAX} messages", route.pool),
        })
    }

    async fn consume(&self, pool: &str, prefetch: u16) -> Result<Box<dyn JobConsumer>, QueueError> {
        self.check().await?;
        Ok(Box::new(Consumer {
            queue: self.clone(),
            pool: self.pool(pool),
            room: Arc::new(Semaphore::new(usize::from(prefetch.max(1)))),
        }))
    }

    async fn depth(&self, pool: &str) -> Result<PoolDepth, QueueError> {
        self.check().await?;
        Ok(self.pool(pool).depth())
    }

    async fn check(&self) -> Result<(), QueueError> {
        if self.is_closed() {
            return Err(QueueError::Unavailable {
                doing: "use the in-process queue",
                message: "it was closed, the process is stopping".to_owned(),
            });
        }
        Ok(())
    }
}

struct Consumer {
    queue: InProcessQueue,
    pool: Arc<Pool>,
    /// One permit for each delivery that may be unsettled.
    room: Arc<Semaphore>,
}

#[async_trait]
impl JobConsumer for Consumer {
    async fn next_of(&mut self, wanted: Wanted) -> Result<Delivery, QueueError> {
        loop {
            // Listens before it looks, so that no message is missed in between.
            let changed = self.pool.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.queue.is_closed() {
                return Err(QueueError::Closed);
            }
            let permit = tokio::select! {
                permit = Arc::clone(&self.room).acquire_owned() => permit,
                () = changed.as_mut() => continue,
            };
            let permit = permit.map_err(|_| QueueError::Closed)?;
            if let Some(message) = self.pool.take(wanted) {
                let (job_id, urgency) = (message.job_id.clone(), message.urgency);
                let redelivered = message.deliveries > 1;
                let settlement = Unsettled {
                    pool: Arc::clone(&self.pool),
                    message,
                    _permit: permit,
                };
                return Ok(Delivery::new(
                    job_id,
                    urgency,
                    redelivered,
                    Box::new(settlement),
                ));
            }
            drop(permit);
            changed.await;
        }
    }
}

/// A delivered message; its permit gives the room back.
struct Unsettled {
    pool: Arc<Pool>,
    message: Message,
    _permit: OwnedSemaphorePermit,
}

#[async_trait]
impl Settlement for Unsettled {
    async fn settle(self: Box<Self>, verdict: Verdict) -> Result<(), QueueError> {
        match verdict {
            Verdict::Ack => {}
            Verdict::Requeue => self.pool.requeue(self.message),
            Verdict::DeadLetter => self.pool.bury(self.message),
        }
        Ok(())
    }

    fn abandon(self: Box<Self>) {
        self.pool.requeue(self.message);
    }
}
