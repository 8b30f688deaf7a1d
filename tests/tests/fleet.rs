//! Servers and workers as processes of their own: what one begins another can
//! watch and finish, whoever dies.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use proto::backup::v1::{Backup, Phase, backup};
use sea_orm::{ConnectionTrait as _, Database, DatabaseBackend, Statement};
use services::{
    api::expect_state,
    fixture,
    fleet::{Fleet, Role, http_get},
    tree::{assert_same, describe},
};

const OWNER: &str = "user-1";
/// How long a frozen process may keep others from a row.
const HELD_UP_MAX: Duration = Duration::from_secs(30);
/// How long a server may take to stop while a call of it waits for a row.
const STOP_MAX: Duration = Duration::from_secs(20);

fn is_moving(backup: &Backup) -> bool {
    backup
        .progress
        .as_ref()
        .is_some_and(|progress| progress.phase() == Phase::Transferring && progress.bytes_done > 0)
}

#[tokio::test]
async fn a_backup_is_watched_through_any_server_and_outlives_its_worker_and_a_server() -> Result<()>
{
    let fleet = Fleet::prepare("fleet-kill", 2, 3).await?;
    let mut fleet = fleet.with_env("FAILPOINTS", "vault-pack-stored=sleep(100)");
    let root = fleet.agent_dir("agent");
    fixture::every_kind(&root)?;
    fixture::random_files(&root.join("bulk"), 40, 4 << 20, 1)?;
    fleet.launch().await?;
    fleet.register("agent", OWNER).await?;

    let created = fleet.user(0, OWNER).await?.create_backup("agent").await?;
    let mut other = fleet.user(1, OWNER).await?;
    let seen = other.watch_backup(&created.backup_id, is_moving).await?;
    expect_state(&seen, backup::State::Running)?;
    // The worker that has it, and the server that took it.
    let workers = fleet.numbers(Role::Worker);
    let begun = |log: String| log.contains("job begun");
    let busy = workers
        .into_iter()
        .find(|number| begun(fleet.members[*number].log()));
    fleet.members[busy.expect("a worker has begun")].kill()?;
    fleet.members[0].kill()?;

    let ended = other.watch_backup(&created.backup_id, |_| false).await?;
    expect_state(&ended, backup::State::Completed)?;
    assert!(
        ended
            .progress
            .as_ref()
            .is_some_and(|progress| progress.attempt == 2)
    );
    fleet.launch().await?;
    let target = fleet.agent_dir("restored");
    other
        .restore_directory(&ended.backup_id, "agent-2", &target)
        .await?;
    assert_same(&describe(&root)?, &describe(&target)?);
    Ok(())
}

/// Returns when a session stays in the middle of a transaction.
async fn in_transaction(fleet: &Fleet) -> Result<()> {
    wait_until(
        fleet,
        "state = 'idle in transaction' AND clock_timestamp() - state_change > interval '300 ms'",
    )
    .await
}

