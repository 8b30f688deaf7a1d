//! What every job queue and every event bus must do, as tests that run against
//! any implementation. Each uses pools and subjects of its own, so they can run
//! on a server that others use too.

mod bus;
mod queue;

use std::{future::Future, sync::Arc, time::Duration};

use crate::{EventBus, JobQueue};

/// How long something that must happen may take.
pub const HAPPENS_WITHIN: Duration = Duration::from_secs(10);
/// How long is waited for something that must not happen.
pub const STAYS_AWAY_FOR: Duration = Duration::from_millis(200);

/// Runs all checks of a job queue.
pub async fn job_queue(queue: Arc<dyn JobQueue>) {
    queue::delivers_what_was_published(&*queue).await;
    queue::wakes_a_waiting_consumer(&queue).await;
    queue::brings_each_message_to_one_consumer(&*queue).await;
    queue::keeps_pools_apart(&*queue).await;
    queue::brings_manual_before_scheduled(&*queue).await;
    queue::brings_only_what_is_wanted(&*queue).await;
    queue::never_starves_scheduled(&*queue).await;
    queue::bounds_unsettled_deliveries(&*queue).await;
    queue::delivers_again_what_was_requeued(&*queue).await;
    queue::delivers_again_what_was_dropped(&*queue).await;
    queue::keeps_what_a_dropped_consumer_held(&*queue).await;
    queue::loses_nothing_when_next_is_dropped(&*queue).await;
    queue::counts_dead_letters(&*queue).await;
    queue.check().await.expect("the queue is healthy");
}

/// Runs all checks of an event bus.
pub async fn event_bus(bus: Arc<dyn EventBus>) {
    bus::brings_only_the_subjects_events(&*bus).await;
    bus::brings_all_events_to_those_who_want_all(&*bus).await;
    bus::brings_each_event_to_every_subscriber(&*bus).await;
    bus::does_not_wait_for_slow_subscribers(&*bus).await;
    bus::publishes_to_nobody(&*bus).await;
}

/// A name nobody else uses.
fn unique(what: &str) -> String {
    format!("{what}-{}", uuid::Uuid::new_v4())
}

/// Waits for what must happen.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HAPPENS_WITHIN, future)
        .await
        .unwrap_or_else(|_elapsed| panic!("{what}: not within {HAPPENS_WITHIN:?}"))
}

/// Waits a while for what must not happen.
async fn never<T>(what: &str, future: impl Future<Output = T>) {
    assert!(
        tokio::time::timeout(STAYS_AWAY_FOR, future).await.is_err(),
        "{what}: happened"
    );
}
