//! Queue and bus inside one process, for one machine. They forget everything
//! when the process ends: the catalog's outbox fills the queue again.

mod bus;
mod pool;
mod queue;

pub use bus::InProcessBus;
pub use queue::InProcessQueue;

/// Messages that one pool holds at the most; then publishing is `Unavailable`
/// and the jobs stay in the catalog's outbox.
pub const POOL_MESSAGES_MAX: usize = 100_000;
/// Manual messages in a row before a waiting scheduled one gets its turn.
pub const MANUAL_STREAK_MAX: u32 = 4;
/// How often a message is delivered before it counts as a dead letter.
pub const DELIVERIES_MAX: u32 = 20;
/// Dead letters that are kept to be looked at; all are counted.
pub const DEAD_LETTERS_KEPT: usize = 1_000;
/// Events that wait for one subscriber at the most; then it loses the oldest.
pub const EVENTS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{JobQueue, QueueError, Route, Urgency, contract};

    #[tokio::test]
    async fn the_queue_keeps_the_contract() {
        contract::job_queue(Arc::new(InProcessQueue::new())).await;
    }

    #[tokio::test]
    async fn the_bus_keeps_the_contract() {
        contract::event_bus(Arc::new(InProcessBus::new())).await;
    }

    #[tokio::test]
    async fn a_closed_queue_wakes_its_consumers_and_takes_nothing() {
        let queue = InProcessQueue::new();
        let mut consumer = queue.consume("default", 1).await.unwrap();
        let waiting = tokio::spawn(async move { consumer.next().await.map(|_| ()) });
        tokio::task::yield_now().await;
        queue.close();
        assert!(matches!(waiting.await.unwrap(), Err(QueueError::Closed)));
        let route = Route {
            pool: "default".to_owned(),
            urgency: Urgency::Manual,
        };
        let refused = queue.publish(&route, "job").await.unwrap_err();
        assert!(matches!(refused, QueueError::Unavailable { .. }));
        assert!(queue.check().await.is_err());
    }

    #[tokio::test]
    async fn dead_letters_can_be_looked_at() {
        let queue = InProcessQueue::new();
        let route = Route {
            pool: "default".to_owned(),
            urgency: Urgency::Scheduled,
        };
        queue.publish(&route, "job-1").await.unwrap();
        let mut consumer = queue.consume("default", 1).await.unwrap();
        consumer.next().await.unwrap().dead_letter().await.unwrap();
        assert_eq!(queue.dead_letters("default"), ["job-1"]);
    }

    #[tokio::test]
    async fn a_message_that_everybody_drops_ends_as_a_dead_letter() {
        let queue = InProcessQueue::new();
        let route = Route {
            pool: "default".to_owned(),
            urgency: Urgency::Manual,
        };
        queue.publish(&route, "poison").await.unwrap();
        let mut consumer = queue.consume("default", 1).await.unwrap();
        for _ in 0..DELIVERIES_MAX {
            drop(consumer.next().await.unwrap());
        }
        assert_eq!(queue.depth("default").await.unwrap().dead_letters, 1);
        assert_eq!(queue.depth("default").await.unwrap().manual, 0);
    }
}
