//! Starts the real services that the end-to-end tests need, and stops them.
//!
//! - `life`: one service's life: started, killed, started again, stopped
//! - `world`: its own namespaces, so that it is stopped whole
//! - `process`: names a process so that no other one is ever killed
//! - `docker`: a private Docker Engine with a small image; `image`: what that holds
//! - `postgresql`, `rabbitmq`, `sshd`, `seaweedfs`: what their names say
//! - `packages`: installs what is missing
//! - `ports`, `wire`: free ports, and whether somebody answers there
//!
//! A new service is one file with a `Service`, and one line in [`KNOWN`].
//! Everything a service leaves on disk lies under `target/services`, and the
//! addresses of all of them in `target/services/env`.

mod docker;
mod image;
mod life;
mod packages;
mod ports;
mod postgresql;
mod process;
mod rabbitmq;
mod seaweedfs;
mod sshd;
mod wire;
mod world;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::life::{Service, Started};
use crate::place;

pub use docker::IMAGE;

/// How long a command may go on after it was asked to stop.
const STOP_COMMAND_MS_MAX: u64 = 10_000;

/// Every service, in the order that [`Services::status`] tells.
const KNOWN: &[&dyn Service] = &[
    &docker::DockerEngine,
    &postgresql::Postgresql,
    &rabbitmq::Rabbitmq,
    &sshd::Sshd,
    &seaweedfs::Seaweedfs,
];

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

    /// Starts what does not run yet, of all services.
    pub fn up(&self) -> Result<()> {
        self.up_only::<&str>(&[])
    }

    /// Starts what does not run yet of these; of all when none is named.
    pub fn up_only<T: AsRef<str>>(&self, names: &[T]) -> Result<()> {
        self.start_missing(&chosen(names)?).map(|_| ())
    }

    /// Stops everything.
    pub fn down(&self) -> Result<()> {
        self.down_only::<&str>(&[])
    }

    /// Stops these; all when none is named.
    pub fn down_only<T: AsRef<str>>(&self, names: &[T]) -> Result<()> {
        let services = chosen(names)?;
        let _lock = self.lock()?;
        self.stop(&services)
    }

    /// Kills a service as the end of the machine's power would, with everything it
    /// started. Its data stays, for [`Services::restart`].
    pub fn kill(&self, name: &str) -> Result<()> {
        let _lock = self.lock()?;
        let (service, started) = self.known(name)?;
        life::kill(service, &self.folder.join(name), &started)
            .with_context(|| format!("kill {name}"))?;
        self.write_env()
    }

    /// Starts a service again with the data and the addresses it had, and returns
    /// once it answers; it is killed first when it runs.
    pub fn restart(&self, name: &str) -> Result<()> {
        let _lock = self.lock()?;
        let (service, started) = self.known(name)?;
        let note = |started: &Started| self.note(service, started);
        life::restart(service, &self.folder.join(name), &started, &note)
            .with_context(|| format!("restart {name}"))?;
        self.write_env()
    }

    /// Stops all processes of a service where they are, until [`Services::resume`].
    pub fn pause(&self, name: &str) -> Result<()> {
        let (_, started) = self.known(name)?;
        world::pause(&started).with_context(|| format!("pause {name}"))
    }

    /// Lets a paused service go on.
    pub fn resume(&self, name: &str) -> Result<()> {
        let (_, started) = self.known(name)?;
        world::resume(&started).with_context(|| format!("resume {name}"))
    }

    /// Which services run.
    pub fn status(&self) -> Result<Vec<(&'static str, bool)>> {
        KNOWN
            .iter()
            .map(|service| Ok((service.name(), self.runs(*service)?)))
            .collect()
    }

    /// Addresses of what runs.
    pub fn env(&self) -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for service in KNOWN {
            if let Some(started) = self.started(*service)?
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

    /// Runs a command with all services up, and stops those it started, however
    /// the command ends.
    pub fn run(&self, command: &[String]) -> Result<ExitCode> {
        self.run_only::<&str>(&[], command)
    }

    /// The same with these services alone; with all when none is named.
    pub fn run_only<T: AsRef<str>>(&self, names: &[T], command: &[String]) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let started = self.start_missing(&chosen(names)?)?;
        let outcome = self
            .env()
            .and_then(|env| runtime.block_on(run_command(command, env)));
        let _lock = self.lock()?;
        self.stop(&started)?;
        outcome
    }

    /// Starts those that do not run, all at once; none of them when one does not start.
    fn start_missing(
        &self,
        services: &[&'static dyn Service],
    ) -> Result<Vec<&'static dyn Service>> {
        let _lock = self.lock()?;
        let mut missing = Vec::new();
        for service in services {
            if !self.runs(*service)? {
                missing.push(*service);
            }
        }
        // Packages are installed one after another.
        for service in &missing {
            let name = service.name();
            service
                .install()
                .with_context(|| format!("install what {name} needs"))?;
        }
        let outcome = in_parallel(&missing, |service| self.start_one(service));
        if let Err(cause) = outcome {
            let _ = self.stop(&missing);
            return Err(cause);
        }
        self.write_env()?;
        Ok(missing)
    }

    fn start_one(&self, service: &dyn Service) -> Result<()> {
        let name = service.name();
        // An earlier run may have crashed: clear what it left.
        self.stop_one(service)?;
        let begin = Instant::now();
        let note = |started: &Started| self.note(service, started);
        life::start(service, &self.folder.join(name), &note)
            .with_context(|| format!("start {name}"))?;
        let seconds = begin.elapsed().as_secs_f32();
        eprintln!("services: {name} answers ({seconds:.1} s)");
        Ok(())
    }

    fn stop(&self, services: &[&'static dyn Service]) -> Result<()> {
        let outcome = in_parallel(services, |service| self.stop_one(service));
        self.write_env()?;
        outcome
    }

    fn stop_one(&self, service: &dyn Service) -> Result<()> {
        let folder = self.folder.join(service.name());
        let Some(started) = self.started(service)? else {
            return life::clear(&folder, None);
        };
        eprintln!("services: stopping {}", service.name());
        life::stop(service, &folder, &started)
            .with_context(|| format!("stop {}", service.name()))?;
        fs::remove_file(self.state_file(service)).context("forget a stopped service")
    }

    fn known(&self, name: &str) -> Result<(&'static dyn Service, Started)> {
        let [service] = chosen(&[name])?[..] else {
            bail!("there are two services named {name}");
        };
        let started = self.started(service)?.with_context(|| {
            format!("{name} was not started: start it with `services up {name}`")
        })?;
        Ok((service, started))
    }

    fn runs(&self, service: &dyn Service) -> Result<bool> {
        let started = self.started(service)?;
        Ok(started.is_some_and(|started| started.process.is_alive()))
    }

    fn note(&self, service: &dyn Service, started: &Started) -> Result<()> {
        let path = self.state_file(service);
        // Put in place whole: a torn note could not stop what it tells of.
        let draft = path.with_extension("draft");
        life::write_private(&draft, &serde_json::to_vec_pretty(started)?)?;
        fs::rename(&draft, &path).with_context(|| format!("write {}", path.display()))
    }

    fn started(&self, service: &dyn Service) -> Result<Option<Started>> {
        let path = self.state_file(service);
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause).with_context(|| format!("read {}", path.display())),
        }
    }

    fn state_file(&self, service: &dyn Service) -> PathBuf {
        self.folder.join(format!("{}.json", service.name()))
    }

    fn write_env(&self) -> Result<()> {
        life::write_private(&self.folder.join("env"), self.env_text()?.as_bytes())
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

/// The services of these names; all when there is none.
fn chosen<T: AsRef<str>>(names: &[T]) -> Result<Vec<&'static dyn Service>> {
    for name in names.iter().map(AsRef::as_ref) {
        if KNOWN.iter().all(|service| service.name() != name) {
            let known: Vec<_> = KNOWN.iter().map(|service| service.name()).collect();
            bail!("there is no service {name}: known are {}", known.join(", "));
        }
    }
    let named = |service: &&&'static dyn Service| {
        names.is_empty() || names.iter().any(|name| name.as_ref() == service.name())
    };
    Ok(KNOWN.iter().filter(named).copied().collect())
}

/// Does it for each at the same time; tells the first thing that went wrong.
fn in_parallel(
    services: &[&'static dyn Service],
    action: impl Fn(&dyn Service) -> Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let action = &action;
        let threads: Vec<_> = services
            .iter()
            .map(|service| scope.spawn(move || action(*service)))
            .collect();
        // All are waited for, whatever the first one says.
        let outcomes: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
            .collect();
        outcomes.into_iter().collect()
    })
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
