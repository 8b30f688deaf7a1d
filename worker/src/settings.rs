//! What can be configured of a worker.
//!
//! Every setting is a flag and an environment variable; a variable that is set but empty counts
//! as not set. A wrong value is answered in one line that names the variable and says what it may
//! hold; what it holds is named by clap before it.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::Args;
use process::settings::Whole;

mod parse;

use parse::{address, flag, pools, roots};

/// Settings of a worker.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Worker")]
pub struct WorkerSettings {
    /// Jobs that this worker runs at the same time
    #[arg(long = "worker-concurrency", env = CONCURRENCY.variable, value_name = "JOBS",
          default_value_t = CONCURRENCY.default as u16, value_parser = |text: &str| CONCURRENCY.count::<u16>(text))]
    pub concurrency: u16,

    /// Milliseconds after which an attempt of a job is ended as FAILED
    #[arg(long = "job-timeout-ms", env = JOB_TIMEOUT.variable, value_name = "MS",
          default_value = JOB_TIMEOUT.default_text, value_parser = |text: &str| JOB_TIMEOUT.millis(text))]
    pub job_timeout: Duration,

    /// Worker pools that this worker serves, separated by commas
    #[arg(long = "worker-pools", env = "NORA_BACKUP_WORKER_POOLS", value_name = "POOLS",
          default_value = "default", value_parser = pools)]
    pub pools: Names,

    /// Folders under which directory sources and restore targets may lie, absolute, separated by ':'
    #[arg(long = "source-roots", env = "NORA_BACKUP_SOURCE_ROOTS", value_name = "PATHS",
          default_value = "", hide_default_value = true, value_parser = roots)]
    pub source_roots: Paths,

    /// Docker Engine to use: unix:///path/to/docker.sock, tcp://host:port or http://host:port
    /// (when not set: DOCKER_HOST, else the engine's usual socket)
    #[arg(
        long = "docker-host",
        env = "NORA_BACKUP_DOCKER_HOST",
        value_name = "URL"
    )]
    pub docker_host: Option<String>,

    /// What DOCKER_HOST holds; used when no docker-host is given.
    #[arg(long = "docker-host-fallback", env = "DOCKER_HOST", hide = true)]
    pub docker_host_fallback: Option<String>,

    /// Milliseconds that a claimed job stays this worker's without a sign of life
    #[arg(long = "lease-ms", env = LEASE.variable, value_name = "MS",
          default_value = LEASE.default_text, value_parser = |text: &str| LEASE.millis(text))]
    pub lease: Duration,

    /// Milliseconds that running jobs may still take after the worker was told to stop
    #[arg(long = "drain-ms", env = DRAIN.variable, value_name = "MS",
          default_value = DRAIN.default_text, value_parser = |text: &str| DRAIN.millis(text))]
    pub drain: Duration,

    /// Milliseconds that what no backup needs any more stays at the destination (never less than a
    /// job may take; 0: goes at once, only for vaults that nothing else can be using)
    #[arg(long = "compact-grace-ms", env = COMPACT_GRACE.variable, value_name = "MS",
          default_value = COMPACT_GRACE.default_text, value_parser = |text: &str| COMPACT_GRACE.millis(text))]
    pub compact_grace: Duration,

    /// Port of the worker's /health and /metrics (0: any free one)
    #[arg(long = "worker-health-port", env = HEALTH_PORT.variable, value_name = "PORT",
          default_value_t = HEALTH_PORT.default as u16, value_parser = |text: &str| HEALTH_PORT.count::<u16>(text))]
    pub health_port: u16,

    /// Address on which /health and /metrics listen
    #[arg(long = "worker-health-address", env = "NORA_BACKUP_WORKER_HEALTH_ADDRESS", value_name = "ADDRESS",
          default_value = "0.0.0.0", value_parser = address)]
    pub health_address: IpAddr,

    /// Whether restores may make device files (needs a worker that runs as root)
    #[arg(long = "restore-devices", env = "NORA_BACKUP_RESTORE_DEVICES", value_name = "BOOL",
          default_value = "false", action = clap::ArgAction::Set, value_parser = flag)]
    pub restore_devices: bool,

    /// Size of an agent's files, in MB of 1,048,576 bytes, from which on its backups carry a warning,
    /// unless the agent says otherwise (0: none)
    #[arg(long = "size-warning-mb", env = SIZE_WARNING.variable, value_name = "MB",
          default_value_t = SIZE_WARNING.default, value_parser = |text: &str| SIZE_WARNING.number(text))]
    pub size_warning_mb: u64,
}

/// How long a job that was told to stop may take to do so before it is left to itself.
pub(crate) const STOPPING_MAX: Duration = Duration::from_mins(1);

/// A list of names, as one setting holds it.
pub type Names = std::sync::Arc<[String]>;

/// A list of folders, as one setting holds it.
pub type Paths = std::sync::Arc<[PathBuf]>;

