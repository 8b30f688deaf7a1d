//! Log lines, on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt};

use crate::args::{Command, LogFormat};

/// What a service logs when RUST_LOG says nothing. SQL statements and the
/// insides of HTTP/2 are for those who ask.
const SERVICE: &str = "info,sqlx=warn,h2=warn,hyper=warn,sea_orm_migration=warn,opendal=warn";
/// What a client command logs when RUST_LOG says nothing: it says everything
/// that matters by itself.
const CLIENT: &str = "warn,sqlx=warn,opendal=warn";

/// What a demonstration logs: the service inside it comes and goes, which is no news.
const DEMO: &str = "error";

/// Begins to log.
pub(crate) fn start(format: LogFormat, command: &Command) {
    let default = match command {
        Command::Standalone(_) => SERVICE,
        Command::Demo(_) => DEMO,
        _ => CLIENT,
    };
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
