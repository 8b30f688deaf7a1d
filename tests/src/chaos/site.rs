//! Where it happens: private services, a fleet on them, and agents.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use super::Options;
use crate::{
    fleet::{Fleet, LEASE_MS},
    place,
    services::Services,
    tree::{Tree, describe},
};

/// Whose agents they are.
pub(super) const OWNER: &str = "user-1";
const SERVERS: usize = 2;
const WORKERS: usize = 3;
/// Where processes linger now and then, so that faults meet them there.
const LINGER: &str = "vault-pack-stored=60%sleep(300);vault-before-manifest=30%sleep(200);\
    vault-manifest-stored=30%sleep(200);worker-before-ack=20%sleep(100);\
    worker-claimed=20%sleep(100);worker-backup-completed=20%sleep(100);\
    worker-restore-before-mark=20%sleep(300);worker-restore-completed=40%sleep(300);\
    worker-compact-completed=20%sleep(200);announcer-before-mark=20%sleep(100);\
    worker-committed=30%sleep(300);worker-restore-written=40%sleep(300);\
    worker-restore-before-rename=40%sleep(300);worker-restore-published=40%sleep(300);\
    worker-manifests-deleted=30%sleep(200);compact-index-stored=30%sleep(200);\
    compact-index-removed=30%sleep(200);compact-pack-removed=20%sleep(100);\
    dispatcher-before-publish=10%sleep(50);dispatcher-before-mark=20%sleep(100)";
/// Files of an agent, and the most that one holds.
const FILES: u32 = 12;
const FILE_BYTES_MAX: usize = 512 << 10;

/// Services, fleet and agents of one run.
pub(super) struct Site {
    pub(super) fleet: Fleet,
    pub(super) services: Arc<Services>,
    pub(super) agents: Vec<AgentFolder>,
    addresses: BTreeMap<String, String>,
    scratch: tempfile::TempDir,
}

/// An agent and its folder.
#[derive(Clone)]
pub(super) struct AgentFolder {
    pub(super) name: String,
    root: PathBuf,
}

impl Site {
    /// Starts everything.
    pub(super) async fn start(options: &Options) -> Result<Self> {
        let scratch = place::scratch("chaos-services");
        let services = Arc::new(Services::at(scratch.path().to_path_buf()));
        let starting = services.clone();
        tokio::task::spawn_blocking(move || starting.up_only(&["postgresql", "rabbitmq"]))
            .await??;
        let addresses = services.env()?;
        let begun = Self::start_fleet(options, &addresses).await;
        let (fleet, agents) = match begun {
            Ok(begun) => begun,
            Err(cause) => {
                services.down()?;
                return Err(cause);
            }
        };
        Ok(Self {
            fleet,
            services,
            agents,
            addresses,
            scratch,
        })
    }

    async fn start_fleet(
        options: &Options,
        addresses: &BTreeMap<String, String>,
    ) -> Result<(Fleet, Vec<AgentFolder>)> {
        let fleet = Fleet::prepare_on(addresses, "chaos", SERVERS, WORKERS).await?;
        let mut fleet = fleet
            .with_env("FAILPOINTS", LINGER)
            // Enough for the bytes at hand: a debug build is slow to draw more.
            .with_env("NORA_BACKUP_VAULT_THREADS", "2")
            // The check counts every acknowledged backup: no rule may take one.
            .with_env("NORA_BACKUP_LIMIT_PER_AGENT", "1000");
        fleet.launch().await?;
        let mut agents = Vec::new();
        for number in 0..options.agents {
            let name = format!("agent-{number}");
            let folder = AgentFolder {
                root: fleet.agent_dir(&name),
                name,
            };
            fs::create_dir_all(&folder.root)?;
            fleet.register(&folder.name, OWNER).await?;
            agents.push(folder);
        }
        Ok((fleet, agents))
    }

    /// How long a lease is.
    pub(super) fn lease() -> std::time::Duration {
        std::time::Duration::from_millis(LEASE_MS)
    }

    /// An address of a service.
    pub(super) fn address(&self, variable: &str) -> Result<&str> {
        let found = self.addresses.get(variable);
        found
            .map(String::as_str)
            .with_context(|| format!("{variable} is not known"))
    }

    /// What rabbitmqctl answers.
    pub(super) async fn rabbitmqctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.address("NORA_TEST_RABBITMQCTL")?);
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        ensure!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Processes that ended without being told to, each in words.
    pub(super) fn exits(&mut self) -> Result<Vec<String>> {
        let mut exits = Vec::new();
        for member in &mut self.fleet.members {
            if let Some(status) = member.ended()? {
                let log = member.log();
                let last = log.lines().last().unwrap_or_default();
                exits.push(format!("{} ended, {status}: {last}", member.name()));
            }
        }
        Ok(exits)
    }

    /// Kills a service and starts it again, with a pause in between.
    pub(super) async fn bounce(&self, name: &'static str, away: std::time::Duration) -> Result<()> {
        let services = self.services.clone();
        tokio::task::spawn_blocking(move || services.kill(name)).await??;
        tokio::time::sleep(away).await;
        let services = self.services.clone();
        tokio::task::spawn_blocking(move || services.restart(name)).await?
    }

    /// Copies what processes and services have said into a folder.
    pub(super) fn keep_logs(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        for member in &self.fleet.members {
            fs::write(folder.join(format!("{}.log", member.name())), member.log())?;
        }
        for service in ["postgresql", "rabbitmq"] {
            let log = self.scratch.path().join(service).join("log");
            fs::copy(log, folder.join(format!("{service}.log")))?;
        }
        Ok(())
    }

    /// Stops everything.
    pub(super) async fn stop(self) -> Result<()> {
        drop(self.fleet);
        let services = self.services;
        tokio::task::spawn_blocking(move || services.down()).await?
    }
}

impl AgentFolder {
    /// Changes the folder somehow; returns what it is then. Only while no backup
    /// of the agent goes on.
    pub(super) fn edit(&self, seed: u64) -> Result<Tree> {
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..random.random_range(1..=4) {
            let number = random.random_range(0..FILES);
            let folder = self.root.join(format!("part-{}", number % 3));
            fs::create_dir_all(&folder)?;
            let path = folder.join(format!("file-{number}"));
            match random.random_range(0..6) {
                0 if path.exists() => fs::remove_file(&path)?,
                1 if path.exists() => {
                    // A few bytes in the middle of what is there.
                    let mut bytes = fs::read(&path)?;
                    let middle = bytes.len() / 2;
                    let end = bytes.len().min(middle + 64);
                    random.fill_bytes(&mut bytes[middle..end]);
                    fs::write(&path, bytes)?;
                }
                _ => {
                    let mut bytes = vec![0; random.random_range(0..FILE_BYTES_MAX)];
                    random.fill_bytes(&mut bytes);
                    fs::write(&path, bytes)?;
                }
            }
        }
        describe(&self.root)
    }
}
