//! From messages to claimed jobs.

use std::{sync::Arc, time::Duration};

use catalog::ClaimOutcome;
use futures::future::{BoxFuture, FutureExt as _, select_all};
use queue::{Delivery, JobConsumer, QueueError, Urgency, Wanted};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

use super::{Shared, execution::execute};
use crate::clock::now_ms;

/// First and longest wait before a queue or a catalog that can't be reached is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Of so many slots one is kept for manual jobs; of a single one, none.
const KEPT_ONE_IN: usize = 4;

/// Takes and runs jobs until the worker shall stop; returns when the last one has ended or was
/// handed back.
pub(crate) async fn take_jobs(worker: Arc<Shared>) {
    let slots = Slots::new(worker.settings.concurrency);
    let tasks = TaskTracker::new();
    let mut feeds: Vec<Feed> = worker
        .settings
        .pools
        .iter()
        .map(|pool| Feed::new(worker.clone(), pool))
        .collect();
    let shutdown = worker.shutdown.clone();
    loop {
        // First a free slot, then a message: who is busy leaves it to others.
        let taken = shutdown
            .run_until_cancelled(async {
                let slot = slots.any.clone().acquire_owned().await.ok()?;
                let (delivery, share) = slots.next(&mut feeds).await?;
                Some(((slot, share), delivery))
            })
            .await;
        let Some(Some((slot, delivery))) = taken else {
            break;
        };
        let worker = worker.clone();
        tasks.spawn(async move {
            handle(worker, delivery).await;
            drop(slot);
        });
    }
    // Messages that were received and not claimed go back to the queue.
    drop(feeds);
    tasks.close();
    tasks.wait().await;
}

/// Room for jobs.
struct Slots {
    /// One for each job at the same time.
    any: Arc<Semaphore>,
    /// How many of these scheduled ones may take: the others are kept for whoever waits.
    scheduled: Arc<Semaphore>,
}

impl Slots {
    fn new(concurrency: u16) -> Self {
        let all = usize::from(concurrency);
        let kept = if all > 1 {
            all.div_ceil(KEPT_ONE_IN)
        } else {
            0
        };
        Self {
            any: Arc::new(Semaphore::new(all)),
            scheduled: Arc::new(Semaphore::new(all - kept)),
        }
    }

    /// The next message for which there is room, and the room that it takes from
    /// scheduled ones.
    async fn next(&self, feeds: &mut [Feed]) -> Option<(Delivery, Option<OwnedSemaphorePermit>)> {
        let share = if let Ok(share) = self.scheduled.clone().try_acquire_owned() {
            share
        } else {
            tokio::select! {
                delivery = next(feeds, Wanted::Manual) => return Some((delivery, None)),
                share = self.scheduled.clone().acquire_owned() => share.ok()?,
            }
        };
        let delivery = next(feeds, Wanted::Any).await;
        let share = (delivery.urgency == Urgency::Scheduled).then_some(share);
        Some((delivery, share))
    }
}

/// The next message of any pool.
async fn next(feeds: &mut [Feed], wanted: Wanted) -> Delivery {
    if feeds.is_empty() {
        return std::future::pending().await;
    }
    let waiting = feeds.iter_mut().map(|feed| feed.next(wanted).boxed());
    let (delivery, ..) = select_all(waiting).await;
    delivery
}

/// One pool's messages; gets itself a new consumer when the old one went away.
struct Feed {
    worker: Arc<Shared>,
    pool: String,
    state: FeedState,
    wait: Duration,
}

enum FeedState {
    Connecting(BoxFuture<'static, Result<Box<dyn JobConsumer>, QueueError>>),
    /// Since then.
    Connected(Box<dyn JobConsumer>, Instant),
}

impl Feed {
    fn new(worker: Arc<Shared>, pool: &str) -> Self {
        Self {
            state: FeedState::Connecting(connect(&worker, pool, Duration::ZERO)),
            worker,
            pool: pool.to_owned(),
            wait: AGAIN.0,
        }
    }

    /// May be dropped while it waits: what was begun goes on with the next call.
    async fn next(&mut self, wanted: Wanted) -> Delivery {
        loop {
            let error = match &mut self.state {
                FeedState::Connecting(connecting) => match connecting.await {
                    Ok(consumer) => {
                        self.state = FeedState::Connected(consumer, Instant::now());
                        continue;
                    }
                    Err(error) => error,
                },
                FeedState::Connected(consumer, since) => match consumer.next_of(wanted).await {
                    Ok(delivery) => {
                        self.wait = AGAIN.0;
                        return delivery;
                    }
                    Err(error @ QueueError::Malformed { .. }) => {
                        tracing::warn!(pool = self.pool, %error, "receive a message");
                        continue;
                    }
                    Err(error) => {
                        // It went well for a while: this is a new trouble.
                        if since.elapsed() > AGAIN.1 {
                            self.wait = AGAIN.0;
                        }
                        error
                    }
                },
            };
            tracing::warn!(pool = self.pool, %error, "receive jobs");
            self.state = FeedState::Connecting(connect(&self.worker, &self.pool, self.wait));
            self.wait = (self.wait * 2).min(AGAIN.1);
        }
    }
}

fn connect(
    worker: &Arc<Shared>,
    pool: &str,
    wait: Duration,
) -> BoxFuture<'static, Result<Box<dyn JobConsumer>, QueueError>> {
    let (queue, pool) = (worker.queue.clone(), pool.to_owned());
    let prefetch = worker.settings.concurrency;
    async move {
        sleep(wait).await;
        queue.consume(&pool, prefetch).await
    }
    .boxed()
}

/// Claims the job that a message is about, settles the message, and runs the job.
async fn handle(worker: Arc<Shared>, delivery: Delivery) {
    let job_id = delivery.job_id.clone();
    let lease_ms = worker.settings.lease.as_millis() as i64;
    let mut wait = AGAIN.0;
    let (outcome, claimed) = loop {
        if worker.shutdown.is_cancelled() {
            settled(&job_id, delivery.requeue().await);
            return;
        }
        let asked = Instant::now();
        let catalog = &worker.catalog;
        match catalog
            .claim_job(&job_id, &worker.name, lease_ms, now_ms())
            .await
        {
            Ok(outcome) => break (outcome, asked),
            Err(error) if error.is_retryable() => {
                tracing::warn!(job_id, %error, "claim a job");
                worker.shutdown.run_until_cancelled(sleep(wait)).await;
                wait = (wait * 2).min(AGAIN.1);
            }
            Err(error) => {
                tracing::error!(job_id, %error, "claim a job");
                settled(&job_id, delivery.dead_letter().await);
                return;
            }
        }
    };
    fail::fail_point!("worker-before-ack");
    // A late copy may outlive its job's row. What comes for the first time about a job that is not
    // there is none of this catalog's.
    if outcome == ClaimOutcome::Unknown && !delivery.redelivered {
        tracing::error!(
            job_id,
            "job of a message is unknown: dead letter; it was removed meanwhile, or the message \
             comes from a service with another database"
        );
        settled(&job_id, delivery.dead_letter().await);
        return;
    }
    // The catalog knows now whose the job is, or that it will be dispatched again.
    settled(&job_id, delivery.ack().await);
    if let ClaimOutcome::Claimed(lease) = outcome {
        fail::fail_point!("worker-claimed");
        execute(worker, *lease, claimed).await;
    }
}

/// A message that could not be settled comes again, and finds its job claimed.
fn settled(job_id: &str, result: Result<(), QueueError>) {
    if let Err(error) = result {
        tracing::debug!(job_id, %error, "settle a message");
    }
}

#[cfg(test)]
mod tests;
