//! The binary `nora-backup-server`: a server on PostgreSQL and RabbitMQ, any number of which may
//! run side by side.

use std::{process::ExitCode, sync::Arc};

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use fleet::{FleetSettings, listen};
use process::{
    arguments::forget_empty,
    service::{EXIT_CODES, Ended, Exit},
};
use tokio_util::sync::CancellationToken;

use crate::{Ops, ServerParts, ServerSettings, install_metrics, run};

const NAME: &str = "nora-backup-server";

/// Serves the API of nora-backup: accepts work, hands it to the workers through RabbitMQ, and tells
/// callers how it goes. Keeps everything it knows in PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Program {
    /// The server's settings.
    #[command(flatten)]
    pub server: ServerSettings,
    /// The settings of every program of a fleet.
    #[command(flatten)]
    pub fleet: FleetSettings,
}

/// Runs until it is told to stop.
pub fn main() -> ExitCode {
    let matches = forget_empty(Program::command()).get_matches();
    match Program::from_arg_matches(&matches) {
        Ok(program) => {
            let format = program.fleet.log_format;
            process::service::run(NAME, format, |stop| serve(program, stop))
        }
        Err(error) => error.exit(),
    }
}

async fn serve(program: Program, stop: CancellationToken) -> Result<(), Ended> {
    let settings = program.server;
    let joined = program.fleet.join(NAME).await?;
    let listener = listen("NORA_BACKUP_LISTEN_ADDR", settings.listen).await?;
    let admin = match settings.admin_listen.0 {
        None => None,
        Some(address) => Some(listen("NORA_BACKUP_ADMIN_ADDR", address).await?),
    };
    let failed = |error: anyhow::Error| Ended::new(Exit::Failed, format!("{error:#}"));
    let metrics = install_metrics().map_err(failed)?;
    let ops = match settings.ops_listen.0 {
        None => None,
        Some(address) => Some(Ops {
            listener: listen("NORA_BACKUP_OPS_ADDR", address).await?,
            metrics,
        }),
    };
    let rabbit = Arc::new(joined.rabbit.clone());
    let parts = ServerParts {
        catalog: joined.catalog.clone(),
        queue: rabbit.clone(),
        bus: rabbit.clone(),
        announcer: rabbit,
        destinations: joined.destinations.clone(),
        keyring: joined.keyring.clone(),
        vault: program.fleet.vault,
        settings,
        ops,
        admin,
    };
    let ended = run(parts, listener, stop).await.map_err(failed);
    ended.and(joined.close().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Program::command().debug_assert();
    }
}
