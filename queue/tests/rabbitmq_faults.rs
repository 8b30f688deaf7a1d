//! What happens when RabbitMQ dies, is short of memory, or is not as expected.
//! Each test has a RabbitMQ of its own.

#[path = "rabbitmq_faults/broker.rs"]
mod broker;

use std::time::{Duration, Instant};

use broker::Broker;
use futures::StreamExt as _;
use lapin::{
    Connection, ConnectionProperties, ExchangeKind, options::ExchangeDeclareOptions,
    types::FieldTable,
};
use proto::queue::v1::JobEvent;
use queue::{
    Announcement, Announcer as _, ConnectError, Delivery, EventBus, JobConsumer, JobQueue,
    QueueError, RabbitMq, Route, Urgency,
};
use tokio::time::{sleep, timeout};

/// How long going on by itself may take.
const GOES_ON_WITHIN: Duration = Duration::from_secs(15);
/// Every call answers in this time, whatever happens.
const ANSWERS_WITHIN: Duration = Duration::from_secs(12);

fn manual(pool: &str) -> Route {
    Route {
        pool: pool.to_owned(),
        urgency: Urgency::Manual,
    }
}

async fn publish(rabbit: &RabbitMq, job_id: &str) -> Result<(), QueueError> {
    let route = manual("pool");
    let publishing = JobQueue::publish(rabbit, &route, job_id);
    let answer = timeout(ANSWERS_WITHIN, publishing).await;
    answer.expect("publishing answers in time")
}

/// Publishes until it succeeds.
async fn publish_again(rabbit: &RabbitMq, job_id: &str) {
    let trying = async {
        while let Err(error) = publish(rabbit, job_id).await {
            assert!(error.is_retryable(), "{error}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(GOES_ON_WITHIN, trying).await.expect("it goes on");
}

async fn consume_again(rabbit: &RabbitMq) -> Box<dyn JobConsumer> {
    let trying = async {
        loop {
            match rabbit.consume("pool", 2).await {
                Ok(consumer) => return consumer,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(GOES_ON_WITHIN, trying).await.expect("it goes on")
}

async fn next(consumer: &mut Box<dyn JobConsumer>) -> Result<Delivery, QueueError> {
    let delivery = timeout(ANSWERS_WITHIN, consumer.next()).await;
    delivery.expect("a delivery in time")
}

fn event(subject_id: &str, job_id: &str) -> JobEvent {
    JobEvent {
        version: 1,
        subject_id: subject_id.to_owned(),
        job_id: job_id.to_owned(),
        ..JobEvent::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_goes_on_after_the_broker_was_killed() {
    let mut broker = Broker::start().await;
    let rabbit = RabbitMq::connect(&broker.settings(), "test").await.unwrap();
    let mut consumer = rabbit.consume("pool", 2).await.unwrap();
    let mut events = rabbit.subscribe("backup").await.unwrap();
    publish(&rabbit, "held").await.unwrap();
    let held = next(&mut consumer).await.unwrap();
    publish(&rabbit, "waiting").await.unwrap();

    broker.kill();
    let closed = timeout(ANSWERS_WITHIN, async {
        // What was fetched before may still come.
        while let Ok(delivery) = consumer.next().await {
            drop(delivery);
        }
    });
    closed.await.expect("the consumer is closed");
    assert!(matches!(held.ack().await, Err(QueueError::Closed)));
    let refused = publish(&rabbit, "refused").await.unwrap_err();
    assert!(
        matches!(refused, QueueError::Unavailable { .. }),
        "{refused}"
    );
    assert!(rabbit.check().await.is_err());
    assert!(rabbit.subscribe("other").await.is_err());

    broker.start_again().await;
    publish_again(&rabbit, "new").await;
    let mut consumer = consume_again(&rabbit).await;
    let mut missing = vec!["held", "waiting", "new"];
    while !missing.is_empty() {
        let delivery = next(&mut consumer).await.expect("a delivery");
        missing.retain(|job_id| *job_id != delivery.job_id);
        delivery.ack().await.unwrap();
    }
    rabbit.check().await.unwrap();
    // The stream that was there before brings events again.
    let told = timeout(GOES_ON_WITHIN, async {
        loop {
            let _ = EventBus::publish(&rabbit, event("backup", "job")).await;
            if let Ok(event) = timeout(Duration::from_millis(100), events.next()).await {
                return event;
            }
        }
    });
    assert_eq!(told.await.unwrap().unwrap().job_id, "job");
    rabbit.close().await;
    assert!(
        timeout(ANSWERS_WITHIN, async {
            while events.next().await.is_some() {}
        })
        .await
        .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_without_a_broker_and_connects_when_there_is_one() {
    let mut broker = Broker::start().await;
    broker.kill();
    let rabbit = RabbitMq::start(&broker.settings(), "test").unwrap();
    assert!(publish(&rabbit, "early").await.unwrap_err().is_retryable());
    assert!(rabbit.consume("pool", 1).await.is_err());
    let error = RabbitMq::connect(&broker.settings(), "test").await;
    assert!(error.unwrap_err().is_retryable());
    broker.start_again().await;
    publish_again(&rabbit, "job").await;
    let mut consumer = consume_again(&rabbit).await;
    assert_eq!(next(&mut consumer).await.unwrap().job_id, "job");
    rabbit.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_short_of_memory_refuses_and_delivers() {
    let broker = Broker::start().await;
    let rabbit = RabbitMq::connect(&broker.settings(), "test").await.unwrap();
    for job_id in ["job-1", "job-2"] {
        publish(&rabbit, job_id).await.unwrap();
    }
    let high_watermark = "set_vm_memory_high_watermark";
    broker.control(&[high_watermark, "0.00001"]).await;
    // The first may have to find it out; then all are refused at once.
    let refused = publish(&rabbit, "refused").await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(publish(&rabbit, "refused").await.is_err());
        let refused = EventBus::publish(&rabbit, event("backup", "job")).await;
        assert!(refused.is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
    let announcement = Announcement {
        id: "1".to_owned(),
        kind: "nora.backup.completed".to_owned(),
        body: b"{}".to_vec(),
    };
    assert!(rabbit.announce(&announcement).await.is_err());
    assert!(rabbit.check().await.is_err());

    let mut consumer = rabbit.consume("pool", 1).await.unwrap();
    for job_id in ["job-1", "job-2"] {
        let delivery = next(&mut consumer).await.unwrap();
        assert_eq!(delivery.job_id, job_id);
        delivery.ack().await.unwrap();
    }
    rabbit.depth("pool").await.unwrap();

    broker.control(&[high_watermark, "0.6"]).await;
    publish_again(&rabbit, "after").await;
    loop {
        // One that was refused may have been on its way.
        let delivery = next(&mut consumer).await.unwrap();
        let job_id = delivery.job_id.clone();
        delivery.ack().await.unwrap();
        if job_id == "after" {
            break;
        }
        assert_eq!(job_id, "refused");
    }
    rabbit.check().await.unwrap();
    rabbit.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_and_is_another_is_refused() {
    let broker = Broker::start().await;
    let connection = Connection::connect(&broker.url(), ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let delete = channel.exchange_delete("nora.backup.jobs".into(), Default::default());
    delete.await.unwrap();
    let declare = channel.exchange_declare(
        "nora.backup.jobs".into(),
        ExchangeKind::Fanout,
        ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    declare.await.unwrap();
    let refused = RabbitMq::connect(&broker.settings(), "test").await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused}");
    let line = refused.to_string();
    assert!(line.contains("PRECONDITION_FAILED"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
}
