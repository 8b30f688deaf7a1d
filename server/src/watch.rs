//! Watch streams: always ending with the truth, whatever gets lost.
//!
//! The order is what makes it so. First the bus is subscribed to, then the present state is read
//! and sent; so no change can fall between the two. Events only make changes show soon: progress
//! is taken from them, states never are. Every few seconds, and whenever an event says that the
//! state changed, the catalog is read again; the last message is what the catalog says.

use std::{future::Future, sync::Arc, time::Duration};

use futures::StreamExt as _;
use proto::{backup::v1::Progress, queue::v1::JobEvent};
use queue::{EventBus, EventStream};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Slot,
    feed::{Feed, FeedStream, SendError, feed},
    status::ApiError,
};

/// At most 4 messages a second.
const SPACING: Duration = Duration::from_millis(250);
/// How often the catalog is read when no event says that it changed.
const POLL: Duration = Duration::from_millis(2_500);
/// Reads of the catalog that may fail in a row before the stream ends with the failure.
const FAILED_READS_MAX: u32 = 3;
/// Messages that wait for the caller.
const WAITING_MAX: usize = 4;

/// What is watched.
pub trait Subject: Send + Sync + 'static {
    /// What the stream carries.
    type Event: Clone + PartialEq + Send + 'static;

    /// The id under which events come.
    fn subject_id(&self) -> &str;

    /// What the catalog says now. Gone is an error: NOT_FOUND.
    fn load(&self) -> impl Future<Output = Result<Now<Self::Event>, ApiError>> + Send;

    /// The progress within a message.
    fn progress(event: &mut Self::Event) -> Option<&mut Progress>;
}

/// What watch streams stand on.
#[derive(Clone)]
pub struct Ground {
    /// Where events come from.
    pub bus: Arc<dyn EventBus>,
    /// Knows of every stream.
    pub tasks: TaskTracker,
    /// Canceled when the server stops.
    pub stopping: CancellationToken,
    /// How long a caller may leave its stream unread.
    pub slow_reader: Duration,
}

/// A message, and whether it is the last.
pub struct Now<T> {
    /// The message.
    pub event: T,
    /// Whether nothing more happens.
    pub ended: bool,
}

/// Begins a watch stream.
pub async fn watch<S: Subject>(
    ground: Ground,
    subject: S,
    slot: Option<Slot>,
) -> Result<FeedStream<S::Event>, ApiError> {
    if ground.stopping.is_cancelled() {
        return Err(ApiError::shutting_down());
    }
    let events = subscribe(&*ground.bus, subject.subject_id()).await;
    let now = subject.load().await?;
    let (feed, stream) = feed(WAITING_MAX, ground.slow_reader);
    let tasks = ground.tasks.clone();
    let watcher = Watcher {
        ground,
        subject,
        now,
        events,
    };
    tasks.spawn(async move {
        watcher.run(feed).await;
        drop(slot);
    });
    Ok(stream)
}

/// Without events the stream still works, only less soon.
async fn subscribe(bus: &dyn EventBus, subject_id: &str) -> Option<EventStream> {
    match bus.subscribe(subject_id).await {
        Ok(events) => Some(events),
        Err(error) => {
            tracing::debug!(%error, "subscribe to events");
            None
        }
    }
}

struct Watcher<S: Subject> {
    ground: Ground,
    subject: S,
    now: Now<S::Event>,
    events: Option<EventStream>,
}

impl<S: Subject> Watcher<S> {
    async fn run(mut self, feed: Feed<S::Event>) {
        let stopping = self.ground.stopping.clone();
        let end = tokio::select! {
            biased;
            () = feed.gone() => return,
            end = self.follow(&feed) => end,
            () = stopping.cancelled() => End::Because(ApiError::shutting_down()),
        };
        match end {
            End::Told => feed.end(Ok(())),
            End::Because(error) => feed.end(Err(error)),
            // Gone, or cut with its own status.
            End::Unread => {}
        }
    }

    async fn follow(&mut self, feed: &Feed<S::Event>) -> End {
        let mut sent: Option<S::Event> = None;
        let mut next_send = Instant::now();
        let mut poll = interval_at(Instant::now() + POLL, POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed_reads = 0;
        loop {
            let news = sent.as_ref() != Some(&self.now.event);
            let read_again = tokio::select! {
                biased;
                () = sleep_until(next_send), if news => {
                    match feed.send(self.now.event.clone()).await {
                        Ok(()) => {}
                        Err(SendError::Gone | SendError::Slow) => return End::Unread,
                    }
                    sent = Some(self.now.event.clone());
                    next_send = Instant::now() + SPACING;
                    false
                }
                event = next_event(&mut self.events) => {
                    let changed = self.take(event);
                    if changed {
                        // Another state is told at once; only progress is spaced.
                        next_send = Instant::now();
                    }
                    changed
                }
                _ = poll.tick() => true,
            };
            if self.now.ended && sent.as_ref() == Some(&self.now.event) {
                return End::Told;
            }
            if read_again && !self.now.ended {
                match self.subject.load().await {
                    Ok(now) => {
                        failed_reads = 0;
                        self.renew(now);
                    }
                    Err(error) => {
                        failed_reads += 1;
                        let passing =
                            tonic::Code::Unavailable == crate::status::code_of(error.reason());
                        if !passing || failed_reads >= FAILED_READS_MAX {
                            return End::Because(error);
                        }
                    }
                }
                if self.events.is_none() {
                    self.events = subscribe(&*self.ground.bus, self.subject.subject_id()).await;
                }
            }
        }
    }

    /// Takes an event; tells whether the catalog is to be read again.
    fn take(&mut self, event: Option<JobEvent>) -> bool {
        let Some(event) = event else {
            self.events = None;
            return false;
        };
        let mut changed = event.state_changed;
        if let Some(progress) = event.progress
            && !self.now.ended
            && let Some(present) = S::progress(&mut self.now.event)
            && is_newer(&progress, present)
        {
            // Another attempt has begun, so the state is another one too.
            changed |= progress.attempt != present.attempt;
            *present = progress;
        }
        changed
    }

    /// Takes what the catalog says; progress that came as an event may be newer.
    fn renew(&mut self, mut now: Now<S::Event>) {
        if !now.ended
            && let Some(present) = S::progress(&mut self.now.event).cloned()
            && let Some(stored) = S::progress(&mut now.event)
            && stored.attempt == present.attempt
            && is_newer(&present, stored)
        {
            *stored = present;
        }
        self.now = now;
    }
}

enum End {
    /// The last message was sent.
    Told,
    /// It ends with an error.
    Because(ApiError),
    /// Nobody reads.
    Unread,
}

async fn next_event(events: &mut Option<EventStream>) -> Option<JobEvent> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Whether progress is newer than other progress: a later attempt, or a later measurement.
fn is_newer(this: &Progress, other: &Progress) -> bool {
    let key = |progress: &Progress| {
        let time = progress.update_time.unwrap_or_default();
        (progress.attempt, time.seconds, time.nanos)
    };
    key(this) > key(other)
}

#[cfg(test)]
mod tests;