const CONCURRENCY: Whole = Whole {
    variable: "BACKUP_WORKER_CONCURRENCY",
    default: 2,
    default_text: "2",
    min: 1,
    max: 256,
    unit: "",
};
const JOB_TIMEOUT: Whole = Whole {
    variable: "NORA_BACKUP_JOB_TIMEOUT_MS",
    default: 1_800_000,
    default_text: "1800000",
    min: 1_000,
    max: 7 * 24 * 3_600_000,
    unit: " milliseconds",
};
const LEASE: Whole = Whole {
    variable: "NORA_BACKUP_LEASE_MS",
    default: 30_000,
    default_text: "30000",
    min: 1_000,
    max: 600_000,
    unit: " milliseconds",
};
const DRAIN: Whole = Whole {
    variable: "NORA_BACKUP_DRAIN_MS",
    default: 20_000,
    default_text: "20000",
    min: 0,
    max: 3_600_000,
    unit: " milliseconds",
};
const COMPACT_GRACE: Whole = Whole {
    variable: "NORA_BACKUP_COMPACT_GRACE_MS",
    default: 3_600_000,
    default_text: "3600000",
    min: 0,
    max: 90 * 24 * 3_600_000,
    unit: " milliseconds",
};
const SIZE_WARNING: Whole = Whole {
    variable: "NORA_BACKUP_SIZE_WARNING_MB",
    default: 0,
    default_text: "0",
    min: 0,
    max: 1 << 40,
    unit: " MB",
};
const HEALTH_PORT: Whole = Whole {
    variable: "BACKUP_WORKER_HEALTH_PORT",
    default: 4002,
    default_text: "4002",
    min: 0,
    max: 65_535,
    unit: "",
};

impl WorkerSettings {
    /// How long what no backup needs stays: longer than any job takes, or not at all.
    pub fn effective_compact_grace(&self) -> Duration {
        if self.compact_grace.is_zero() {
            return Duration::ZERO;
        }
        self.compact_grace
            .max(self.job_timeout + self.lease + STOPPING_MAX)
    }

    /// The Docker Engine to use; `None`: the usual socket.
    pub fn docker_host(&self) -> Option<&str> {
        [&self.docker_host, &self.docker_host_fallback]
            .into_iter()
            .filter_map(Option::as_deref)
            .map(str::trim)
            .find(|host| !host.is_empty())
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            concurrency: CONCURRENCY.default as u16,
            job_timeout: Duration::from_millis(JOB_TIMEOUT.default),
            pools: Names::from(["default".to_owned()]),
            source_roots: Paths::from([]),
            docker_host: None,
            docker_host_fallback: None,
            lease: Duration::from_millis(LEASE.default),
            drain: Duration::from_millis(DRAIN.default),
            compact_grace: Duration::from_millis(COMPACT_GRACE.default),
            health_port: HEALTH_PORT.default as u16,
            health_address: IpAddr::from([0, 0, 0, 0]),
            restore_devices: false,
            size_warning_mb: SIZE_WARNING.default,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        worker: WorkerSettings,
    }

    fn parse(arguments: &[&str]) -> Result<WorkerSettings, String> {
        Program::try_parse_from([&["program"], arguments].concat())
            .map(|program| program.worker)
            .map_err(|error| error.to_string().lines().next().unwrap_or("").to_owned())
    }

    #[test]
    fn defaults_are_those_of_the_flags() {
        let parsed = parse(&[]).unwrap();
        assert_eq!(
            format!("{parsed:?}"),
            format!("{:?}", WorkerSettings::default())
        );
    }

    #[test]
    fn empty_counts_as_not_set() {
        let parsed = parse(&[
            "--worker-concurrency=",
            "--job-timeout-ms=",
            "--worker-pools=",
            "--source-roots=",
            "--lease-ms=",
            "--worker-health-address=",
            "--restore-devices=",
            "--docker-host=",
        ])
        .unwrap();
        assert_eq!(parsed.concurrency, 2);
        assert_eq!(parsed.job_timeout, Duration::from_mins(30));
        assert_eq!(parsed.pools.as_ref(), ["default"]);
        assert!(parsed.source_roots.is_empty());
        assert_eq!(parsed.docker_host(), None);
    }

    #[test]
    fn wrong_values_are_named_in_one_line() {
        let error = parse(&["--worker-concurrency=0"]).unwrap_err();
        assert!(error.contains("'0'"), "{error}");
        assert!(
            error.contains("BACKUP_WORKER_CONCURRENCY may hold a whole number from 1 to 256"),
            "{error}"
        );
        let error = parse(&["--source-roots=/a:b"]).unwrap_err();
        assert!(error.contains("NORA_BACKUP_SOURCE_ROOTS"), "{error}");
        let error = parse(&["--worker-pools=a,B"]).unwrap_err();
        assert!(error.contains("NORA_BACKUP_WORKER_POOLS"), "{error}");
    }

    #[test]
    fn docker_host_falls_back() {
        let settings = WorkerSettings {
            docker_host: Some(String::new()),
            docker_host_fallback: Some("unix:///run/x.sock".to_owned()),
            ..WorkerSettings::default()
        };
        assert_eq!(settings.docker_host(), Some("unix:///run/x.sock"));
    }
}
