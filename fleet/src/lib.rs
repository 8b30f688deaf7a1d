//! What a server and a worker of a fleet are given, and open before they do anything of their
//! own: the keys, the catalog, the destinations, RabbitMQ.
//!
//! - [`FleetSettings`]: the settings that both have, to be flattened into a program's own
//! - [`Joined`]: what is open once [`FleetSettings::join`] has come to its end
//! - [`listen`]: a port, bound, or the variable that names it
//!
//! Whatever can't be opened ends the program with the variable that is to be looked at. It must
//! not know what either of them does.

use std::{net::SocketAddr, sync::Arc};

use catalog::{Catalog, CatalogSettings};
use clap::Args;
use destinations::Destinations;
use process::{
    log::LogFormat,
    service::{Ended, Exit},
};
use queue::{AmqpSettings, ConnectError, RabbitMq};
use tokio::net::TcpListener;
use vault::{DestinationSettings, KeySettings, Keyring, VaultSettings};

/// The settings that every program of a fleet has.
#[derive(Debug, Args)]
pub struct FleetSettings {
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

/// What a program of a fleet has open.
#[derive(Debug)]
pub struct Joined {
    /// The catalog.
    pub catalog: Catalog,
    /// The keys.
    pub keyring: Keyring,
    /// The destinations, the environment's among them.
    pub destinations: Arc<Destinations>,
    /// The queue and the event bus.
    pub rabbit: RabbitMq,
}

impl FleetSettings {
    /// Opens everything, the keys first: a wrong one costs nothing yet.
    pub async fn join(&self, program: &str) -> Result<Joined, Ended> {
        let usage = |error: &dyn std::error::Error| Ended::new(Exit::Usage, error);
        let keyring = self.keys.keyring().map_err(|error| usage(&error))?;
        let destination = self
            .destination
            .destination()
            .map_err(|error| usage(&error))?;
        let catalog = Catalog::open(&self.catalog).await.map_err(|error| {
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
            .map_err(|error| {
                Ended::new(Exit::Unavailable, format!("NORA_BACKUP_STORAGE: {error}"))
            })?;
        let connected = RabbitMq::connect(&self.amqp, program).await;
        let rabbit = connected.map_err(|error| match error {
            ConnectError::Refused { .. } => usage(&error),
            ConnectError::Unreachable { .. } => Ended::new(Exit::Unavailable, error),
        })?;
        Ok(Joined {
            catalog,
            keyring,
            destinations: Arc::new(destinations),
            rabbit,
        })
    }
}

impl Joined {
    /// Closes the connections, RabbitMQ's first: it has nothing to keep.
    pub async fn close(self) -> Result<(), Ended> {
        self.rabbit.close().await;
        let closed = self.catalog.close().await;
        closed.map_err(|error| Ended::new(Exit::Failed, error))
    }
}

/// Binds a port; an error names the variable that says which.
pub async fn listen(variable: &str, address: SocketAddr) -> Result<TcpListener, Ended> {
    TcpListener::bind(address).await.map_err(|error| {
        Ended::new(
            Exit::Usage,
            format!("{variable}: listen on {address}: {error}"),
        )
    })
}
