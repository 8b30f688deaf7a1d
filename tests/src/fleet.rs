//! A fleet: servers and workers as processes of their own, on a fresh PostgreSQL
//! database, RabbitMQ, and one destination folder that all share.
//!
//! Its agents belong to a pool of its own, so that fleets of different tests do
//! not take each other's jobs.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use proto::backup::v1::{Agent, DirectorySource, Source, source};
use rustix::process::{Pid, Signal, kill_process};
use sea_orm::{ConnectionTrait as _, Database};

use crate::{
    api::{Api, JWT_SECRET},
    place,
    services::address,
    standalone::KEY,
};

/// How long a start may take.
const READY_MAX: Duration = Duration::from_mins(1);
/// How often something is looked at that cannot be waited for.
const LOOK: Duration = Duration::from_millis(20);
/// How long a stop may take.
const STOP_MAX: Duration = Duration::from_mins(1);
/// Short, so that work goes on soon after a kill.
pub const LEASE_MS: u64 = 3_000;

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `nora-backup-server`.
    Server,
    /// `nora-backup-worker`.
    Worker,
}

impl Role {
    fn program(self) -> &'static str {
        match self {
            Self::Server => "nora-backup-server",
            Self::Worker => "nora-backup-worker",
        }
    }
}

/// One process of a fleet.
pub struct Member {
    /// What it does.
    pub role: Role,
    name: String,
    port: u16,
    admin_port: u16,
    ops_port: u16,
    log: PathBuf,
    env: BTreeMap<String, String>,
    running: Option<Child>,
}

/// Servers, workers, and what they share.
pub struct Fleet {
    /// The pool of its agents.
    pub pool: String,
    /// Servers, then workers.
    pub members: Vec<Member>,
    env: BTreeMap<String, String>,
    scratch: tempfile::TempDir,
}

impl Fleet {
    /// Prepares one with a database of its own, without starting anything.
    pub async fn prepare(name: &str, servers: usize, workers: usize) -> Result<Self> {
        let addresses = ["NORA_TEST_POSTGRES_URL", "NORA_TEST_AMQP_URL"]
            .map(|variable| (variable.to_owned(), address(variable)));
        Self::prepare_on(&addresses.into(), name, servers, workers).await
    }

    /// The same on services of these addresses, as `Services::env` tells them.
    pub async fn prepare_on(
        addresses: &BTreeMap<String, String>,
        name: &str,
        servers: usize,
        workers: usize,
    ) -> Result<Self> {
        let address = |variable: &str| {
            let found = addresses.get(variable).cloned();
            found.with_context(|| format!("{variable} is not known: does the service run?"))
        };
        let scratch = place::scratch(name);
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let pool = format!("pool-{}", &unique[..12]);
        let destination = scratch.path().join("destination");
        let agents = scratch.path().join("agents");
        for folder in [&destination, &agents] {
            fs::create_dir_all(folder)?;
        }
        let database = fresh_database(
            &address("NORA_TEST_POSTGRES_URL")?,
            &format!("nora_{unique}"),
        )
        .await?;
        let env = [
            ("JWT_SECRET", JWT_SECRET.to_owned()),
            ("NORA_BACKUP_DATABASE_URL", database),
            ("NORA_BACKUP_AMQP_URL", address("NORA_TEST_AMQP_URL")?),
            ("NORA_BACKUP_ENCRYPTION_KEY", KEY.to_owned()),
            ("NORA_BACKUP_DIR", destination.display().to_string()),
            ("NORA_BACKUP_SOURCE_ROOTS", agents.display().to_string()),
            ("NORA_BACKUP_WORKER_POOLS", pool.clone()),
            ("NORA_BACKUP_LEASE_MS", LEASE_MS.to_string()),
            ("NORA_BACKUP_RETRY_BASE_MS", "200".to_owned()),
            ("NORA_BACKUP_REDISPATCH_MS", "5000".to_owned()),
            ("NORA_BACKUP_COMPACT_GRACE_MS", "0".to_owned()),
            // One user of a test asks for more than a person does.
            ("NORA_BACKUP_RATE_CREATES_PER_MINUTE", "0".to_owned()),
            ("NORA_BACKUP_JOBS_PER_OWNER", "0".to_owned()),
            ("NORA_BACKUP_DOWNLOADS_PER_CALLER", "0".to_owned()),
        ];
        let mut fleet = Self {
            pool,
            members: Vec::new(),
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            scratch,
        };
        for number in 0..servers {
            fleet.add(Role::Server, number)?;
        }
        for number in 0..workers {
            fleet.add(Role::Worker, number)?;
        }
        Ok(fleet)
    }

    /// Prepares and starts one.
    pub async fn start(name: &str, servers: usize, workers: usize) -> Result<Self> {
        let mut fleet = Self::prepare(name, servers, workers).await?;
        fleet.launch().await?;
        Ok(fleet)
    }

    fn add(&mut self, role: Role, number: usize) -> Result<()> {
        let name = format!("{}-{number}", role.program());
        let (port, admin_port, ops_port) = (free_port()?, free_port()?, free_port()?);
        let env = match role {
            Role::Server => vec![
                ("NORA_BACKUP_LISTEN_ADDR", format!("127.0.0.1:{port}")),
                ("NORA_BACKUP_ADMIN_ADDR", format!("127.0.0.1:{admin_port}")),
                ("NORA_BACKUP_OPS_ADDR", format!("127.0.0.1:{ops_port}")),
            ],
            Role::Worker => vec![
                ("BACKUP_WORKER_HEALTH_PORT", ops_port.to_string()),
                ("NORA_BACKUP_WORKER_HEALTH_ADDRESS", "127.0.0.1".to_owned()),
            ],
        };
        self.members.push(Member {
            role,
            log: self.scratch.path().join(format!("{name}.log")),
            name,
            port,
            admin_port,
            ops_port,
            env: env
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            running: None,
        });
        Ok(())
    }

