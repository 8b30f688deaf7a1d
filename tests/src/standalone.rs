//! Starts, stops and kills a `nora-backup standalone`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use proto::backup::v1::admin_service_client::AdminServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    api::{self, Api, Authorized, JWT_SECRET},
    mount::SmallDisk,
    place,
};

/// How long a start may take.
const READY_MS_MAX: u64 = 60_000;
/// How long a stop may take.
const STOP_MS_MAX: u64 = 60_000;
/// How often something is looked at that cannot be waited for.
const LOOK_MS: u64 = 20;
/// The key-encryption key of the tests.
pub const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// Threads for tasks while failpoints are set.
const FAILPOINT_THREADS: usize = 8;
/// Quiet is who uses at most so many ticks in so long a time.
const QUIET_TICKS: u64 = 3;
const QUIET_MS: u64 = 500;
const QUIET_MS_MAX: u64 = 60_000;
/// Short, so that work goes on soon after a kill.
const LEASE_MS: u64 = 3_000;

/// A standalone with a data directory of its own. Killed when dropped.
pub struct Standalone {
    /// Goes before the folder that it is mounted in.
    disk: Option<SmallDisk>,
    scratch: tempfile::TempDir,
    data_dir: PathBuf,
    port: u16,
    admin_port: u16,
    env: BTreeMap<String, String>,
    running: Option<Child>,
}

impl Standalone {
    /// Prepares one without starting it.
    pub fn prepare(name: &str) -> Result<Self> {
        let scratch = place::scratch(name);
        // Sources and targets of restores lie beside the data.
        let agents = scratch.path().join("agents");
        fs::create_dir_all(&agents)?;
        let destination = scratch.path().join("destination");
        fs::create_dir_all(&destination)?;
        // Both at once: two ports that nobody listens on may be the same one.
        let free = [
            TcpListener::bind("127.0.0.1:0")?,
            TcpListener::bind("127.0.0.1:0")?,
        ];
        let (port, admin_port) = (free[0].local_addr()?.port(), free[1].local_addr()?.port());
        drop(free);
        let env = BTreeMap::from([
            ("JWT_SECRET".to_owned(), JWT_SECRET.to_owned()),
            (
                "NORA_BACKUP_SOURCE_ROOTS".to_owned(),
                agents.display().to_string(),
            ),
            ("NORA_BACKUP_LEASE_MS".to_owned(), LEASE_MS.to_string()),
            ("BACKUP_WORKER_HEALTH_PORT".to_owned(), "0".to_owned()),
            // One user of a test asks for more than a person does.
            (
                "NORA_BACKUP_RATE_CREATES_PER_MINUTE".to_owned(),
                "0".to_owned(),
            ),
            ("NORA_BACKUP_JOBS_PER_OWNER".to_owned(), "0".to_owned()),
            (
                "NORA_BACKUP_DOWNLOADS_PER_CALLER".to_owned(),
                "0".to_owned(),
            ),
            ("NORA_BACKUP_ENCRYPTION_KEY".to_owned(), KEY.to_owned()),
            (
                "NORA_BACKUP_DIR".to_owned(),
                destination.display().to_string(),
            ),
        ]);
        Ok(Self {
            disk: None,
            data_dir: scratch.path().join("data"),
            scratch,
            port,
            admin_port,
            env,
            running: None,
        })
    }

    /// Prepares and starts one.
    pub async fn start(name: &str) -> Result<Self> {
        let mut standalone = Self::prepare(name)?;
        standalone.launch().await?;
        Ok(standalone)
    }

    /// Puts the destination on a disk of its own, of this size.
    pub fn with_small_destination(mut self, mib: u32) -> Result<Self> {
        self.disk = Some(SmallDisk::mount(&self.destination(), mib)?);
        Ok(self)
    }

    /// The disk of a small destination.
    pub fn disk(&self) -> Result<&SmallDisk> {
        self.disk
            .as_ref()
            .context("the destination has no disk of its own")
    }

