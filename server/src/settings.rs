//! What can be configured of a server.
//!
//! Every setting is a flag and an environment variable; a variable that is set but empty counts as
//! not set. A wrong value is answered in one line that names the variable and what it may hold; a
//! secret's value is never repeated.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use process::settings::Whole;

mod access;
mod parse;

pub use access::AccessSettings;

use parse::{address, admin_address, flag, optional_address, path};

/// Settings of a server.
#[derive(Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct ServerSettings {
    /// Address on which the gRPC services listen
    #[arg(long = "listen-addr", env = LISTEN, value_name = "ADDRESS:PORT",
          default_value = LISTEN_DEFAULT, value_parser = address)]
    pub listen: SocketAddr,

    /// Address on which administrators call: AdminService and all the others (off: nowhere)
    #[arg(long = "admin-addr", env = ADMIN, value_name = "ADDRESS:PORT",
          default_value = ADMIN_DEFAULT, value_parser = admin_address)]
    pub admin_listen: MaybeAddress,

    /// Address on which /health, /livez, /readyz and /metrics listen (when not set: nowhere)
    #[arg(long = "ops-addr", env = OPS, value_name = "ADDRESS:PORT",
          default_value = "", hide_default_value = true, value_parser = optional_address)]
    pub ops_listen: MaybeAddress,

    /// Secret that signs callers' tokens (HS256), at least 32 bytes
    #[arg(
        long = "jwt-secret",
        env = "JWT_SECRET",
        value_name = "SECRET",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub jwt_secret: String,

    /// Audience that tokens must name (when not set: not checked)
    #[arg(
        long = "jwt-audience",
        env = "NORA_BACKUP_JWT_AUDIENCE",
        value_name = "AUDIENCE",
        default_value = "",
        hide_default_value = true
    )]
    pub jwt_audience: String,

    /// Issuer that tokens must name (when not set: not checked)
    #[arg(
        long = "jwt-issuer",
        env = "NORA_BACKUP_JWT_ISSUER",
        value_name = "ISSUER",
        default_value = "",
        hide_default_value = true
    )]
    pub jwt_issuer: String,

    /// PEM file with the server's certificate chain; turns TLS on
    #[arg(
        long = "tls-cert",
        env = "NORA_BACKUP_TLS_CERT",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true,
        value_parser = path()
    )]
    pub tls_certificate: PathBuf,

    /// PEM file with the certificate's private key
    #[arg(
        long = "tls-key",
        env = "NORA_BACKUP_TLS_KEY",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true,
        value_parser = path()
    )]
    pub tls_key: PathBuf,

    /// PEM file with the authorities whose certificates clients must show; turns mutual TLS on
    #[arg(
        long = "tls-client-ca",
        env = "NORA_BACKUP_TLS_CLIENT_CA",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true,
        value_parser = path()
    )]
    pub tls_client_authority: PathBuf,

    /// Whether the server describes its services to whoever asks (gRPC reflection)
    #[arg(long = "reflection", env = "NORA_BACKUP_REFLECTION", value_name = "BOOL",
          default_value = "true", action = clap::ArgAction::Set, value_parser = flag)]
    pub reflection: bool,

    /// Connections at the same time; further ones are closed at once
    #[arg(long = "max-connections", env = CONNECTIONS.variable, value_name = "N",
          default_value = CONNECTIONS.default_text, value_parser = |text: &str| CONNECTIONS.count::<usize>(text))]
    pub connections_max: usize,

    /// Calls (other than streams) that are worked on at the same time
    #[arg(long = "max-calls", env = CALLS.variable, value_name = "N",
          default_value = CALLS.default_text, value_parser = |text: &str| CALLS.count::<usize>(text))]
    pub calls_max: usize,

    /// Watch streams at the same time
    #[arg(long = "max-watches", env = WATCHES.variable, value_name = "N",
          default_value = WATCHES.default_text, value_parser = |text: &str| WATCHES.count::<usize>(text))]
    pub watches_max: usize,

    /// Downloads at the same time
    #[arg(long = "max-downloads", env = DOWNLOADS.variable, value_name = "N",
          default_value = DOWNLOADS.default_text, value_parser = |text: &str| DOWNLOADS.count::<usize>(text))]
    pub downloads_max: usize,

    /// Milliseconds that a call (other than a stream) may take
    #[arg(long = "call-timeout-ms", env = CALL_TIMEOUT.variable, value_name = "MS",
          default_value = CALL_TIMEOUT.default_text, value_parser = |text: &str| CALL_TIMEOUT.millis(text))]
    pub call_timeout: Duration,

    /// Milliseconds after which a stream is cut that its caller does not read
    #[arg(long = "slow-reader-ms", env = SLOW_READER.variable, value_name = "MS",
          default_value = SLOW_READER.default_text, value_parser = |text: &str| SLOW_READER.millis(text))]
    pub slow_reader: Duration,

    /// Milliseconds that calls and downloads may still take after the server was told to stop
    #[arg(long = "server-drain-ms", env = DRAIN.variable, value_name = "MS",
          default_value = DRAIN.default_text, value_parser = |text: &str| DRAIN.millis(text))]
    pub server_drain: Duration,

    /// Milliseconds after which a queued job that no worker has taken is sent again
    #[arg(long = "redispatch-ms", env = REDISPATCH.variable, value_name = "MS",
          default_value = REDISPATCH.default_text, value_parser = |text: &str| REDISPATCH.millis(text))]
    pub redispatch: Duration,

    /// Milliseconds after which a server looks for jobs of which no other process has told it
    #[arg(long = "dispatch-poll-ms", env = DISPATCH_POLL.variable, value_name = "MS",
          default_value = DISPATCH_POLL.default_text, value_parser = |text: &str| DISPATCH_POLL.millis(text))]
    pub dispatch_poll: Duration,

    /// Milliseconds between two looks for schedules that are due and backups that retention removes
    #[arg(long = "schedule-poll-ms", env = SCHEDULE_POLL.variable, value_name = "MS",
          default_value = SCHEDULE_POLL.default_text, value_parser = |text: &str| SCHEDULE_POLL.millis(text))]
    pub schedule_poll: Duration,

    /// Completed backups that are kept of an agent, the newest ones (0: all)
    #[arg(long = "limit-per-agent", env = LIMIT.variable, value_name = "N",
          default_value = LIMIT.default_text, value_parser = |text: &str| LIMIT.count::<usize>(text))]
    pub limit_per_agent: usize,

    /// Days after which scheduled backups, and failed and canceled ones, are removed (0: never)
    #[arg(long = "retention-days", env = RETENTION.variable, value_name = "DAYS",
          default_value = RETENTION.default_text, value_parser = |text: &str| RETENTION.count::<usize>(text))]
    pub retention_days: usize,

    /// MB of 1,048,576 bytes that all backups together should take at the most: no new workspaces are
    /// admitted beyond, and backups go on (0: no limit)
    #[arg(long = "storage-mb", env = STORAGE.variable, value_name = "MB",
          default_value = STORAGE.default_text, value_parser = |text: &str| STORAGE.count::<usize>(text))]
    pub storage_mb: usize,

    /// Who may call, how much, and what is kept of it.
    #[command(flatten)]
    pub access: AccessSettings,
}

