//! Messages that nobody can use: put aside, told once, seen by whoever looks after the
//! service; and work goes on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lapin::{BasicProperties, Connection, ConnectionProperties, options::BasicPublishOptions};
use prost::Message as _;
use proto::{
    backup::v1::{ListPoolsRequest, backup},
    queue::v1::JobMessage,
};
use services::{
    api::{Api, expect_state},
    fixture,
    fleet::{Fleet, Role, http_get},
    services::address,
};

const OWNER: &str = "user-1";
/// How long it may take until a server has looked at its pools.
const SEEN_WITHIN: Duration = Duration::from_secs(40);

/// What a message of ours is like.
fn ours() -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/x-protobuf".into())
        .with_type("nora.queue.v1.JobMessage".into())
}

fn message(version: u32, job_id: &str) -> Vec<u8> {
    let job_id = job_id.to_owned();
    JobMessage { version, job_id }.encode_to_vec()
}

/// Each with the words by which the worker's log tells it.
fn poison() -> Vec<(BasicProperties, Vec<u8>, &'static str)> {
    let plain = BasicProperties::default().with_content_type("text/plain".into());
    let mut cut = message(1, "01a20d3a-ed5e-7001-9a44-5be64cd64cf1");
    cut.truncate(cut.len() - 5);
    let unknown = message(1, "01a20d3a-ed5e-7001-9a44-000000000000");
    vec![
        (plain, b"hello".to_vec(), "its content type is"),
        (ours(), cut, "its body is no"),
        (ours(), message(77, "a-job"), "it has version 77"),
        (ours(), unknown, "job of a message is unknown"),
    ]
}

async fn publish(pool: &str, poison: Vec<(BasicProperties, Vec<u8>, &str)>) -> Result<()> {
    let url = address("NORA_TEST_AMQP_URL");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let key = format!("nora.backup.jobs.{pool}.manual");
    for (properties, body, _) in poison {
        let options = BasicPublishOptions::default();
        channel
            .basic_publish(
                "nora.backup.jobs".into(),
                key.as_str().into(),
                options,
                &body,
                properties,
            )
            .await?;
    }
    connection.close(200, "OK".into()).await?;
    Ok(())
}

#[tokio::test]
async fn poison_is_put_aside_told_once_and_seen() -> Result<()> {
    let fleet = Fleet::start("dead-letters", 1, 1).await?;
    fixture::random_files(&fleet.agent_dir("agent"), 1, 1_000, 1)?;
    fleet.register("agent", OWNER).await?;
    let mut user = fleet.user(0, OWNER).await?;
    expect_state(
        &user.complete_backup("agent").await?,
        backup::State::Completed,
    )?;

    publish(&fleet.pool, poison()).await?;
    // The queue goes on behind them.
    expect_state(
        &user.complete_backup("agent").await?,
        backup::State::Completed,
    )?;

    let server = &fleet.members[fleet.numbers(Role::Server)[0]];
    let worker = &fleet.members[fleet.numbers(Role::Worker)[0]];
    let count = poison().len();
    let deadline = Instant::now() + SEEN_WITHIN;
    let health = loop {
        let health = http_get(server.ops_port(), "/health").await?;
        if health.contains(&format!("\"dead_letters\":{count}")) {
            break health;
        }
        if Instant::now() > deadline {
            bail!("the server does not see them: {health}\n{}", worker.log());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    let note = format!("pool {} has {count} dead letters", fleet.pool);
    assert!(health.contains(&note), "{health}");
    let metrics = http_get(server.ops_port(), "/metrics").await?;
    let line = format!(
        "nora_backup_queue_dead_letters{{pool=\"{}\"}} {count}",
        fleet.pool
    );
    assert!(metrics.contains(&line), "{metrics}");
    let said = "messages of the queue that nobody could use are kept aside";
    assert_eq!(server.log().matches(said).count(), 1, "{}", server.log());
    for (_, _, words) in poison() {
        let log = worker.log();
        assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
    }

    let mut admin = Api::connect(&server.admin_url(), "root", "admin").await?;
    let listed = admin.admin.list_pools(ListPoolsRequest {}).await?;
    let pools = listed.into_inner().pools;
    let pool = pools.iter().find(|pool| pool.pool == fleet.pool);
    let pool = pool.context("the fleet's pool is listed")?;
    assert_eq!(pool.dead_letters, count as u64);
    assert_eq!((pool.workers, pool.manual_messages), (1, 0));
    Ok(())
}
