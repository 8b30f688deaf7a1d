//! Measures a fleet: how soon work begins, how many small backups it makes a
//! second, what many watchers cost, and how it comes back after its broker or its
//! database was away. Prints one JSON row a figure; `make bench` calls it. Names of parts
//! (begins, small, watchers, broker, database) as arguments: only those.

use std::{
    env, fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use proto::backup::v1::{WatchBackupRequest, backup};
use serde_json::Value;
use services::{
    api::{Api, expect_state},
    bench::{parts, row},
    fixture,
    fleet::{Fleet, Role},
    services::Services,
};

const OWNER: &str = "user-1";
/// Backups whose begin is timed.
const BEGINS: usize = 200;
/// Small agents, each with this many bytes.
const SMALL_AGENTS: usize = 400;
const SMALL_BYTES: usize = 1 << 20;
/// Watchers, over this many connections, of this many jobs.
const WATCHERS: usize = 2_000;
const WATCHERS_A_CONNECTION: usize = 100;
const WATCHED_JOBS: usize = 20;
const WATCHED_BYTES: usize = 24 << 20;
/// Calls at the same time.
const AT_ONCE: usize = 32;
const MIB: f64 = 1024.0 * 1024.0;

#[tokio::main]
async fn main() -> Result<()> {
    let away = env::var("AWAY_SECONDS").map_or(Ok(60), |text| text.parse())?;
    let away = Duration::from_secs(away);
    let mut rows = Vec::new();
    for part in parts(&["begins", "small", "watchers", "broker", "database"]) {
        match part.as_str() {
            "begins" => rows.push(begins().await?),
            "small" => rows.push(small().await?),
            "watchers" => rows.extend(watchers().await?),
            "broker" => rows.push(outage("rabbitmq", "broker", away).await?),
            "database" => rows.push(outage("postgresql", "database", away).await?),
            other => bail!("{other}: there is no such part"),
        }
    }
    println!("{}", serde_json::to_string_pretty(&rows)?);
    Ok(())
}

/// From the call of CreateBackup to the first event that says RUNNING, or more.
async fn begins() -> Result<Value> {
    // No rule removes backups meanwhile: an agent has one job at a time, and idle means idle.
    let fleet = Fleet::prepare("bench-begins", 2, 2).await?;
    let mut fleet = fleet.with_env("NORA_BACKUP_LIMIT_PER_AGENT", "0");
    fleet.launch().await?;
    let root = fleet.agent_dir("agent");
    fixture::random_files(&root, 1, 1_000, 1)?;
    fleet.register("agent", OWNER).await?;
    let mut user = fleet.user(0, OWNER).await?;
    user.complete_backup("agent").await?;
    let mut taken = Vec::new();
    for _ in 0..BEGINS {
        let asked = Instant::now();
        let created = user.create_backup("agent").await?;
        let begun = |backup: &proto::backup::v1::Backup| backup.state() != backup::State::Pending;
        user.watch_backup(&created.backup_id, begun).await?;
        taken.push(asked.elapsed());
        user.watch_backup(&created.backup_id, |_| false).await?;
    }
    taken.sort();
    let at = |share: usize| taken[taken.len() * share / 100].as_secs_f64() * 1e3;
    eprintln!(
        "fleet-bench: begin p50 {:.1} ms, p99 {:.1} ms",
        at(50),
        at(99)
    );
    Ok(row(
        "CreateBackup to RUNNING on an idle fleet, p99",
        at(99),
        "ms",
        "< 100",
        at(99) < 100.0,
    ))
}

/// Many agents of 1 MiB, two workers.
async fn small() -> Result<Value> {
    let fleet = Fleet::start("bench-small", 2, 2).await?;
    let fleet = &fleet;
    let names: Vec<String> = (0..SMALL_AGENTS).map(|n| format!("agent-{n}")).collect();
    for (number, name) in names.iter().enumerate() {
        fixture::random_files(&fleet.agent_dir(name), 4, SMALL_BYTES / 4, number as u64)?;
    }
    stream::iter(&names)
        .map(|name| fleet.register(name, OWNER))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    let users = [fleet.user(0, OWNER).await?, fleet.user(1, OWNER).await?];
    let begun = Instant::now();
    stream::iter(names.iter().enumerate())
        .map(|(number, name)| {
            let mut user = users[number % 2].clone();
            async move {
                let created = user.create_backup(name).await?;
                let ended = user.watch_backup(&created.backup_id, |_| false).await?;
                expect_state(&ended, backup::State::Completed)
            }
        })
        .buffer_unordered(SMALL_AGENTS)
        .try_collect::<Vec<_>>()
        .await?;
    let rate = SMALL_AGENTS as f64 / begun.elapsed().as_secs_f64();
    eprintln!("fleet-bench: {rate:.1} small backups a second");
    Ok(row(
        "small backups (1 MiB agents) over 2 workers",
        rate,
        "a second",
        ">= 50",
        rate >= 50.0,
    ))
}

/// Many watchers on few jobs.
async fn watchers() -> Result<Vec<Value>> {
    let fleet = Fleet::start("bench-watchers", 2, 2).await?;
    let names: Vec<String> = (0..WATCHED_JOBS).map(|n| format!("agent-{n}")).collect();
    for (number, name) in names.iter().enumerate() {
        let seed = number as u64;
        fixture::random_files(&fleet.agent_dir(name), 6, WATCHED_BYTES / 6, seed)?;
        fleet.register(name, OWNER).await?;
    }
    let mut connections = Vec::new();
    for number in 0..WATCHERS / WATCHERS_A_CONNECTION {
        connections.push(fleet.user(number % 2, OWNER).await?);
    }
    let mut ids = Vec::new();
    for name in &names {
        ids.push(connections[0].create_backup(name).await?.backup_id);
    }
    let watching = (0..WATCHERS).map(|number| {
        let mut user = connections[number % connections.len()].clone();
        let backup_id = ids[number % ids.len()].clone();
        async move { last_state(&mut user, backup_id).await }
    });
    let ends = futures::future::join_all(watching).await;
    let mut wrong = 0;
    for end in ends {
        match end {
            Ok(backup::State::Completed) => {}
            other => {
                wrong += 1;
                eprintln!("fleet-bench: a watch ended with {other:?}");
            }
        }
    }
    let mut rss = 0;
    for number in fleet.numbers(Role::Server) {
        rss = rss.max(fleet.members[number].peak_rss_bytes()?);
    }
    let rss = rss as f64 / MIB;
    eprintln!("fleet-bench: {wrong} of {WATCHERS} watchers wrong, a server took {rss:.0} MiB");
    Ok(vec![
        row(
            "2,000 watchers over 2 servers: not ended with the truth",
            f64::from(wrong),
            "watchers",
            "= 0",
            wrong == 0,
        ),
        row(
            "2,000 watchers over 2 servers: peak RSS of a server",
            rss,
            "MiB",
            "< 300",
            rss < 300.0,
        ),
    ])
}

async fn last_state(user: &mut Api, backup_id: String) -> Result<backup::State> {
    let request = WatchBackupRequest { backup_id };
    let mut events = user.backups.watch_backup(request).await?.into_inner();
    let mut last = None;
    while let Some(event) = events.message().await? {
        last = event.backup;
    }
    Ok(last
        .context("a watch begins with the present state")?
        .state())
}

/// A service is away for a while: nothing ends, and work goes on by itself.
async fn outage(service: &str, what: &str, away: Duration) -> Result<Value> {
    let services = Services::here()?;
    let mut fleet = Fleet::start("bench-outage", 2, 2).await?;
    let root = fleet.agent_dir("agent");
    fixture::random_files(&root, 2, 1 << 20, 1)?;
    fleet.register("agent", OWNER).await?;
    let mut user = fleet.user(1, OWNER).await?;
    user.complete_backup("agent").await?;
    services.kill(service)?;
    let asked = user.create_backup("agent").await;
    tokio::time::sleep(away).await;
    services.restart(service)?;
    let back = Instant::now();
    let backup_id = match asked {
        // The database had it before; the broker is not asked.
        Ok(created) => created.backup_id,
        Err(error) => {
            eprintln!("fleet-bench: while the {what} was away: {error:#}");
            loop {
                match user.create_backup("agent").await {
                    Ok(created) => break created.backup_id,
                    Err(error) if back.elapsed() > Duration::from_mins(1) => bail!(error),
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        }
    };
    let ended = user.watch_backup(&backup_id, |_| false).await?;
    expect_state(&ended, backup::State::Completed)?;
    let took = back.elapsed().as_secs_f64();
    for member in &mut fleet.members {
        ensure!(
            member.ended()?.is_none(),
            "a process ended:\n{}",
            member.log()
        );
    }
    let _ = fs::metadata(fleet.destination())?;
    eprintln!("fleet-bench: {what} away: work had gone on {took:.1} s after its return");
    Ok(row(
        &format!(
            "{what} away for {} s: work goes on after its return",
            away.as_secs()
        ),
        took,
        "s",
        "< 10",
        took < 10.0,
    ))
}
