//! What exists in RabbitMQ, and its names. Everything is declared by the code,
//! again at each new connection; docs/rabbitmq.md shows it as a whole.

use std::fmt::Write as _;

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use crate::{QueueError, Urgency};

/// Direct: word of jobs, by pool and urgency.
pub(super) const JOBS: &str = "nora.backup.jobs";
/// Direct: what nobody could use, by pool.
pub(super) const DEAD: &str = "nora.backup.dead";
/// Topic, gone with the broker: news of jobs, by subject.
pub(super) const PROGRESS: &str = "nora.backup.progress";
/// Topic: announcements to other services, by kind.
pub(super) const EVENTS: &str = "nora.backup.events";

/// How often a message is delivered before it counts as a dead letter.
const DELIVERIES_MAX: i32 = 20;
/// Messages in one queue of jobs; then publishing is `Unavailable`.
const JOBS_MAX: i32 = 1_000_000;
/// Dead letters that are kept; then the oldest go.
const DEAD_MAX: i32 = 100_000;
/// Events that wait for one process; then it loses the oldest.
const PROGRESS_MAX: i32 = 10_000;
/// Longest name that RabbitMQ takes.
const NAME_BYTES_MAX: usize = 255;

/// The queues of a pool.
#[derive(Clone, Debug)]
pub(super) struct PoolNames {
    manual: String,
    scheduled: String,
    pub(super) dead: String,
}

impl PoolNames {
    pub(super) fn new(pool: &str) -> Result<Self, QueueError> {
        let pool = encode(pool);
        let names = Self {
            manual: format!("{JOBS}.{pool}.manual"),
            scheduled: format!("{JOBS}.{pool}.scheduled"),
            dead: format!("{DEAD}.{pool}"),
        };
        if names.scheduled.len() > NAME_BYTES_MAX {
            return Err(QueueError::Malformed {
                message: format!("the name of the pool is too long for a queue ({pool})"),
            });
        }
        Ok(names)
    }

    /// The queue of an urgency; also the key by which it is reached.
    pub(super) fn jobs(&self, urgency: Urgency) -> &str {
        match urgency {
            Urgency::Manual => &self.manual,
            Urgency::Scheduled => &self.scheduled,
        }
    }
}

/// Text as a part of a name or a routing key: letters, digits, `-` and `_` as
/// they are, all else as `%` and two hex digits. No two texts give the same.
pub(super) fn encode(text: &str) -> String {
    if text.is_empty() {
        return "%".to_owned();
    }
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Declares the exchanges.
pub(super) async fn declare_exchanges(channel: &Channel) -> lapin::Result<()> {
    for (name, kind, durable) in [
        (JOBS, ExchangeKind::Direct, true),
        (DEAD, ExchangeKind::Direct, true),
        (EVENTS, ExchangeKind::Topic, true),
        (PROGRESS, ExchangeKind::Topic, false),
    ] {
        let options = ExchangeDeclareOptions {
            durable,
            ..ExchangeDeclareOptions::default()
        };
        channel
            .exchange_declare(name.into(), kind, options, FieldTable::default())
            .await?;
    }
    Ok(())
}

/// Declares the queues of a pool.
pub(super) async fn declare_pool(channel: &Channel, names: &PoolNames) -> lapin::Result<()> {
    let mut arguments = quorum();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(DEAD_MAX));
    declare(channel, &names.dead, DEAD, arguments).await?;
    for urgency in [Urgency::Manual, Urgency::Scheduled] {
        let mut arguments = quorum();
        arguments.insert(
            "x-delivery-limit".into(),
            AMQPValue::LongInt(DELIVERIES_MAX),
        );
        arguments.insert("x-dead-letter-exchange".into(), text(DEAD));
        arguments.insert("x-dead-letter-routing-key".into(), text(&names.dead));
        // A dead letter leaves its queue once the other has it; RabbitMQ does
        // so only for queues that refuse what is too much.
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(JOBS_MAX));
        declare(channel, names.jobs(urgency), JOBS, arguments).await?;
    }
    Ok(())
}

/// Declares a durable queue, reached by its own name.
async fn declare(
    channel: &Channel,
    queue: &str,
    exchange: &str,
    arguments: FieldTable,
) -> lapin::Result<()> {
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), options, arguments)
        .await?;
    bind(channel, queue, exchange, queue).await
}

/// Declares the queue of this process's events; answers its name.
pub(super) async fn declare_subscriber(channel: &Channel) -> lapin::Result<String> {
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(PROGRESS_MAX));
    arguments.insert("x-overflow".into(), text("drop-head"));
    let name = format!("{PROGRESS}.{}", uuid::Uuid::new_v4());
    channel
        .queue_declare(name.as_str().into(), options, arguments)
        .await?;
    Ok(name)
}

/// Lets what has a key come into a queue.
pub(super) async fn bind(
    channel: &Channel,
    queue: &str,
    exchange: &str,
    key: &str,
) -> lapin::Result<()> {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
}

/// Messages that wait in a queue, which must exist.
pub(super) async fn count(channel: &Channel, queue: &str) -> lapin::Result<u64> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await?;
    Ok(u64::from(queue.message_count()))
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_makes_a_name_of_its_own() {
        for (text, encoded) in [
            ("gpu-1_A", "gpu-1_A"),
            ("", "%"),
            ("%", "%25"),
            ("a.b", "a%2Eb"),
            ("#", "%23"),
            ("\u{fc}", "%C3%BC"),
        ] {
            assert_eq!(encode(text), encoded);
        }
    }

    #[test]
    fn a_name_too_long_is_refused() {
        assert!(PoolNames::new(&"p".repeat(64)).is_ok());
        let refused = PoolNames::new(&"p".repeat(300)).unwrap_err();
        assert!(!refused.is_retryable());
    }
}
