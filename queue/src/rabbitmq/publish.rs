//! Publishing: what must arrive is confirmed, what may get lost is not waited for.

use std::{sync::Arc, time::Duration};

use lapin::{BasicProperties, Channel, Confirmation, options::BasicPublishOptions};
use proto::queue::v1::JobEvent;
use tokio::{sync::mpsc, time::timeout};

use super::{
    error::{because, unavailable},
    link::Link,
    message,
    topology::{EVENTS, JOBS, PROGRESS, PoolNames, encode},
};
use crate::{Announcement, QueueError, Route};

/// Events that wait to be written.
pub(super) const EVENTS_QUEUED_MAX: usize = 1_024;
/// How long an event waits to be taken; then it is lost.
const EVENT_LIMIT: Duration = Duration::from_secs(1);
/// Longest kind of an announcement, for it is a routing key.
const KIND_BYTES_MAX: usize = 255;

/// How a confirmed message fared.
#[derive(PartialEq, Eq)]
enum Fate {
    Taken,
    /// No queue is there for it.
    Returned,
    /// A queue is full, or has no majority.
    Refused,
}

/// Publishes word of a job.
pub(super) async fn job(link: &Arc<Link>, route: &Route, job_id: &str) -> Result<(), QueueError> {
    const DOING: &str = "publish a job";
    let names = PoolNames::new(&route.pool)?;
    let queue = names.jobs(route.urgency);
    link.check_blocked(DOING)?;
    let work = async {
        for _ in 0..2 {
            link.ensure_pool(&route.pool, &names).await?;
            let (properties, body) = message::job(job_id);
            match confirmed(link, DOING, JOBS, queue, true, properties, &body).await? {
                Fate::Taken => return Ok(()),
                Fate::Refused => {
                    let message = format!("RabbitMQ did not take it: {queue} is full or not ready");
                    return Err(because(DOING, message));
                }
                // Somebody deleted the queue: it is declared again.
                Fate::Returned => link.forget_pool(&route.pool),
            }
        }
        Err(because(DOING, format!("{queue} does not exist")))
    };
    limited(link, DOING, work).await
}

/// Publishes an announcement.
pub(super) async fn announcement(
    link: &Arc<Link>,
    announcement: &Announcement,
) -> Result<(), QueueError> {
    const DOING: &str = "announce";
    if announcement.kind.len() > KIND_BYTES_MAX || announcement.id.len() > KIND_BYTES_MAX {
        return Err(QueueError::Malformed {
            message: "the announcement's kind or id is longer than 255 bytes".to_owned(),
        });
    }
    link.check_blocked(DOING)?;
    let work = async {
        let (properties, body) = message::announcement(announcement);
        let kind = &announcement.kind;
        // Nobody need be there to hear it.
        match confirmed(link, DOING, EVENTS, kind, false, properties, &body).await? {
            Fate::Taken | Fate::Returned => Ok(()),
            Fate::Refused => Err(because(DOING, "a listener's queue did not take it")),
        }
    };
    limited(link, DOING, work).await
}

/// In limited time, and not while RabbitMQ takes nothing.
async fn limited(
    link: &Arc<Link>,
    doing: &'static str,
    work: impl Future<Output = Result<(), QueueError>>,
) -> Result<(), QueueError> {
    tokio::select! {
        biased;
        done = link.within(doing, work) => done,
        blocked = link.blocked(doing) => Err(blocked),
    }
}

/// Publishes, and waits for what becomes of it.
async fn confirmed(
    link: &Link,
    doing: &'static str,
    exchange: &str,
    key: &str,
    mandatory: bool,
    properties: BasicProperties,
    body: &[u8],
) -> Result<Fate, QueueError> {
    let options = BasicPublishOptions {
        mandatory,
        ..BasicPublishOptions::default()
    };
    link.confirming(doing, async |channel| {
        let sent = channel
            .basic_publish(exchange.into(), key.into(), options, body, properties)
            .await?;
        Ok(match sent.await? {
            // RabbitMQ returns a message before it confirms it. Nothing else is
            // on its way here, so whatever was returned is this one: with its
            // confirmation, or beside it.
            Confirmation::Ack(None) if channel.wait_for_confirms().await?.is_empty() => Fate::Taken,
            Confirmation::Ack(_) => Fate::Returned,
            Confirmation::Nack(_) | Confirmation::NotRequested => Fate::Refused,
        })
    })
    .await
}

/// Hands an event over to be written.
pub(super) async fn event(link: &Arc<Link>, event: JobEvent) -> Result<(), QueueError> {
    const DOING: &str = "publish an event";
    link.check_blocked(DOING)?;
    match timeout(EVENT_LIMIT, link.events().send(event)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(because(DOING, link.reason())),
        Err(_) => Err(because(DOING, "too many wait to be written")),
    }
}

/// Writes events as long as the connection stands.
pub(super) async fn write_events(link: Arc<Link>, mut queued: mpsc::Receiver<JobEvent>) {
    const DOING: &str = "publish an event";
    let mut channel = None;
    loop {
        let event = tokio::select! {
            () = link.lost() => return,
            event = queued.recv() => event,
        };
        let Some(event) = event else { return };
        if link.check_blocked(DOING).is_err() {
            continue;
        }
        let written = link.within(DOING, write(&link, &mut channel, &event));
        if let Err(error) = written.await {
            tracing::debug!(%error, "event lost");
            channel = None;
        }
    }
}

async fn write(
    link: &Link,
    channel: &mut Option<Channel>,
    event: &JobEvent,
) -> Result<(), QueueError> {
    const DOING: &str = "publish an event";
    let channel = match channel {
        Some(channel) => channel,
        None => channel.insert(link.channel(DOING).await?),
    };
    let (properties, body) = message::event(event);
    let key = encode(&event.subject_id);
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(
        PROGRESS.into(),
        key.as_str().into(),
        options,
        &body,
        properties,
    );
    sent.await.map_err(unavailable(DOING))?;
    Ok(())
}
