//! Log lines, on standard error: how much of them each command shows.

use process::log::{self, LogFormat};

use crate::args::Command;

/// What a client command logs when RUST_LOG says nothing: it says everything
/// that matters by itself.
const CLIENT: &str = "warn,sqlx=warn,opendal=warn";

/// What a demonstration logs: the service inside it comes and goes, which is no news.
const DEMO: &str = "error";

/// Begins to log.
pub(crate) fn start(format: LogFormat, command: &Command) {
    let default = match command {
        Command::Standalone(_) => log::SERVICE,
        Command::Demo(_) => DEMO,
        _ => CLIENT,
    };
    log::start(format, default);
}