/// An address that may be absent.
pub type MaybeAddress = parse::Maybe<SocketAddr>;

const LISTEN: &str = "NORA_BACKUP_LISTEN_ADDR";
const LISTEN_DEFAULT: &str = "127.0.0.1:50551";
const ADMIN: &str = "NORA_BACKUP_ADMIN_ADDR";
/// Reached from this machine only, unless somebody decides otherwise.
pub const ADMIN_DEFAULT: &str = "127.0.0.1:50552";
const OPS: &str = "NORA_BACKUP_OPS_ADDR";
const CONNECTIONS: Whole = Whole {
    variable: "NORA_BACKUP_MAX_CONNECTIONS",
    default: 4_096,
    default_text: "4096",
    min: 1,
    max: 1_000_000,
    unit: "",
};
const CALLS: Whole = Whole {
    variable: "NORA_BACKUP_MAX_CALLS",
    default: 256,
    default_text: "256",
    min: 1,
    max: 100_000,
    unit: "",
};
const WATCHES: Whole = Whole {
    variable: "NORA_BACKUP_MAX_WATCHES",
    default: 4_096,
    default_text: "4096",
    min: 1,
    max: 1_000_000,
    unit: "",
};
const DOWNLOADS: Whole = Whole {
    variable: "NORA_BACKUP_MAX_DOWNLOADS",
    default: 16,
    default_text: "16",
    min: 1,
    max: 10_000,
    unit: "",
};
const CALL_TIMEOUT: Whole = Whole {
    variable: "NORA_BACKUP_CALL_TIMEOUT_MS",
    default: 30_000,
    default_text: "30000",
    min: 100,
    max: 3_600_000,
    unit: " milliseconds",
};
const SLOW_READER: Whole = Whole {
    variable: "NORA_BACKUP_SLOW_READER_MS",
    default: 60_000,
    default_text: "60000",
    min: 1_000,
    max: 3_600_000,
    unit: " milliseconds",
};
const DRAIN: Whole = Whole {
    variable: "NORA_BACKUP_SERVER_DRAIN_MS",
    default: 10_000,
    default_text: "10000",
    min: 0,
    max: 3_600_000,
    unit: " milliseconds",
};
const REDISPATCH: Whole = Whole {
    variable: "NORA_BACKUP_REDISPATCH_MS",
    default: 60_000,
    default_text: "60000",
    min: 1_000,
    max: 3_600_000,
    unit: " milliseconds",
};
const DISPATCH_POLL: Whole = Whole {
    variable: "NORA_BACKUP_DISPATCH_POLL_MS",
    default: 500,
    default_text: "500",
    min: 50,
    max: 600_000,
    unit: " milliseconds",
};
const SCHEDULE_POLL: Whole = Whole {
    variable: "NORA_BACKUP_SCHEDULE_POLL_MS",
    default: 60_000,
    default_text: "60000",
    min: 100,
    max: 600_000,
    unit: " milliseconds",
};
const LIMIT: Whole = Whole {
    variable: "NORA_BACKUP_LIMIT_PER_AGENT",
    default: 10,
    default_text: "10",
    min: 0,
    max: 100_000,
    unit: "",
};
const RETENTION: Whole = Whole {
    variable: "NORA_BACKUP_RETENTION_DAYS",
    default: 30,
    default_text: "30",
    min: 0,
    max: 36_500,
    unit: " days",
};

