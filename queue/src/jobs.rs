//! Job queues: word of a job travels from the dispatcher to one worker of a pool.

use std::fmt;

use async_trait::async_trait;

use crate::QueueError;

/// How soon a job wants to be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Urgency {
    /// Somebody waits for it: before the scheduled ones.
    Manual,
    /// Nobody does; but it is never left waiting for ever.
    Scheduled,
}

/// Which messages a receiver has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those whose turn it is.
    Any,
    /// Manual ones only: what scheduled ones may take is taken.
    Manual,
}

impl Wanted {
    /// Whether it is wanted.
    pub fn accepts(self, urgency: Urgency) -> bool {
        self == Self::Any || urgency == Urgency::Manual
    }
}

/// Where word of a job goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The pool whose workers may run it.
    pub pool: String,
    /// How soon.
    pub urgency: Urgency,
}

/// How much a pool holds, for health and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolDepth {
    /// Manual messages that wait.
    pub manual: u64,
    /// Scheduled messages that wait.
    pub scheduled: u64,
    /// Messages that nobody could use.
    pub dead_letters: u64,
}

/// Brings word of jobs to workers: at least once, in no promised order, but
/// manual ones before scheduled ones, of which every few messages one gets its
/// turn all the same.
#[async_trait]
pub trait JobQueue: Send + Sync {
    /// Publishes word of a job; returns once the queue has it.
    async fn publish(&self, route: &Route, job_id: &str) -> Result<(), QueueError>;

    /// Begins to receive a pool's messages, at most `prefetch` (at least 1)
    /// unsettled at a time.
    async fn consume(&self, pool: &str, prefetch: u16) -> Result<Box<dyn JobConsumer>, QueueError>;

    /// How much a pool holds.
    async fn depth(&self, pool: &str) -> Result<PoolDepth, QueueError>;

    /// Whether the queue can be used now.
    async fn check(&self) -> Result<(), QueueError>;
}

/// Receives a pool's messages.
#[async_trait]
pub trait JobConsumer: Send {
    /// The next message that is wanted; waits for one, and for room under
    /// `prefetch`. May be dropped while it waits: nothing is lost. `Closed`:
    /// consume again.
    async fn next_of(&mut self, wanted: Wanted) -> Result<Delivery, QueueError>;

    /// The next message of any urgency.
    async fn next(&mut self) -> Result<Delivery, QueueError> {
        self.next_of(Wanted::Any).await
    }
}

/// What is to become of a delivered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done with.
    Ack,
    /// Somebody else shall have it, or we later.
    Requeue,
    /// Nobody can use it: kept aside, counted.
    DeadLetter,
}

/// How an implementation settles its deliveries.
#[async_trait]
pub trait Settlement: Send {
    /// Tells the queue.
    async fn settle(self: Box<Self>, verdict: Verdict) -> Result<(), QueueError>;

    /// The delivery was dropped: requeues it, without waiting.
    fn abandon(self: Box<Self>);
}

/// A delivered message. Dropped without a verdict, it is requeued.
pub struct Delivery {
    /// The job it is about.
    pub job_id: String,
    /// How soon that job wants to be begun.
    pub urgency: Urgency,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    settlement: Option<Box<dyn Settlement>>,
}

impl Delivery {
    /// A delivery, for implementations.
    pub fn new(
        job_id: String,
        urgency: Urgency,
        redelivered: bool,
        settlement: Box<dyn Settlement>,
    ) -> Self {
        Self {
            job_id,
            urgency,
            redelivered,
            settlement: Some(settlement),
        }
    }

    /// It is done with.
    pub async fn ack(self) -> Result<(), QueueError> {
        self.settle(Verdict::Ack).await
    }

    /// Somebody else shall have it.
    pub async fn requeue(self) -> Result<(), QueueError> {
        self.settle(Verdict::Requeue).await
    }

    /// Nobody can use it.
    pub async fn dead_letter(self) -> Result<(), QueueError> {
        self.settle(Verdict::DeadLetter).await
    }

    async fn settle(mut self, verdict: Verdict) -> Result<(), QueueError> {
        match self.settlement.take() {
            Some(settlement) => settlement.settle(verdict).await,
            None => Ok(()),
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(settlement) = self.settlement.take() {
            settlement.abandon();
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("job_id", &self.job_id)
            .field("urgency", &self.urgency)
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}
