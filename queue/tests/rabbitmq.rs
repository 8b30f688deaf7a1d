//! Queue, bus and announcements on a RabbitMQ that others use too.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::FieldTable,
};
use proto::queue::v1::JobEvent;
use queue::{
    AmqpSettings, Announcement, Announcer as _, ConnectError, EventBus, JobQueue, RabbitMq, Route,
    Urgency, contract,
};
use tokio::time::timeout;

const HAPPENS_WITHIN: Duration = contract::HAPPENS_WITHIN;

/// The RabbitMQ that the environment names.
fn url() -> String {
    std::env::var("NORA_TEST_AMQP_URL").unwrap_or_else(|_| {
        panic!("NORA_TEST_AMQP_URL is not set: run `make test`, or `make services` first")
    })
}

async fn connect() -> RabbitMq {
    RabbitMq::connect(&AmqpSettings::new(&url()), "nora-backup-tests")
        .await
        .expect("connect to RabbitMQ")
}

/// A connection beside ours.
async fn stranger() -> (Connection, Channel) {
    let connection = Connection::connect(&url(), ConnectionProperties::default())
        .await
        .expect("connect");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

fn unique(what: &str) -> String {
    format!("{what}-{}", uuid::Uuid::new_v4())
}

fn route(pool: &str, urgency: Urgency) -> Route {
    Route {
        pool: pool.to_owned(),
        urgency,
    }
}

/// The URL, with something in it replaced.
fn changed(user: &str, vhost: &str) -> String {
    let url = url();
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
    let host = rest.split('/').next().expect("a host");
    format!("{scheme}://{user}@{host}/{vhost}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_keeps_the_contract() {
    let rabbit = connect().await;
    contract::job_queue(Arc::new(rabbit.clone())).await;
    rabbit.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_keeps_the_contract() {
    let rabbit = connect().await;
    contract::event_bus(Arc::new(rabbit.clone())).await;
    rabbit.close().await;
}

#[tokio::test]
async fn a_wrong_password_is_told_without_it() {
    let settings = AmqpSettings::new(&changed("guest:very-secret", ""));
    let refused = RabbitMq::connect(&settings, "test").await.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused}");
    let line = format!("{refused} {refused:?}");
    assert!(line.starts_with("NORA_BACKUP_AMQP_URL: "), "{line}");
    assert!(line.contains("wrong user or password"), "{line}");
    assert!(!line.contains("secret"), "{line}");
}

#[tokio::test]
async fn a_missing_virtual_host_is_named() {
    let url = url();
    let user = url.split_once("://").unwrap().1.split_once('@').unwrap().0;
    let settings = AmqpSettings::new(&changed(user, "no-such-host"));
    let refused = RabbitMq::connect(&settings, "test").await.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("no-such-host"), "{refused}");
}

#[tokio::test]
async fn a_host_that_is_not_there_is_unreachable() {
    for url in [
        "amqp://a:secret@127.0.0.1:1",
        "amqp://a:secret@no-such-host.invalid",
    ] {
        let error = RabbitMq::connect(&AmqpSettings::new(url), "test").await;
        let error = error.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn tls_with_what_speaks_none_is_refused() {
    let url = url().replacen("amqp://", "amqps://", 1);
    let refused = RabbitMq::connect(&AmqpSettings::new(&url), "test").await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("TLS"), "{refused}");
}

#[tokio::test]
async fn poison_is_put_aside_and_the_queue_goes_on() {
    let rabbit = connect().await;
    let pool = unique("poison");
    let (_connection, channel) = stranger().await;
    let ours = || {
        BasicProperties::default()
            .with_content_type("application/x-protobuf".into())
            .with_type("nora.queue.v1.JobMessage".into())
    };
    let poison = [
        (BasicProperties::default(), vec![]),
        (
            ours().with_content_type("text/plain".into()),
            b"hi".to_vec(),
        ),
        (ours().with_type("another".into()), vec![8, 1, 18, 1, b'a']),
        // Cut short; of version 9; without a job.
        (ours(), vec![8, 1, 18, 9, b'a']),
        (ours(), vec![8, 9, 18, 1, b'a']),
        (ours(), vec![8, 1]),
    ];
    let count = poison.len() as u64;
    // Both ways of receiving meet some: fetched, and while it waits.
    let mut consumer = rabbit.consume(&pool, 2).await.unwrap();
    for (properties, body) in poison {
        let queue = format!("nora.backup.jobs.{pool}.scheduled");
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(
            "nora.backup.jobs".into(),
            queue.as_str().into(),
            options,
            &body,
            properties,
        );
        sent.await.unwrap().await.unwrap();
        let waits = timeout(Duration::from_millis(20), consumer.next()).await;
        assert!(waits.is_err(), "poison was delivered");
    }
    let good = route(&pool, Urgency::Scheduled);
    JobQueue::publish(&rabbit, &good, "good").await.unwrap();
    let delivery = timeout(HAPPENS_WITHIN, consumer.next()).await.unwrap();
    assert_eq!(delivery.unwrap().job_id, "good");
    timeout(HAPPENS_WITHIN, async {
        while rabbit.depth(&pool).await.unwrap().dead_letters != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("all are dead letters");
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_made_again() {
    let rabbit = connect().await;
    let pool = unique("deleted");
    let manual = route(&pool, Urgency::Manual);
    JobQueue::publish(&rabbit, &manual, "lost").await.unwrap();
    let (_connection, channel) = stranger().await;
    let queue = format!("nora.backup.jobs.{pool}.manual");
    let delete = async || {
        let options = QueueDeleteOptions::default();
        channel.queue_delete(queue.as_str().into(), options).await
    };
    delete().await.unwrap();
    // Nobody would get it: that is noticed, whichever of many it is.
    let publishing = (0..50).map(|number| {
        let (rabbit, manual) = (&rabbit, &manual);
        async move { JobQueue::publish(rabbit, manual, &format!("job-{number}")).await }
    });
    for published in futures::future::join_all(publishing).await {
        published.unwrap();
    }
    timeout(HAPPENS_WITHIN, async {
        while rabbit.depth(&pool).await.unwrap().manual != 50 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("all are there");

    let mut consumer = rabbit.consume(&pool, 1).await.unwrap();
    drop(timeout(HAPPENS_WITHIN, consumer.next()).await.unwrap());
    delete().await.unwrap();
    let closed = timeout(HAPPENS_WITHIN, async {
        while let Ok(delivery) = consumer.next().await {
            drop(delivery);
        }
    });
    closed.await.expect("the consumer ends");
    let mut consumer = rabbit.consume(&pool, 1).await.unwrap();
    JobQueue::publish(&rabbit, &manual, "new").await.unwrap();
    let delivery = timeout(HAPPENS_WITHIN, consumer.next()).await.unwrap();
    assert_eq!(delivery.unwrap().job_id, "new");
}

#[tokio::test]
async fn buses_on_two_connections_tell_each_other() {
    let (here, there) = (connect().await, connect().await);
    let subject = unique("subject.with.#.in.it");
    let mut first = here.subscribe(&subject).await.unwrap();
    let mut second = there.subscribe(&subject).await.unwrap();
    let mut third = there.subscribe(&subject).await.unwrap();
    let told = |job_id: &str| JobEvent {
        version: 1,
        subject_id: subject.clone(),
        job_id: job_id.to_owned(),
        ..JobEvent::default()
    };
    EventBus::publish(&here, told("1")).await.unwrap();
    for stream in [&mut first, &mut second, &mut third] {
        let event = timeout(HAPPENS_WITHIN, stream.next()).await.unwrap();
        assert_eq!(event.unwrap(), told("1"));
    }
    // One of two leaves: the other still is told.
    drop(third);
    let mut other = there.subscribe("another").await.unwrap();
    EventBus::publish(&here, told("2")).await.unwrap();
    let event = timeout(HAPPENS_WITHIN, second.next()).await.unwrap();
    assert_eq!(event.unwrap(), told("2"));
    assert!(
        timeout(contract::STAYS_AWAY_FOR, other.next())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn announcements_reach_those_who_listen_for_their_kind() {
    let rabbit = connect().await;
    let kind = format!("nora.backup.{}", unique("kind"));
    let announcement = Announcement {
        id: unique("id"),
        kind: kind.clone(),
        body: br#"{"specversion":"1.0"}"#.to_vec(),
    };
    // Nobody listens yet: that is no fault.
    rabbit.announce(&announcement).await.unwrap();
    let (_connection, channel) = stranger().await;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel.queue_declare("".into(), options, FieldTable::default());
    let queue = queue.await.unwrap().name().clone();
    let bound = channel.queue_bind(
        queue.clone(),
        "nora.backup.events".into(),
        kind.as_str().into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.unwrap();
    rabbit.announce(&announcement).await.unwrap();
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default());
    let mut consumer = consumer.await.unwrap();
    let message = timeout(HAPPENS_WITHIN, consumer.next()).await.unwrap();
    let message = message.unwrap().unwrap();
    assert_eq!(message.data, announcement.body);
    let properties = message.properties;
    let text = |text: &Option<lapin::types::ShortString>| text.clone().unwrap().to_string();
    assert_eq!(text(properties.message_id()), announcement.id);
    assert_eq!(text(properties.kind()), kind);
    let content_type = text(properties.content_type());
    assert!(content_type.starts_with("application/cloudevents+json"));
}

#[tokio::test]
async fn what_a_busy_worker_cannot_take_is_left_to_others() {
    let rabbit = connect().await;
    let pool = unique("busy");
    let mut busy = rabbit.consume(&pool, 5).await.unwrap();
    for urgency in [Urgency::Manual, Urgency::Scheduled] {
        let route = route(&pool, urgency);
        JobQueue::publish(&rabbit, &route, "first").await.unwrap();
    }
    let held = timeout(HAPPENS_WITHIN, busy.next()).await.unwrap().unwrap();
    // It waited, and does not any more; it has room, but does not ask.
    let second = timeout(HAPPENS_WITHIN, busy.next()).await.unwrap().unwrap();
    assert!(
        timeout(Duration::from_millis(50), busy.next())
            .await
            .is_err()
    );
    for urgency in [Urgency::Manual, Urgency::Scheduled] {
        let route = route(&pool, urgency);
        JobQueue::publish(&rabbit, &route, "second").await.unwrap();
    }
    let mut idle = rabbit.consume(&pool, 5).await.unwrap();
    for _ in 0..2 {
        let delivery = timeout(HAPPENS_WITHIN, idle.next()).await.unwrap();
        let delivery = delivery.unwrap();
        assert_eq!(delivery.job_id, "second");
        delivery.ack().await.unwrap();
    }
    held.ack().await.unwrap();
    second.ack().await.unwrap();
}

#[tokio::test]
async fn pools_may_have_any_name() {
    let rabbit = connect().await;
    for name in ["a.b", "#", "*", "\u{fc}ber alles", "%", "x\n"] {
        let pool = format!("{name}{}", unique(""));
        let route = route(&pool, Urgency::Manual);
        JobQueue::publish(&rabbit, &route, name).await.unwrap();
        let mut consumer = rabbit.consume(&pool, 1).await.unwrap();
        let delivery = timeout(HAPPENS_WITHIN, consumer.next()).await.unwrap();
        let delivery = delivery.unwrap();
        assert_eq!(delivery.job_id, name);
        delivery.ack().await.unwrap();
    }
}
