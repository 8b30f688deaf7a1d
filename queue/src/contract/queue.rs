//! The checks of a job queue.

use std::{collections::HashSet, sync::Arc};

use super::{never, unique, within};
use crate::{Delivery, JobConsumer, JobQueue, Route, Urgency, Wanted};

fn route(pool: &str, urgency: Urgency) -> Route {
    Route {
        pool: pool.to_owned(),
        urgency,
    }
}

async fn publish(queue: &dyn JobQueue, pool: &str, urgency: Urgency, job_id: &str) {
    let published = queue.publish(&route(pool, urgency), job_id).await;
    published.expect("publish");
}

async fn consume(queue: &dyn JobQueue, pool: &str, prefetch: u16) -> Box<dyn JobConsumer> {
    queue.consume(pool, prefetch).await.expect("consume")
}

async fn next(consumer: &mut Box<dyn JobConsumer>) -> Delivery {
    within("a delivery", consumer.next()).await.expect("next")
}

pub(super) async fn delivers_what_was_published(queue: &dyn JobQueue) {
    let pool = unique("pool");
    publish(queue, &pool, Urgency::Manual, "job-1").await;
    let mut consumer = consume(queue, &pool, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.job_id, "job-1");
    assert!(!delivery.redelivered);
    delivery.ack().await.expect("ack");
    never("a second delivery", consumer.next()).await;
}

pub(super) async fn wakes_a_waiting_consumer(queue: &Arc<dyn JobQueue>) {
    let pool = unique("pool");
    let mut consumer = consume(&**queue, &pool, 1).await;
    let publisher = {
        let (queue, pool) = (Arc::clone(queue), pool.clone());
        tokio::spawn(async move { publish(&*queue, &pool, Urgency::Scheduled, "job-1").await })
    };
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.job_id, "job-1");
    delivery.ack().await.expect("ack");
    publisher.await.expect("publisher");
}

pub(super) async fn brings_each_message_to_one_consumer(queue: &dyn JobQueue) {
    let pool = unique("pool");
    let mut first = consume(queue, &pool, 1).await;
    let mut second = consume(queue, &pool, 1).await;
    let jobs: HashSet<String> = (0..20).map(|number| format!("job-{number}")).collect();
    for job in &jobs {
        publish(queue, &pool, Urgency::Manual, job).await;
    }
    let mut seen = HashSet::new();
    while seen.len() < jobs.len() {
        let delivery = within("a delivery", async {
            tokio::select! {
                delivery = first.next() => delivery,
                delivery = second.next() => delivery,
            }
        });
        let delivery = delivery.await.expect("next");
        assert!(
            seen.insert(delivery.job_id.clone()) || delivery.redelivered,
            "{} came twice",
            delivery.job_id
        );
        delivery.ack().await.expect("ack");
    }
    assert_eq!(seen, jobs);
}

pub(super) async fn keeps_pools_apart(queue: &dyn JobQueue) {
    let (one, other) = (unique("pool"), unique("pool"));
    publish(queue, &one, Urgency::Manual, "job-1").await;
    let mut consumer = consume(queue, &other, 1).await;
    never("another pool's message", consumer.next()).await;
    let mut consumer = consume(queue, &one, 1).await;
    next(&mut consumer).await.ack().await.expect("ack");
}

pub(super) async fn brings_manual_before_scheduled(queue: &dyn JobQueue) {
    let pool = unique("pool");
    publish(queue, &pool, Urgency::Scheduled, "scheduled").await;
    publish(queue, &pool, Urgency::Manual, "manual").await;
    let mut consumer = consume(queue, &pool, 1).await;
    for expected in ["manual", "scheduled"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.job_id, expected);
        delivery.ack().await.expect("ack");
    }
}

pub(super) async fn brings_only_what_is_wanted(queue: &dyn JobQueue) {
    let pool = unique("pool");
    let mut consumer = consume(queue, &pool, 1).await;
    // Also to one that listened to both before.
    never("a delivery of nothing", consumer.next()).await;
    publish(queue, &pool, Urgency::Scheduled, "scheduled").await;
    never("what is not wanted", consumer.next_of(Wanted::Manual)).await;
    publish(queue, &pool, Urgency::Manual, "manual").await;
    let delivery = within("a delivery", consumer.next_of(Wanted::Manual)).await;
    let delivery = delivery.expect("next");
    assert_eq!(
        (delivery.job_id.as_str(), delivery.urgency),
        ("manual", Urgency::Manual)
    );
    delivery.ack().await.expect("ack");
    // Another one can have it, while the first waits for manual ones.
    let mut other = consume(queue, &pool, 1).await;
    let delivery = tokio::select! {
        _ = consumer.next_of(Wanted::Manual) => panic!("what is not wanted"),
        delivery = next(&mut other) => delivery,
    };
    assert_eq!(
        (delivery.job_id.as_str(), delivery.urgency),
        ("scheduled", Urgency::Scheduled)
    );
    delivery.ack().await.expect("ack");
}

