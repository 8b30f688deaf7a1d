//! Starts the real services that the end-to-end tests need, and stops them.
//!
//! - `docker`: a private Docker Engine with a small image
//! - `image`: what that image holds
//! - `packages`: installs what is missing
//! - `process`: names a process so that no other one is ever killed
//!
//! A new service is one file with a `start` and a `stop`, and one line in
//! [`KNOWN`]. Everything a service leaves on disk lies under `target/services`,
//! and the addresses of all of them in `target/services/env`.

mod docker;
mod image;
mod packages;
mod process;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use self::process::Identity;
use crate::place;

pub use docker::IMAGE;

/// How long a service may take until it answers.
const READY_MS_MAX: u64 = 60_000;
/// How long a command may go on after it was asked to stop.
const STOP_COMMAND_MS_MAX: u64 = 10_000;

/// Keeps on disk what was started.
type Note<'a> = dyn FnMut(&Started) -> Result<()> + 'a;

/// A service that can be started.
struct Service {
    name: &'static str,
    /// Starts it and returns once it answers. `note` keeps what is needed to stop
    /// it, and is called before the first wait.
    start: fn(folder: &Path, note: &mut Note<'_>) -> Result<Started>,
    /// Stops it and removes what it left; also of a start that was cut short.
    stop: fn(folder: &Path, started: &Started) -> Result<()>,
}

/// Every service, in the order of their start.
const KNOWN: &[Service] = &[Service {
    name: "docker",
    start: docker::start,
    stop: docker::stop,
}];

/// What was started, as kept in `target/services/<name>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Started {
    process: Identity,
    /// Those that end with it, known once the service answers.
    children: Vec<Identity>,
    /// Sockets and other things that live as long as the process.
    run_dir: PathBuf,
    /// Lines of the env file.
    env: BTreeMap<String, String>,
}

/// The services of one target folder.
pub struct Services {
    folder: PathBuf,
}

impl Services {
    /// Those of the target folder that this program was built into.
    pub fn here() -> Result<Self> {
        Ok(Self::at(place::target_dir()?.join("services")))
    }

    /// Those that keep everything in this folder.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Starts what does not run yet.
    pub fn up(&self) -> Result<()> {
        self.start_missing().map(|_| ())
    }

    /// Stops everything, in reverse order.
    pub fn down(&self) -> Result<()> {
        let _lock = self.lock()?;
        for service in KNOWN.iter().rev() {
            self.stop_one(service)?;
        }
        self.write_env()
    }

    /// Which services run.
    pub fn status(&self) -> Result<Vec<(&'static str, bool)>> {
        KNOWN
            .iter()
            .map(|service| {
                let running = self
                    .started(service)?
                    .is_some_and(|started| started.process.is_alive());
                Ok((service.name, running))
            })
            .collect()
    }

    /// Addresses of what runs.
    pub fn env(&self) -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for service in KNOWN {
            if let Some(started) = self.started(service)?
                && started.process.is_alive()
            {
                all.extend(started.env);
            }
        }
        Ok(all)
    }

    /// The same as lines for a shell.
    pub fn env_text(&self) -> Result<String> {
        self.env()?
            .iter()
            .try_fold(String::new(), |mut text, (name, value)| {
                writeln!(text, "export {name}='{value}'")?;
                Ok(text)
            })
    }

    /// Runs a command with the services up, and stops those it started, however
    /// the command ends.
    pub fn run(&self, command: &[String]) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let started = self.start_missing()?;
        let outcome = self
            .env()
            .and_then(|env| runtime.block_on(run_command(command, env)));
        {
            let _lock = self.lock()?;
            for service in KNOWN
                .iter()
                .rev()
                .filter(|service| started.contains(&service.name))
            {
                self.stop_one(service)?;
            }
            self.write_env()?;
        }
        outcome
    }

    fn start_missing(&self) -> Result<Vec<&'static str>> {
        let _lock = self.lock()?;
        let mut names = Vec::new();
        for service in KNOWN {
            if self
                .started(service)?
                .is_some_and(|started| started.process.is_alive())
            {
                continue;
            }
            // An earlier run may have crashed: clear what it left.
            self.stop_one(service)?;
            let folder = self.folder.join(service.name);
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            eprintln!("services: starting {}", service.name);
            let state = self.state_file(service);
            let mut note = |started: &Started| -> Result<()> {
                fs::write(&state, serde_json::to_vec_pretty(started)?)
                    .with_context(|| format!("write {}", state.display()))
            };
            let outcome = (service.start)(&folder, &mut note).and_then(|started| note(&started));
            if let Err(cause) = outcome {
                let _ = self.stop_one(service);
                return Err(cause.context(format!("start {}", service.name)));
            }
            names.push(service.name);
        }
        self.write_env()?;
        Ok(names)
    }

    fn stop_one(&self, service: &Service) -> Result<()> {
        if let Some(started) = self.started(service)? {
            eprintln!("services: stopping {}", service.name);
            (service.stop)(&self.folder.join(service.name), &started)
                .with_context(|| format!("stop {}", service.name))?;
            fs::remove_file(self.state_file(service)).context("forget a stopped service")?;
        }
        Ok(())
    }

    fn started(&self, service: &Service) -> Result<Option<Started>> {
        let path = self.state_file(service);
        match fs::read(&path) {
            // A torn file is one whose writer was killed before it started anything.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause).with_context(|| format!("read {}", path.display())),
        }
    }

    fn state_file(&self, service: &Service) -> PathBuf {
        self.folder.join(format!("{}.json", service.name))
    }

    fn write_env(&self) -> Result<()> {
        let path = self.folder.join("env");
        fs::write(&path, self.env_text()?).with_context(|| format!("write {}", path.display()))
    }

    /// One call at a time changes the services of a target folder.
    fn lock(&self) -> Result<File> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("make {}", self.folder.display()))?;
        let path = self.folder.join("lock");
        let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
        file.lock()
            .with_context(|| format!("lock {}", path.display()))?;
        Ok(file)
    }
}

/// The address of a service for a test, which fails when the service is missing.
pub fn address(variable: &str) -> String {
    if let Ok(value) = std::env::var(variable) {
        return value;
    }
    let running = Services::here()
        .and_then(|services| services.env())
        .expect("read the state of the services");
    running.get(variable).cloned().unwrap_or_else(|| {
        panic!("{variable} is not set and the service does not run: start it with `make services`")
    })
}

async fn run_command(command: &[String], env: BTreeMap<String, String>) -> Result<ExitCode> {
    use tokio::signal::unix::{SignalKind, signal};
    let (program, arguments) = command.split_first().context("no command given")?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .envs(env)
        .spawn()
        .with_context(|| format!("run {program}"))?;
    let status = tokio::select! {
        status = child.wait() => status?,
        // A terminal's Ctrl-C reaches the command by itself.
        _ = interrupt.recv() => stop_command(&mut child).await?,
        _ = terminate.recv() => {
            if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            stop_command(&mut child).await?
        }
    };
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

async fn stop_command(child: &mut tokio::process::Child) -> Result<std::process::ExitStatus> {
    if let Ok(status) =
        tokio::time::timeout(Duration::from_millis(STOP_COMMAND_MS_MAX), child.wait()).await
    {
        return Ok(status?);
    }
    child.kill().await?;
    Ok(child.wait().await?)
}
