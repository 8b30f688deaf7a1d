//! `fleet`: two servers and three workers for work by hand, until interrupted.
//!
//! Needs the services' addresses in its environment: `make fleet`.

use std::fs;

use anyhow::Result;
use services::{
    api, fixture,
    fleet::{Fleet, Role},
    place,
};

const OWNER: &str = "user-1";
const AGENT: &str = "my-agent";
const FILES: usize = 200;
const FILE_BYTES: usize = 1 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    let mut fleet = Fleet::start("fleet", 2, 3).await?;
    let root = fleet.agent_dir(AGENT);
    fs::create_dir_all(&root)?;
    fixture::random_files(&root, FILES, FILE_BYTES, 1)?;
    fleet.register(AGENT, OWNER).await?;

    for number in fleet.numbers(Role::Server) {
        let (pid, ops) = (
            fleet.members[number].pid(),
            fleet.members[number].ops_port(),
        );
        let url = fleet.members[number].url();
        println!(
            "server   {url}   health http://127.0.0.1:{ops}/health   pid {}",
            pid.unwrap_or_default()
        );
    }
    for number in fleet.numbers(Role::Worker) {
        let (pid, ops) = (
            fleet.members[number].pid(),
            fleet.members[number].ops_port(),
        );
        println!(
            "worker   health http://127.0.0.1:{ops}/health   pid {}",
            pid.unwrap_or_default()
        );
    }
    let program = place::program_named("nora-backup")?;
    let program = program.display();
    let urls = fleet.urls();
    println!(
        "\nThe agent {AGENT} of {OWNER}, {FILES} MiB, is registered in pool {}. In another shell:\n",
        fleet.pool
    );
    println!("export NORA_BACKUP_TOKEN={}", api::token(OWNER, "user"));
    println!("export NORA_BACKUP_SERVER={}", urls[0]);
    println!("{program} backup create {AGENT} --watch");
    println!("{program} --server {} backup list {AGENT}", urls[1]);
    println!("\nkill -9 whom you like. Ctrl-C ends it all.");

    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended?,
        _ = terminated.recv() => {}
    }
    for member in &mut fleet.members {
        if member.ended()?.is_none() && member.pid().is_some() {
            member.stop()?;
        }
    }
    Ok(())
}
