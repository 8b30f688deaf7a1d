//! Schedules and retention through the real program.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use services::{cli::Cli, fixture, standalone::Standalone};

const OWNER: &str = "user-1";
const PATIENCE: Duration = Duration::from_secs(30);

async fn with_agent(name: &str) -> Result<Standalone> {
    let mut standalone = Standalone::prepare(name)?
        .with_env("NORA_BACKUP_SCHEDULE_POLL_MS", "100")
        .with_env("NORA_BACKUP_LIMIT_PER_AGENT", "2");
    let root = standalone.agent_dir("agent");
    fixture::random_files(&root, 2, 1 << 10, 1)?;
    standalone.launch().await?;
    let mut control = standalone.control_plane().await?;
    control.register_directory("agent", OWNER, &root).await?;
    Ok(standalone)
}

/// Asks until the answer is as wanted: there is no stream of schedules to wait for.
async fn until(cli: &Cli, arguments: &[&str], wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let begun = Instant::now();
    loop {
        let answer = cli.json(arguments)?;
        if wanted(&answer) {
            return Ok(answer);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{arguments:?} still says {answer}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_schedule_runs_at_once_and_says_when_it_runs_next() -> Result<()> {
    let standalone = with_agent("schedule-runs").await?;
    let cli = Cli::new(&standalone, OWNER, "user");
    let set = ["schedule", "set", "agent", "--daily", "--retain", "3"];
    cli.json(&set)?;
    let schedule = until(&cli, &["schedule", "show", "agent"], |schedule| {
        !schedule["last_success_time"].is_null()
    })
    .await?;
    ensure!(!schedule["next_run_time"].is_null(), "{schedule}");
    let backup_id = schedule["last_success_backup_id"].as_str().context("id")?;
    let backup = cli.json(&["backup", "show", backup_id])?;
    ensure!(backup["trigger"] == "TRIGGER_SCHEDULE", "{backup}");

    // Nobody else's to see, change or remove.
    let stranger = Cli::new(&standalone, "user-2", "user");
    for arguments in [
        &["schedule", "show", "agent"][..],
        &set[..],
        &["schedule", "delete", "agent"],
        &["schedule", "retention", "agent"],
    ] {
        let refused = stranger.run(arguments)?;
        let said = services::cli::said(&refused);
        ensure!(!refused.status.success(), "{said}");
        ensure!(said.contains("does not exist"), "{said}");
    }
    cli.ok(&["schedule", "delete", "agent"])?;
    Ok(())
}

#[tokio::test]
async fn retention_prunes_and_leaves_protected_backups() -> Result<()> {
    let standalone = with_agent("schedule-prunes").await?;
    let cli = Cli::new(&standalone, OWNER, "user");
    let mut user = standalone.user(OWNER).await?;
    let first = user.complete_backup("agent").await?.backup_id;
    // Named as everywhere else.
    cli.ok(&["backup", "protect", "agent@latest"])?;
    for _ in 0..2 {
        user.complete_backup("agent").await?;
    }
    let refused = cli.run(&["backup", "delete", &first, "--yes"])?;
    ensure!(!refused.status.success(), "a protected backup was deleted");
    let kept = cli.json(&["schedule", "retention", "agent"])?;
    ensure!(kept["removals"] == serde_json::json!([]), "{kept}");

    cli.ok(&["backup", "protect", &first, "--undo"])?;
    let pruned = until(&cli, &["schedule", "retention", "agent"], |answer| {
        answer["removed"] != serde_json::json!([])
    })
    .await?;
    ensure!(pruned["removed"][0]["backup_id"] == first.as_str());
    ensure!(pruned["removed"][0]["rule"] == "REMOVAL_RULE_LIMIT");
    Ok(())
}