pub(super) async fn never_starves_scheduled(queue: &dyn JobQueue) {
    let pool = unique("pool");
    publish(queue, &pool, Urgency::Scheduled, "scheduled").await;
    let mut consumer = consume(queue, &pool, 1).await;
    // However many manual ones there are, the scheduled one gets its turn.
    for number in 0..40 {
        publish(queue, &pool, Urgency::Manual, &format!("job-{number}")).await;
    }
    for _ in 0..20 {
        let delivery = next(&mut consumer).await;
        let job_id = delivery.job_id.clone();
        delivery.ack().await.expect("ack");
        if job_id == "scheduled" {
            return;
        }
        publish(queue, &pool, Urgency::Manual, "one more").await;
    }
    panic!("the scheduled message never had its turn");
}

pub(super) async fn bounds_unsettled_deliveries(queue: &dyn JobQueue) {
    let pool = unique("pool");
    for number in 0..3 {
        publish(queue, &pool, Urgency::Manual, &format!("job-{number}")).await;
    }
    let mut consumer = consume(queue, &pool, 2).await;
    let first = next(&mut consumer).await;
    let _second = next(&mut consumer).await;
    never("a third unsettled delivery", consumer.next()).await;
    first.ack().await.expect("ack");
    next(&mut consumer).await.ack().await.expect("ack");
}

pub(super) async fn delivers_again_what_was_requeued(queue: &dyn JobQueue) {
    let pool = unique("pool");
    publish(queue, &pool, Urgency::Manual, "job-1").await;
    let mut consumer = consume(queue, &pool, 1).await;
    next(&mut consumer).await.requeue().await.expect("requeue");
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.job_id, "job-1");
    assert!(delivery.redelivered);
    delivery.ack().await.expect("ack");
}

pub(super) async fn delivers_again_what_was_dropped(queue: &dyn JobQueue) {
    let pool = unique("pool");
    publish(queue, &pool, Urgency::Manual, "job-1").await;
    let mut consumer = consume(queue, &pool, 1).await;
    drop(next(&mut consumer).await);
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.job_id, "job-1");
    assert!(delivery.redelivered);
    delivery.ack().await.expect("ack");
}

pub(super) async fn keeps_what_a_dropped_consumer_held(queue: &dyn JobQueue) {
    let pool = unique("pool");
    publish(queue, &pool, Urgency::Manual, "job-1").await;
    publish(queue, &pool, Urgency::Manual, "job-2").await;
    let mut consumer = consume(queue, &pool, 2).await;
    let held = next(&mut consumer).await;
    drop(consumer);
    drop(held);
    let mut consumer = consume(queue, &pool, 2).await;
    let mut seen = HashSet::new();
    let mut unsettled = Vec::new();
    while seen.len() < 2 {
        let delivery = next(&mut consumer).await;
        seen.insert(delivery.job_id.clone());
        unsettled.push(delivery);
    }
    for delivery in unsettled {
        delivery.ack().await.expect("ack");
    }
}

pub(super) async fn loses_nothing_when_next_is_dropped(queue: &dyn JobQueue) {
    let pool = unique("pool");
    let mut consumer = consume(queue, &pool, 1).await;
    for number in 0..10 {
        never("a delivery of nothing", async {
            tokio::select! {
                _ = consumer.next() => {}
                () = async {
                    tokio::task::yield_now().await;
                    std::future::pending::<()>().await;
                } => {}
            }
        })
        .await;
        let job_id = format!("job-{number}");
        publish(queue, &pool, Urgency::Manual, &job_id).await;
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.job_id, job_id);
        delivery.ack().await.expect("ack");
    }
}

pub(super) async fn counts_dead_letters(queue: &dyn JobQueue) {
    let pool = unique("pool");
    publish(queue, &pool, Urgency::Manual, "bad").await;
    publish(queue, &pool, Urgency::Manual, "good").await;
    let mut consumer = consume(queue, &pool, 1).await;
    let bad = next(&mut consumer).await;
    assert_eq!(bad.job_id, "bad");
    bad.dead_letter().await.expect("dead letter");
    let good = next(&mut consumer).await;
    assert_eq!(good.job_id, "good");
    good.ack().await.expect("ack");
    // A server may count with a little delay.
    within("the count of dead letters", async {
        while queue.depth(&pool).await.expect("depth").dead_letters != 1 {
            tokio::time::sleep(super::STAYS_AWAY_FOR / 10).await;
        }
    })
    .await;
    never("a dead letter's delivery", consumer.next()).await;
}
