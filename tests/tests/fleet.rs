//! Servers and workers as processes of their own: what one begins another can
//! watch and finish, whoever dies.

use anyhow::Result;
use proto::backup::v1::{Backup, Phase, backup};
use services::{
    api::expect_state,
    fixture,
    fleet::{Fleet, Role, http_get},
    tree::{assert_same, describe},
};

const OWNER: &str = "user-1";

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
