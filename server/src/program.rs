//! The binary `nora-backup-server`: a server on PostgreSQL and RabbitMQ, any number of which may
//! run side by side.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;
use catalog::{Catalog, CatalogSettings};
use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use destinations::Destinations;
use process::{
    arguments::forget_empty,
    log::LogFormat,
    service::{EXIT_CODES, Ended, Exit},
};
use queue::{AmqpSettings, ConnectError, RabbitMq};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vault::{DestinationSettings, KeySettings, VaultSettings};

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
    /// The catalog's settings.
    #[command(flatten)]
    pub catalog: CatalogSettings,
    /// The queue's settings.
    #[command(flatten)]
    pub amqp: AmqpSettings,
    /// Where vaults are kept.
    #[command(flatten)]
    pub destination: DestinationSettings,
    /// The keys.
    #[command(flatten)]
    pub keys: KeySettings,
    /// How much a vault may use.
    #[command(flatten)]
    pub vault: VaultSettings,
    /// How log lines look
    #[arg(long, env = "NORA_BACKUP_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human,
          value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// Runs until it is told to stop.
pub fn main() -> ExitCode {
    let matches = forget_empty(Program::command()).get_matches();
    match Program::from_arg_matches(&matches) {
        Ok(program) => {
            let format = program.log_format;
            process::service::run(NAME, format, |stop| serve(program, stop))
        }
        Err(error) => error.exit(),
    }
}

async fn serve(program: Program, stop: CancellationToken) -> Result<(), Ended> {
    let usage = |error: &dyn std::error::Error| Ended::new(Exit::Usage, error);
    let keyring = program.keys.keyring().map_err(|error| usage(&error))?;
    let destination = program
        .destination
        .destination()
        .map_err(|error| usage(&error))?;
    let catalog = Catalog::open(&program.catalog).await.map_err(|error| {
        let exit = if error.is_retryable() {
            Exit::Unavailable
        } else {
            Exit::Usage
        };
        Ended::new(exit, format!("NORA_BACKUP_DATABASE_URL: {error}"))
    })?;
    let destinations = Destinations::new(catalog.clone(), keyring.clone());
    destinations
        .register_default(&destination)
        .await
        .map_err(|error| Ended::new(Exit::Unavailable, format!("NORA_BACKUP_STORAGE: {error}")))?;
    let rabbit = RabbitMq::connect(&program.amqp, NAME)
        .await
        .map_err(|error| match error {
            ConnectError::Refused { .. } => usage(&error),
            ConnectError::Unreachable { .. } => Ended::new(Exit::Unavailable, error),
        })?;
    let address = program.server.listen;
    let bound = TcpListener::bind(address).await;
    let listener = bound
        .with_context(|| format!("NORA_BACKUP_LISTEN_ADDR: listen on {address}"))
        .map_err(|error| Ended::new(Exit::Usage, format!("{error:#}")))?;
    let admin = match program.server.admin_listen.0 {
        None => None,
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .with_context(|| format!("NORA_BACKUP_ADMIN_ADDR: listen on {address}"))
                .map_err(|error| Ended::new(Exit::Usage, format!("{error:#}")))?,
        ),
    };
    let failed = |error: anyhow::Error| Ended::new(Exit::Failed, format!("{error:#}"));
    let metrics = install_metrics().map_err(failed)?;
    let ops = match program.server.ops_listen.0 {
        None => None,
        Some(address) => Some(Ops {
            listener: TcpListener::bind(address)
                .await
                .with_context(|| format!("NORA_BACKUP_OPS_ADDR: listen on {address}"))
                .map_err(|error| Ended::new(Exit::Usage, format!("{error:#}")))?,
            metrics,
        }),
    };
    let parts = ServerParts {
        catalog: catalog.clone(),
        queue: Arc::new(rabbit.clone()),
        bus: Arc::new(rabbit.clone()),
        announcer: Arc::new(rabbit.clone()),
        destinations: Arc::new(destinations),
        keyring,
        vault: program.vault,
        settings: program.server,
        ops,
        admin,
    };
    let ended = run(parts, listener, stop).await.map_err(failed);
    rabbit.close().await;
    let closed = catalog.close().await;
    ended.and(closed.map_err(|error| failed(error.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Program::command().debug_assert();
    }
}
