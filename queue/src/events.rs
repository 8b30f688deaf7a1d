//! Event buses: news of jobs travels from workers to whoever watches.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use async_trait::async_trait;
use futures::{Stream, StreamExt as _};
use proto::queue::v1::JobEvent;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::QueueError;

/// The subject under which a process says that it made, or set free, jobs of which
/// the queue is to be told: it is not the one that tells it.
pub const WORK: &str = "work";
/// The version of the events that this program publishes and reads.
pub const EVENT_VERSION: u32 = 1;

/// The event that says so.
pub fn work() -> JobEvent {
    JobEvent {
        version: EVENT_VERSION,
        subject_id: WORK.to_owned(),
        ..JobEvent::default()
    }
}

/// Brings news of jobs to all who watch, as well as it can: events may get lost.
#[async_trait]
pub trait EventBus: Send + Sync {
    /// Tells all present subscribers. Never waits for a slow one.
    async fn publish(&self, event: JobEvent) -> Result<(), QueueError>;

    /// News of one subject, from when this returned. A subscriber that is too
    /// slow loses the oldest.
    async fn subscribe(&self, subject_id: &str) -> Result<EventStream, QueueError>;

    /// News of every subject.
    async fn subscribe_all(&self) -> Result<EventStream, QueueError>;
}

/// News, as they come; ends when the bus went away.
pub struct EventStream(Pin<Box<dyn Stream<Item = JobEvent> + Send>>);

impl EventStream {
    /// A stream of events, for implementations.
    pub fn new(stream: impl Stream<Item = JobEvent> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// What is broadcast, for implementations: who is too slow loses the oldest. The guard is
    /// dropped after the subscription.
    pub(crate) fn of_broadcast(
        events: broadcast::Receiver<JobEvent>,
        guard: impl Send + Unpin + 'static,
    ) -> Self {
        Self::new(Subscription {
            events: BroadcastStream::new(events),
            _guard: guard,
        })
    }
}

/// One subscriber's events. The fields are dropped in this order, so the guard
/// no longer counts this subscriber.
struct Subscription<G> {
    events: BroadcastStream<JobEvent>,
    _guard: G,
}

impl<G: Unpin> Stream for Subscription<G> {
    type Item = JobEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<JobEvent>> {
        loop {
            match std::task::ready!(self.events.poll_next_unpin(context)) {
                Some(Ok(event)) => return Poll::Ready(Some(event)),
                // Too slow: the oldest are lost, the rest goes on.
                Some(Err(_)) => {}
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for EventStream {
    type Item = JobEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<JobEvent>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventStream")
    }
}