    /// Sets a variable of all its members, from their next start on.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// The variables that all members share.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// Starts all that do not run, without waiting.
    pub fn launch_missing(&mut self) -> Result<()> {
        for number in 0..self.members.len() {
            self.spawn(number)?;
        }
        Ok(())
    }

    /// Starts all that do not run, at once, and waits until they are ready.
    pub async fn launch(&mut self) -> Result<()> {
        self.launch_missing()?;
        for number in 0..self.members.len() {
            self.members[number].wait_until_ready().await?;
        }
        Ok(())
    }

    /// Starts one, unless it runs; does not wait.
    pub fn spawn(&mut self, number: usize) -> Result<()> {
        let env = self.env.clone();
        let home = self.scratch.path().to_path_buf();
        self.members[number].spawn(&env, &home)
    }

    /// Numbers of its members in this role.
    pub fn numbers(&self, role: Role) -> Vec<usize> {
        (0..self.members.len())
            .filter(|number| self.members[*number].role == role)
            .collect()
    }

    /// The servers' addresses.
    pub fn urls(&self) -> Vec<String> {
        self.numbers(Role::Server)
            .into_iter()
            .map(|number| self.members[number].url())
            .collect()
    }

    /// A client for this user at one of the servers.
    pub async fn user(&self, server: usize, user: &str) -> Result<Api> {
        Api::connect(&self.urls()[server], user, "user").await
    }

    /// Registers an agent whose state is a folder.
    pub async fn register(&self, agent_id: &str, owner_id: &str) -> Result<Agent> {
        let path = self.agent_dir(agent_id);
        let directory = DirectorySource {
            path: path.to_str().context("a path in UTF-8")?.to_owned(),
        };
        let agent = Agent {
            agent_id: agent_id.to_owned(),
            owner_id: owner_id.to_owned(),
            workspace_id: "workspace-1".to_owned(),
            pool: self.pool.clone(),
            source: Some(Source {
                kind: Some(source::Kind::Directory(directory)),
            }),
            ..Agent::default()
        };
        let mut control = Api::connect(&self.urls()[0], "control-plane", "service").await?;
        control.register(agent).await
    }

    /// A path under the folder in which agents live.
    pub fn agent_dir(&self, name: &str) -> PathBuf {
        self.scratch.path().join("agents").join(name)
    }

    /// The folder in which agents live.
    pub fn agents(&self) -> PathBuf {
        self.scratch.path().join("agents")
    }

    /// Where the vaults lie.
    pub fn destination(&self) -> PathBuf {
        self.scratch.path().join("destination")
    }

    /// What its members have said, the end of each.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for member in &self.members {
            let log = member.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(60)..];
            all.extend(["--- ", &member.name, "\n", &end.join("\n"), "\n"]);
        }
        all
    }
}

impl Member {
    /// A server's address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where a server's administrators call.
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_port)
    }

    /// Where it serves health and metrics.
    pub fn ops_port(&self) -> u16 {
        self.ops_port
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Child::id)
    }

    /// What it is called in logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a variable of this one, from its next start on.
    pub fn set_env(&mut self, name: &str, value: impl Into<String>) {
        self.env.insert(name.to_owned(), value.into());
    }

    fn spawn(&mut self, shared: &BTreeMap<String, String>, home: &Path) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(place::program_named(self.role.program())?)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", home)
            .env("RUST_BACKTRACE", "1")
            .envs(shared)
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("run {}", self.role.program()))?;
        self.running = Some(child);
        Ok(())
    }

    /// Waits until it can work.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_MAX;
        while !is_ok(self.ops_port, "/health").await {
            if let Some(status) = self.ended()? {
                bail!("{} ended, {status}:\n{}", self.name, self.log());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready:\n{}", self.name, self.log());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = self.running.as_mut() else {
            return Ok(None);
        };
        let status = child.try_wait()?;
        if status.is_some() {
            self.running = None;
        }
        Ok(status)
    }

    /// Ends it as an out-of-memory killer does (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.running.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends it as an operator does (SIGTERM) and waits.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_for_end()
    }

    /// Waits until it ends by itself.
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + STOP_MAX;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill()?;
                bail!("{} did not end in time:\n{}", self.name, self.log());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Freezes it (SIGSTOP).
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().context("it does not run")?;
        let pid = Pid::from_raw(pid.cast_signed()).context("a process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Its largest resident memory so far, in bytes.
    pub fn peak_rss_bytes(&self) -> Result<u64> {
        let pid = self.pid().context("it does not run")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .context("a line VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.running.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

/// Whether an HTTP port of this machine answers a path with 200.
pub async fn is_ok(port: u16, path: &str) -> bool {
    http_get(port, path)
        .await
        .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

/// The whole answer of an HTTP port of this machine.
pub async fn http_get(port: u16, path: &str) -> Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(10), ask).await?
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Makes a database; returns its URL.
async fn fresh_database(url: &str, name: &str) -> Result<String> {
    let admin = Database::connect(url)
        .await
        .context("connect to PostgreSQL")?;
    admin
        .execute_unprepared(&format!("CREATE DATABASE {name}"))
        .await?;
    let (server, _) = url
        .rsplit_once('/')
        .context("the URL ends in /<database>")?;
    Ok(format!("{server}/{name}"))
}
