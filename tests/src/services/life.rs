//! The life of one service: started, killed, started again with what it had,
//! stopped and cleared away.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    process::Identity,
    world::{self, Launch},
};

/// How long a service may take until it answers.
const READY_MS_MAX: u64 = 60_000;
/// How often it is asked.
const TRY_MS: u64 = 50;
/// What of a log is told when a service does not start.
const LOG_LINES_MAX: usize = 15;
/// The one file that stays when a service is stopped.
const LOG: &str = "log";

/// A service that can be started.
pub(super) trait Service: Sync {
    /// Its name, as the command line knows it.
    fn name(&self) -> &'static str;

    /// Installs what is missing. Never called for two services at a time.
    fn install(&self) -> Result<()>;

    /// Makes its data, chooses its ports and secrets, and says how it is launched.
    fn prepare(&self, folder: &Path) -> Result<Plan>;

    /// Whether it answers: one try.
    fn answers(&self, started: &Started) -> bool;

    /// Puts in what tests expect there. Called once, when it answers.
    fn fill(&self, _folder: &Path, _started: &Started) -> Result<()> {
        Ok(())
    }

    /// Removes what keeps its processes from ending.
    fn unblock(&self, _folder: &Path) {}

    /// Clears what its processes left behind besides data.
    fn sweep(&self, _folder: &Path, _started: &Started) -> Result<()> {
        Ok(())
    }
}

/// What [`Service::prepare`] made.
pub(super) struct Plan {
    pub(super) launch: Launch,
    /// Lines of the env file.
    pub(super) env: BTreeMap<String, String>,
    /// Where it keeps things when it can't keep them in its folder.
    pub(super) run_dir: Option<PathBuf>,
}

/// What was started, as kept in `target/services/<name>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) process: Identity,
    /// Those that end with it.
    pub(super) children: Vec<Identity>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) env: BTreeMap<String, String>,
    /// How to start it again.
    #[serde(default)]
    pub(super) launch: Option<Launch>,
}

impl Started {
    /// One of its addresses.
    pub(super) fn value(&self, variable: &str) -> Result<&str> {
        let value = self.env.get(variable).map(String::as_str);
        value.with_context(|| format!("{variable} is not known"))
    }

    /// One of its addresses that is a port.
    pub(super) fn port(&self, variable: &str) -> Option<u16> {
        // Either the port itself, or an address that ends in it and perhaps a path.
        let value = self.env.get(variable)?;
        let from_host = value
            .rsplit_once('@')
            .map_or(value.as_str(), |(_, host)| host);
        let from_host = from_host.trim_start_matches("http://");
        let host = from_host.split('/').next()?;
        host.rsplit(':').next()?.parse().ok()
    }
}

/// Starts a service with nothing in it and returns once it answers. `note` keeps
/// what is needed to stop it, and is called before it does anything.
pub(super) fn start(
    service: &dyn Service,
    folder: &Path,
    note: &dyn Fn(&Started) -> Result<()>,
) -> Result<()> {
    clear(folder, None)?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    File::create(folder.join(LOG)).context("make a log")?;
    let plan = service.prepare(folder)?;
    let started = launch(folder, &plan.launch, note, |process, children| Started {
        process,
        children,
        run_dir: plan.run_dir.clone(),
        env: plan.env.clone(),
        launch: Some(plan.launch.clone()),
    })?;
    wait_until_ready(service, folder, &started)?;
    service.fill(folder, &started)
}

/// Kills it as the end of the machine's power would; its data stays.
pub(super) fn kill(service: &dyn Service, folder: &Path, started: &Started) -> Result<()> {
    world::kill(started, || service.unblock(folder))?;
    service.sweep(folder, started)
}

/// Kills it if it runs, and starts it with the same data at the same address.
pub(super) fn restart(
    service: &dyn Service,
    folder: &Path,
    started: &Started,
    note: &dyn Fn(&Started) -> Result<()>,
) -> Result<()> {
    kill(service, folder, started)?;
    let how = started
        .launch
        .as_ref()
        .context("it was started by an earlier version: stop it and start it anew")?;
    let started = launch(folder, how, note, |process, children| Started {
        process,
        children,
        ..started.clone()
    })?;
    wait_until_ready(service, folder, &started)
}

/// Kills it and removes all it left but its log; also of a start that was cut short.
pub(super) fn stop(service: &dyn Service, folder: &Path, started: &Started) -> Result<()> {
    kill(service, folder, started)?;
    clear(folder, started.run_dir.as_deref())
}

/// Where a service keeps what can't lie in its folder: the same at each start.
pub(super) fn run_dir_away(folder: &Path) -> PathBuf {
    PathBuf::from("/tmp").join(own_name(folder))
}

/// A name of this service's own, the same at each start.
pub(super) fn own_name(folder: &Path) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    format!("nora-test-{:016x}", hasher.finish())
}

/// A path as text, for a configuration or a command line.
pub(super) fn text(path: &Path) -> Result<String> {
    let path = path.to_str().map(str::to_owned);
    path.context("the target folder's path is not UTF-8")
}

/// A new secret, safe in addresses.
pub(super) fn secret() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// Writes a file that only its owner reads.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("write {}", path.display()))
}

/// Runs a command to its end; its output is told when it does not succeed.
pub(super) fn run(command: &mut std::process::Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(std::process::Stdio::null())
        .current_dir("/")
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn launch(
    folder: &Path,
    how: &Launch,
    note: &dyn Fn(&Started) -> Result<()>,
    describe: impl FnOnce(Identity, Vec<Identity>) -> Started,
) -> Result<Started> {
    let log = folder.join(LOG);
    let file = OpenOptions::new().append(true).create(true).open(&log);
    let file = file.with_context(|| format!("open {}", log.display()))?;
    let mut started = None;
    how.spawn(folder, file, |process, children| {
        note(started.insert(describe(process, children)))
    })?;
    started.context("a service that was not noted")
}

fn wait_until_ready(service: &dyn Service, folder: &Path, started: &Started) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(READY_MS_MAX);
    while !service.answers(started) {
        let what = if !started.process.is_alive() {
            "ended at once"
        } else if Instant::now() > deadline {
            "does not answer"
        } else {
            std::thread::sleep(Duration::from_millis(TRY_MS));
            continue;
        };
        let log = folder.join(LOG);
        bail!(
            "it {what}; the end of {}:\n{}",
            log.display(),
            last_lines(&log)
        );
    }
    Ok(())
}

fn last_lines(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n")
}

/// Removes all that a service left but its log.
pub(super) fn clear(folder: &Path, run_dir: Option<&Path>) -> Result<()> {
    let away = run_dir_away(folder);
    for path in run_dir.into_iter().chain([away.as_path()]) {
        remove(path)?;
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(cause).with_context(|| format!("list {}", folder.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        if entry.file_name() != LOG {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file or folder that may not be there.
pub(super) fn remove(path: &Path) -> Result<()> {
    let outcome = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(cause) => Err(cause),
    };
    match outcome {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(cause).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
