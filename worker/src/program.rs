//! The binary `nora-backup-worker`: a worker on PostgreSQL and RabbitMQ, any number of which may
//! run side by side.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use fleet::{FleetSettings, listen};
use metrics_exporter_prometheus::PrometheusBuilder;
use process::{
    arguments::forget_empty,
    service::{EXIT_CODES, Ended, Exit},
};
use tokio_util::sync::CancellationToken;

use crate::{Ops, WorkerParts, WorkerSettings, run};

const NAME: &str = "nora-backup-worker";

/// Does the work of nora-backup: takes jobs from RabbitMQ, reads agents, writes their backups to
/// the destination, and brings them back.
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Program {
    /// The worker's settings.
    #[command(flatten)]
    pub worker: WorkerSettings,
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
    let settings = program.worker;
    let joined = program.fleet.join(NAME).await?;
    let address = SocketAddr::new(settings.health_address, settings.health_port);
    let listener = listen("BACKUP_WORKER_HEALTH_PORT", address).await?;
    let failed = |error: anyhow::Error| Ended::new(Exit::Failed, format!("{error:#}"));
    let metrics = PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| failed(error.into()))?;
    let rabbit = Arc::new(joined.rabbit.clone());
    let parts = WorkerParts {
        catalog: joined.catalog.clone(),
        queue: rabbit.clone(),
        bus: rabbit,
        destinations: joined.destinations.clone(),
        keyring: joined.keyring.clone(),
        vault_settings: program.fleet.vault,
        settings,
        ops: Some(Ops {
            listener,
            metrics: Some(metrics),
        }),
    };
    let ended = run(parts, stop).await.map_err(failed);
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
