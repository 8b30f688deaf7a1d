//! Names a process so that no other one is ever killed: process ids are used
//! again, the pair of id and start time is not (within one boot).

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// How often a process that shall end is looked at.
const LOOK_MS: u64 = 10;

/// One process, of this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pid: i32,
    start_ticks: u64,
    boot_id: String,
}

impl Identity {
    /// The process that has this id now.
    pub(super) fn of(pid: i32) -> Result<Self> {
        let start_ticks =
            alive_since(pid).with_context(|| format!("process {pid} has ended already"))?;
        Ok(Self {
            pid,
            start_ticks,
            boot_id: boot_id(),
        })
    }

    /// Whether it still runs (one that has ended and was not collected does not).
    pub(super) fn is_alive(&self) -> bool {
        self.boot_id == boot_id() && alive_since(self.pid) == Some(self.start_ticks)
    }

    /// Its id.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it was stopped by a signal, and not let go on (or has ended).
    pub(super) fn is_stopped(&self) -> bool {
        !self.is_alive() || state(self.pid).is_none_or(|state| state == 'T')
    }

    /// Sends it a signal, when it is still the same process.
    pub(super) fn signal(&self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Its direct children.
    pub(super) fn children(&self) -> Vec<Identity> {
        if !self.is_alive() {
            return Vec::new();
        }
        let pid = self.pid;
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|child| {
                child
                    .parse()
                    .ok()
                    .and_then(|child| Identity::of(child).ok())
            })
            .collect()
    }

    /// Kills it, when it is still the same process, and waits for its end;
    /// `help` is called meanwhile, to remove what keeps it.
    pub(super) fn kill(&self, wait_ms_max: u64, help: impl Fn()) -> Result<()> {
        let deadline = Instant::now() + Duration::from_millis(wait_ms_max);
        while self.is_alive() {
            self.signal(Signal::KILL);
            help();
            if Instant::now() > deadline {
                bail!("process {} does not end", self.pid);
            }
            std::thread::sleep(Duration::from_millis(LOOK_MS));
        }
        Ok(())
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// When a live process began, in clock ticks since boot.
fn alive_since(pid: i32) -> Option<u64> {
    let fields = fields(pid)?;
    if matches!(fields.first()?.as_str(), "Z" | "X" | "x") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// The letter that says whether a process runs, sleeps or was stopped.
fn state(pid: i32) -> Option<char> {
    fields(pid)?.first()?.chars().next()
}

/// What the kernel tells about a process, from its state on.
fn fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold spaces.
    let rest = &stat[stat.rfind(')')? + 1..];
    Some(rest.split_whitespace().map(str::to_owned).collect())
}
