//! Log lines, on standard error.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, fmt};

/// What a service logs when RUST_LOG says nothing. SQL statements and the
/// insides of HTTP/2, AMQP and the Docker Engine's client are for those who ask.
pub const SERVICE: &str = "info,sqlx=warn,h2=warn,hyper=warn,sea_orm_migration=warn,opendal=warn,\
    lapin=off,bollard=info";

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Begins to log; `default` filters when RUST_LOG says nothing.
pub fn start(format: LogFormat, default: &str) {
    let filter = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.trim().is_empty())
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(default));
    let lines = fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second start (in tests) keeps the first.
    let _ = match format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Human => lines
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .try_init(),
    };
}