/// Returns when PostgreSQL tells this of a session of the fleet.
async fn wait_until(fleet: &Fleet, condition: &str) -> Result<()> {
    let database = Database::connect(&fleet.env()["NORA_BACKUP_DATABASE_URL"]).await?;
    let sessions = format!(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
    );
    let begun = Instant::now();
    loop {
        let sessions = Statement::from_string(DatabaseBackend::Postgres, &sessions);
        if database.query_one_raw(sessions).await?.is_some() {
            return Ok(());
        }
        ensure!(begun.elapsed() < HELD_UP_MAX, "no session: {condition}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A frozen process may hold rows locked: only as long as PostgreSQL lets it.
#[tokio::test]
async fn a_frozen_server_holds_nobody_up_for_long() -> Result<()> {
    let fleet = Fleet::prepare("fleet-frozen", 2, 1).await?;
    let mut fleet = fleet.with_env("NORA_BACKUP_SERVER_DRAIN_MS", "1000");
    // Stops in the middle of its transaction, with the agent's row locked.
    fleet.members[0].set_env("FAILPOINTS", "catalog-before-commit-create-backup=pause");
    fixture::random_files(&fleet.agent_dir("agent"), 1, 1_000, 1)?;
    fleet.launch().await?;
    fleet.register("agent", OWNER).await?;
    let mut frozen = fleet.user(0, OWNER).await?;
    let mut other = fleet.user(1, OWNER).await?;
    let stuck = tokio::spawn(async move { frozen.create_backup("agent").await });
    in_transaction(&fleet).await?;
    let begun = Instant::now();
    // First it waits, then it is told to come again, then it is served.
    let created = loop {
        match other.create_backup("agent").await {
            Ok(created) => break created,
            Err(error) => {
                let said = format!("{error:#}");
                assert!(said.contains("the database did not answer"), "{said}");
                assert!(begun.elapsed() < HELD_UP_MAX, "{}", fleet.logs());
            }
        }
    };
    assert!(
        begun.elapsed() > Duration::from_secs(1),
        "nothing was locked"
    );
    let ended = other.watch_backup(&created.backup_id, |_| false).await?;
    expect_state(&ended, backup::State::Completed)?;
    stuck.abort();

    // Who waits for such a row stops in time all the same.
    fleet.members[0].kill()?;
    fleet.launch().await?;
    let mut frozen = fleet.user(0, OWNER).await?;
    let stuck = tokio::spawn(async move { frozen.create_backup("agent").await });
    in_transaction(&fleet).await?;
    let waiting = tokio::spawn(async move { other.create_backup("agent").await });
    wait_until(&fleet, "wait_event_type = 'Lock'").await?;
    let told = Instant::now();
    let status = fleet.members[1].stop()?;
    assert!(status.success(), "{status}");
    assert!(told.elapsed() < STOP_MAX, "it took {:?}", told.elapsed());
    stuck.abort();
    waiting.abort();
    Ok(())
}

#[tokio::test]
async fn servers_and_workers_stop_when_told_and_say_how_they_are() -> Result<()> {
    let mut fleet = Fleet::start("fleet-stop", 2, 1).await?;
    for number in 0..3 {
        let port = fleet.members[number].ops_port();
        let health = http_get(port, "/health").await?;
        assert!(health.contains("\"database\""), "{health}");
        assert!(http_get(port, "/livez").await?.starts_with("HTTP/1.1 200"));
        assert!(http_get(port, "/readyz").await?.starts_with("HTTP/1.1 200"));
        let metrics = http_get(port, "/metrics").await?;
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    }
    for member in &mut fleet.members {
        let status = member.stop()?;
        assert!(status.success(), "{status}: {}", member.log());
    }
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_setting_is_said_in_one_line_without_passwords() -> Result<()> {
    let database = services::services::address("NORA_TEST_POSTGRES_URL");
    let amqp = services::services::address("NORA_TEST_AMQP_URL");
    let spoiled = |url: &str| {
        let (before, rest) = url.split_once("://").expect("a URL");
        let (credentials, host) = rest.split_once('@').expect("credentials");
        let user = credentials.split(':').next().expect("a user");
        format!("{before}://{user}:hunter2@{host}")
    };
    let nowhere = "127.0.0.1:1";
    for (variable, value, code) in [
        ("NORA_BACKUP_DATABASE_URL", String::new(), 2),
        ("NORA_BACKUP_DATABASE_URL", spoiled(&database), 2),
        (
            "NORA_BACKUP_DATABASE_URL",
            format!("postgres://u:hunter2@{nowhere}/x"),
            5,
        ),
        ("NORA_BACKUP_AMQP_URL", String::new(), 2),
        ("NORA_BACKUP_AMQP_URL", spoiled(&amqp), 2),
        (
            "NORA_BACKUP_AMQP_URL",
            format!("amqp://u:hunter2@{nowhere}/x"),
            5,
        ),
        ("NORA_BACKUP_ENCRYPTION_KEY", "hunter2".to_owned(), 2),
    ] {
        for role in [Role::Server, Role::Worker] {
            let fleet = Fleet::prepare("fleet-wrong", 1, 1).await?;
            let mut fleet = fleet.with_env(variable, value.clone());
            let number = fleet.numbers(role)[0];
            fleet.spawn(number)?;
            let status = fleet.members[number].wait_for_end()?;
            let log = fleet.members[number].log();
            assert_eq!(status.code(), Some(code), "{variable}: {log}");
            let last = log.lines().last().unwrap_or_default();
            assert!(last.contains(variable), "{variable}: {log}");
            assert!(!log.contains("hunter2"), "{variable}: {log}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() -> Result<()> {
    let mut fleet = Fleet::start("fleet-newer", 1, 1).await?;
    for member in &mut fleet.members {
        member.stop()?;
    }
    let url = &fleet.env()["NORA_BACKUP_DATABASE_URL"];
    let database = Database::connect(url).await?;
    let change = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m2099_future', 0)";
    database.execute_unprepared(change).await?;
    for number in 0..fleet.members.len() {
        fleet.spawn(number)?;
        let status = fleet.members[number].wait_for_end()?;
        let log = fleet.members[number].log();
        assert_eq!(status.code(), Some(2), "{log}");
        let last = log.lines().last().unwrap_or_default();
        for words in ["NORA_BACKUP_DATABASE_URL", "newer version", "m2099_future"] {
            assert!(last.contains(words), "{log}");
        }
    }
    Ok(())
}
