//! The SDKs against a fleet: each one's own tests, which make a backup, watch it,
//! list it and download it.

use std::fs;

use anyhow::{Context as _, Result};
use services::{api::token, fleet::Fleet, place};
use tokio::process::Command;

const OWNER: &str = "user-1";

#[tokio::test]
async fn the_python_sdk_makes_watches_and_downloads_a_backup() -> Result<()> {
    run("python").await
}

#[tokio::test]
async fn the_typescript_sdk_makes_watches_and_downloads_a_backup() -> Result<()> {
    run("typescript").await
}

async fn run(language: &str) -> Result<()> {
    let fleet = Fleet::start(&format!("sdk-{language}"), 1, 1).await?;
    let folder = fleet.agent_dir("agent");
    fs::create_dir_all(&folder)?;
    let program = place::workspace_dir().join("client-sdk/run");
    let output = Command::new(&program)
        .arg(language)
        .env("NORA_BACKUP_SERVER", &fleet.urls()[0])
        .env(
            "NORA_BACKUP_CONTROL_TOKEN",
            token("control-plane", "service"),
        )
        .env("NORA_BACKUP_TOKEN", token(OWNER, "user"))
        .env("NORA_BACKUP_OWNER", OWNER)
        .env("NORA_BACKUP_POOL", &fleet.pool)
        .env("NORA_BACKUP_AGENT_DIR", &folder)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("run {}", program.display()))?;
    assert!(
        output.status.success(),
        "client-sdk/run {language}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