    /// Sets a variable of its environment, from the next start on.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set_env(name, value);
        self
    }

    /// The same for one that exists.
    pub fn set_env(&mut self, name: &str, value: impl Into<String>) {
        if name == "FAILPOINTS" {
            // A task that is paused at a failpoint keeps its thread.
            let threads = FAILPOINT_THREADS.to_string();
            self.env.insert("TOKIO_WORKER_THREADS".to_owned(), threads);
        }
        self.env.insert(name.to_owned(), value.into());
    }

    /// A variable of its environment.
    pub fn env(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }

    /// Takes a variable out of its environment.
    pub fn remove_env(&mut self, name: &str) {
        self.env.remove(name);
    }

    /// Starts it and waits until it serves.
    pub async fn launch(&mut self) -> Result<()> {
        self.spawn()?;
        let deadline = Instant::now() + Duration::from_millis(READY_MS_MAX);
        while !self.serves().await {
            if let Some(status) = self
                .running
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten())
            {
                self.running = None;
                bail!("the standalone ended at once, {status}:\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!(
                    "the standalone does not serve after {READY_MS_MAX} ms:\n{}",
                    self.log()
                );
            }
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        }
        Ok(())
    }

    /// Starts it where it is expected to refuse; returns how it ended, and what
    /// it said.
    pub fn launch_refused(&mut self) -> Result<(ExitStatus, String)> {
        self.spawn()?;
        let mut child = self.running.take().context("just started")?;
        let status = wait(&mut child, STOP_MS_MAX)?;
        Ok((status, self.log()))
    }

    /// Ends it as an operator does (SIGTERM) and waits.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let mut child = self.running.take().context("it does not run")?;
        signal(&child, Signal::TERM)?;
        wait(&mut child, STOP_MS_MAX)
    }

    /// Ends it as an out-of-memory killer does (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.running.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until it ends by itself, as at a failpoint that aborts.
    pub fn wait_for_end(&mut self, wait_ms_max: u64) -> Result<ExitStatus> {
        let mut child = self.running.take().context("it does not run")?;
        wait(&mut child, wait_ms_max)
    }

    /// Waits until it does nothing any more, as when its work is paused at a
    /// failpoint: that makes no event.
    pub async fn wait_until_quiet(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_millis(QUIET_MS_MAX);
        let mut before = self.processor_ticks()?;
        loop {
            tokio::time::sleep(Duration::from_millis(QUIET_MS)).await;
            let now = self.processor_ticks()?;
            if now - before <= QUIET_TICKS && !self.waits_for_disk()? {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("it is still at work after {QUIET_MS_MAX} ms");
            }
            before = now;
        }
    }

    /// Removes its database, of which nothing is left: while it does not run.
    pub fn lose_database(&self) -> Result<()> {
        for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
            let path = self.data_dir().join(file);
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Whether one of its threads waits for a disk: at work, though it takes no time.
    fn waits_for_disk(&self) -> Result<bool> {
        let pid = self.running.as_ref().context("it does not run")?.id();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end meanwhile.
            let stat = fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit(')').next().unwrap_or_default();
            if state.trim_start().starts_with('D') {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn processor_ticks(&self) -> Result<u64> {
        let pid = self.running.as_ref().context("it does not run")?.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        // User and system time, in ticks of 10 ms.
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where administrators call.
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_port)
    }

    /// A client for this user (role user).
    pub async fn user(&self, user: &str) -> Result<Api> {
        Api::connect(&self.url(), user, "user").await
    }

    /// A client for the control plane (role service).
    pub async fn control_plane(&self) -> Result<Api> {
        Api::connect(&self.url(), "control-plane", "service").await
    }

    /// A client for an administrator.
    pub async fn admin(&self) -> Result<Api> {
        Api::connect(&self.url(), "the-admin", "admin").await
    }

    /// What only administrators can call.
    pub async fn administrators(&self) -> Result<AdminServiceClient<Authorized>> {
        api::administrators(&self.admin_url()).await
    }

    /// Where it keeps everything.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where the vaults lie.
    pub fn destination(&self) -> PathBuf {
        self.scratch.path().join("destination")
    }

    /// What lies directly in the folder in which agents live: their folders, and
    /// whatever a restore may have left there.
    pub fn agent_names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.scratch.path().join("agents"))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// A path under the folder in which agents live.
    pub fn agent_dir(&self, name: &str) -> PathBuf {
        self.scratch.path().join("agents").join(name)
    }

    /// A path outside of the allowed roots.
    pub fn outside_dir(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// All that it has said since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its largest resident memory so far, in bytes.
    pub fn peak_rss_bytes(&self) -> Result<u64> {
        let pid = self.running.as_ref().context("it does not run")?.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .context("a line VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    fn spawn(&mut self) -> Result<()> {
        let log = File::create(self.log_path())?;
        let child = Command::new(place::program()?)
            .arg("standalone")
            .arg("--data-dir")
            .arg(&self.data_dir)
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.port))
            .arg("--admin-addr")
            .arg(format!("127.0.0.1:{}", self.admin_port))
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", self.scratch.path())
            .env("RUST_BACKTRACE", "1")
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("run nora-backup standalone")?;
        self.running = Some(child);
        Ok(())
    }

    async fn serves(&self) -> bool {
        let Ok(endpoint) = Endpoint::from_shared(self.url()) else {
            return false;
        };
        let Ok(channel) = endpoint
            .connect_timeout(Duration::from_secs(1))
            .connect()
            .await
        else {
            return false;
        };
        let answer = HealthClient::new(channel)
            .check(HealthCheckRequest::default())
            .await;
        answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- what the standalone said\n{}", self.log());
        }
    }
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(child.id().cast_signed()).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

fn wait(child: &mut Child, wait_ms_max: u64) -> Result<ExitStatus> {
    let deadline = Instant::now() + Duration::from_millis(wait_ms_max);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("it did not end within {wait_ms_max} ms");
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
}