const STORAGE: Whole = Whole {
    variable: "NORA_BACKUP_STORAGE_MB",
    default: 51_200,
    default_text: "51200",
    min: 0,
    max: 1 << 40,
    unit: " MB",
};

impl Default for ServerSettings {
    /// As when nothing is set. There is no default secret: a server without one does not start.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50_551)),
            admin_listen: parse::Maybe(Some(SocketAddr::from(([127, 0, 0, 1], 50_552)))),
            ops_listen: parse::Maybe(None),
            jwt_secret: String::new(),
            jwt_audience: String::new(),
            jwt_issuer: String::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_client_authority: PathBuf::new(),
            reflection: true,
            connections_max: CONNECTIONS.default as usize,
            calls_max: CALLS.default as usize,
            watches_max: WATCHES.default as usize,
            downloads_max: DOWNLOADS.default as usize,
            call_timeout: Duration::from_millis(CALL_TIMEOUT.default),
            slow_reader: Duration::from_millis(SLOW_READER.default),
            server_drain: Duration::from_millis(DRAIN.default),
            redispatch: Duration::from_millis(REDISPATCH.default),
            dispatch_poll: Duration::from_millis(DISPATCH_POLL.default),
            schedule_poll: Duration::from_millis(SCHEDULE_POLL.default),
            limit_per_agent: LIMIT.default as usize,
            retention_days: RETENTION.default as usize,
            storage_mb: STORAGE.default as usize,
            access: AccessSettings::default(),
        }
    }
}

