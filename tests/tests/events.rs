//! What other services hear on the exchange of events: the ends of jobs, and how full
//! the storage is, as CloudEvents.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use lapin::{
    Channel, Connection, ConnectionProperties, Consumer,
    options::{
        BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{FieldTable, ShortString},
};
use proto::backup::v1::{DeleteBackupRequest, backup};
use serde_json::Value;
use services::{api::expect_state, fixture, fleet::Fleet, services::address};

const OWNER: &str = "user-1";
const EXCHANGE: &str = "nora.backup.events";
/// How long an event may take: servers look every second at what is to be told.
const HEARD_WITHIN: Duration = Duration::from_secs(40);

/// Binds a queue of the test's own to a few kinds of events.
async fn listen(channel: &Channel, kinds: &[&str]) -> Result<Consumer> {
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare("".into(), options, FieldTable::default())
        .await?;
    let name = queue.name();
    for kind in kinds {
        let options = QueueBindOptions::default();
        channel
            .queue_bind(
                name.clone(),
                EXCHANGE.into(),
                (*kind).into(),
                options,
                FieldTable::default(),
            )
            .await?;
    }
    Ok(channel
        .basic_consume(
            name.clone(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?)
}

/// The events heard until there is one of each kind, by their kind.
async fn hear(
    events: &mut Consumer,
    kinds: &[&str],
    is_ours: impl Fn(&Value) -> bool,
) -> Result<BTreeMap<String, Value>> {
    let mut heard = BTreeMap::new();
    while heard.len() < kinds.len() {
        let delivery = tokio::time::timeout(HEARD_WITHIN, events.next())
            .await
            .with_context(|| format!("heard only {:?}", heard.keys()))?
            .context("the consumer ended")??;
        delivery.ack(BasicAckOptions::default()).await?;
        let event: Value = serde_json::from_slice(&delivery.data)?;
        let kind = event["type"].as_str().context("a type")?.to_owned();
        assert_eq!(delivery.routing_key.as_str(), kind);
        assert_eq!(event["specversion"], "1.0", "{event}");
        assert_eq!(event["source"], "/nora/backup", "{event}");
        let message_id = delivery.properties.message_id().as_ref();
        assert_eq!(event["id"].as_str(), message_id.map(ShortString::as_str));
        if is_ours(&event) && kinds.contains(&&*kind) {
            heard.insert(kind, event);
        }
    }
    Ok(heard)
}

#[tokio::test]
async fn other_services_hear_how_jobs_end_and_how_full_the_storage_is() -> Result<()> {
    const KINDS: [&str; 3] = [
        "nora.backup.v1.backup.completed",
        "nora.backup.v1.deletion.completed",
        "nora.backup.v1.storage.reached_100",
    ];
    let fleet = Fleet::prepare("events", 2, 1).await?;
    let mut fleet = fleet
        .with_env("NORA_BACKUP_STORAGE_MB", "1")
        .with_env("NORA_BACKUP_SCHEDULE_POLL_MS", "1000");
    fixture::random_files(&fleet.agent_dir("agent"), 2, 1 << 20, 1)?;
    fleet.launch().await?;
    fleet.register("agent", OWNER).await?;
    let url = address("NORA_TEST_AMQP_URL");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    // Servers have declared it: another declaration of other properties would be refused.
    let passive = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(
            EXCHANGE.into(),
            lapin::ExchangeKind::Topic,
            passive,
            FieldTable::default(),
        )
        .await?;
    let mut events = listen(&channel, &KINDS).await?;

    let mut user = fleet.user(0, OWNER).await?;
    let first = user.complete_backup("agent").await?;
    expect_state(&first, backup::State::Completed)?;
    // Over the limit: told, and backups go on all the same.
    let level = "nora.backup.v1.storage.reached_100";
    let heard = hear(&mut events, &[KINDS[0], level], |event| {
        event["type"] == level || event["subject"] == *first.backup_id
    })
    .await?;
    let data = &heard[KINDS[0]]["data"];
    assert_eq!(data["agentId"], "agent", "{data}");
    assert_eq!(data["ownerId"], OWNER, "{data}");
    assert_eq!(data["sizeBytes"], 2 << 20, "{data}");
    let data = &heard[level]["data"];
    assert_eq!(data["limitBytes"], 1 << 20, "{data}");
    assert!(data["storedBytes"].as_u64() >= Some(2 << 20), "{data}");
    let second = user.complete_backup("agent").await?;
    expect_state(&second, backup::State::Completed)?;

    let backup_id = first.backup_id.clone();
    let request = DeleteBackupRequest { backup_id };
    user.backups.delete_backup(request).await?;
    let heard = hear(&mut events, &[KINDS[1]], |event| {
        event["subject"] == *first.backup_id
    })
    .await?;
    assert_eq!(heard[KINDS[1]]["data"]["state"], "completed");
    connection.close(200, "OK".into()).await?;
    Ok(())
}
