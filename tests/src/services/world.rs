//! A service's own world: namespaces in which it is all there is. The end of the
//! world's first process is the end of everything in it, whoever started that and
//! whether it made itself a daemon, so a service is stopped whole and nothing else
//! with it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::{Started, process::Identity};

/// The first process stays, so that it ends with the `unshare` above it: a program
/// that changes its user would lose that bond. It begins only when someone has
/// taken note of it.
const FIRST_PROCESS: &str = r#"
read -r go || exit 1
eval "$SETUP" || exit 1
unset SETUP
"$@" </dev/null
exit $?
"#;
/// How long a process may take to end once killed, or to begin.
const WAIT_MS_MAX: u64 = 20_000;
/// How often a process is looked at that shall begin, or stop.
const LOOK_MS: u64 = 5;

/// How a service is started, the first time and after a kill.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Launch {
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// Its whole environment, besides PATH and HOME.
    pub(super) environment: BTreeMap<String, String>,
    /// Further namespaces, as options of unshare.
    pub(super) namespaces: Vec<String>,
    /// Shell lines that run before the program, as root in its world.
    pub(super) setup: String,
}

impl Launch {
    /// A program without further ado.
    pub(super) fn new<T: Into<String>>(command: impl IntoIterator<Item = T>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            environment: BTreeMap::new(),
            namespaces: Vec::new(),
            setup: ":".to_owned(),
        }
    }

    /// Starts it. `note` gets the process and its first child before they do anything.
    pub(super) fn spawn(
        &self,
        folder: &Path,
        log: File,
        note: impl FnOnce(Identity, Vec<Identity>) -> Result<()>,
    ) -> Result<()> {
        let mut child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(&self.namespaces)
            .args(["sh", "-c", FIRST_PROCESS, "sh"])
            .args(&self.command)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", folder)
            .env("SETUP", &self.setup)
            .envs(&self.environment)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Apart from the terminal's Ctrl-C: it ends by `stop`.
            .process_group(0)
            .spawn()
            .context("run unshare")?;
        let process = Identity::of(child.id().cast_signed())?;
        let deadline = Instant::now() + Duration::from_millis(WAIT_MS_MAX);
        let mut children = process.children();
        while children.is_empty() {
            if !process.is_alive() || Instant::now() > deadline {
                let _ = child.kill();
                bail!("unshare did not begin: see the log in {}", folder.display());
            }
            std::thread::sleep(Duration::from_millis(LOOK_MS));
            children = process.children();
        }
        note(process, children)?;
        let mut stdin = child.stdin.take().context("the input of unshare")?;
        stdin.write_all(b"go\n").context("let a service begin")?;
        // Collected when it ends while this program still runs.
        std::thread::spawn(move || child.wait());
        Ok(())
    }
}

/// Kills everything in a world; `help` removes what keeps it from ending.
pub(super) fn kill(started: &Started, help: impl Fn()) -> Result<()> {
    let children = [started.children.clone(), started.process.children()].concat();
    for process in children.iter().chain([&started.process]) {
        process.kill(WAIT_MS_MAX, &help)?;
    }
    Ok(())
}

/// Stops all processes of a world until [`resume`]; returns once they stand still.
pub(super) fn pause(started: &Started) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(WAIT_MS_MAX);
    loop {
        // Those that run may still start others: until none is found.
        let running: Vec<_> = members(started)?
            .into_iter()
            .filter(|process| !process.is_stopped())
            .collect();
        if running.is_empty() {
            return Ok(());
        }
        for process in running {
            process.signal(Signal::STOP);
        }
        if Instant::now() > deadline {
            bail!("its processes do not stand still");
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
}

/// Lets them go on.
pub(super) fn resume(started: &Started) -> Result<()> {
    for process in members(started)? {
        process.signal(Signal::CONT);
    }
    Ok(())
}

/// Every process of a world, without those of worlds within it.
fn members(started: &Started) -> Result<Vec<Identity>> {
    let first = started
        .children
        .first()
        .filter(|first| first.is_alive())
        .context("it does not run")?;
    let world = namespace_of(first.pid()).context("it does not run")?;
    let processes = fs::read_dir("/proc").context("list processes")?.flatten();
    Ok(processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| namespace_of(*pid).as_ref() == Some(&world))
        .filter_map(|pid| Identity::of(pid).ok())
        .collect())
}

fn namespace_of(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}