impl std::fmt::Debug for ServerSettings {
    /// Everything but the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerSettings")
            .field("listen", &self.listen)
            .field("admin_listen", &self.admin_listen.0)
            .field("ops_listen", &self.ops_listen.0)
            .field("jwt_secret_set", &!self.jwt_secret.trim().is_empty())
            .field("tls", &!self.tls_certificate.as_os_str().is_empty())
            .field("reflection", &self.reflection)
            .field("connections_max", &self.connections_max)
            .field("calls_max", &self.calls_max)
            .field("watches_max", &self.watches_max)
            .field("downloads_max", &self.downloads_max)
            .field("call_timeout", &self.call_timeout)
            .field("slow_reader", &self.slow_reader)
            .field("server_drain", &self.server_drain)
            .field("redispatch", &self.redispatch)
            .field("dispatch_poll", &self.dispatch_poll)
            .field("schedule_poll", &self.schedule_poll)
            .field("limit_per_agent", &self.limit_per_agent)
            .field("retention_days", &self.retention_days)
            .field("storage_mb", &self.storage_mb)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// A setting that holds what it may not hold: one line that names the variable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{variable} {what}")]
pub struct SettingsError {
    /// The environment variable.
    pub variable: &'static str,
    /// What it holds (never a secret), and what it may hold.
    pub what: String,
}

impl SettingsError {
    pub(crate) fn new(variable: &'static str, what: impl Into<String>) -> Self {
        Self {
            variable,
            what: what.into(),
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
        server: ServerSettings,
    }

    fn parse(arguments: &[&str]) -> Result<ServerSettings, String> {
        Program::try_parse_from([&["program"], arguments].concat())
            .map(|program| program.server)
            .map_err(|error| error.to_string().lines().next().unwrap_or("").to_owned())
    }

    #[test]
    fn defaults_are_those_of_the_flags() {
        assert_eq!(
            format!("{:?}", parse(&[]).unwrap()),
            format!("{:?}", ServerSettings::default())
        );
    }

    #[test]
    fn empty_counts_as_not_set() {
        let parsed = parse(&[
            "--listen-addr=",
            "--admin-addr=",
            "--ops-addr=",
            "--reflection=",
            "--max-calls=",
            "--call-timeout-ms=",
        ])
        .unwrap();
        assert_eq!(
            format!("{parsed:?}"),
            format!("{:?}", ServerSettings::default())
        );
    }

    #[test]
    fn wrong_values_are_named_in_one_line() {
        let error = parse(&["--listen-addr=nowhere"]).unwrap_err();
        assert!(error.contains("NORA_BACKUP_LISTEN_ADDR"), "{error}");
        let error = parse(&["--admin-addr=on"]).unwrap_err();
        assert!(error.contains("NORA_BACKUP_ADMIN_ADDR may hold"), "{error}");
        let off = parse(&["--admin-addr=off"]).unwrap();
        assert_eq!(off.admin_listen.0, None);
        let error = parse(&["--max-calls=0"]).unwrap_err();
        assert!(
            error.contains("NORA_BACKUP_MAX_CALLS may hold a whole number from 1 to 100000"),
            "{error}"
        );
        let error = parse(&["--reflection=perhaps"]).unwrap_err();
        assert!(error.contains("NORA_BACKUP_REFLECTION"), "{error}");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let settings = ServerSettings {
            jwt_secret: "a-very-secret-secret-of-many-bytes".to_owned(),
            ..ServerSettings::default()
        };
        assert!(!format!("{settings:?}").contains("very-secret"));
    }
}
