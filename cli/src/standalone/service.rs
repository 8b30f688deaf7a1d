//! Server and worker in one process, joined by a queue and a bus in memory.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use catalog::{Catalog, CatalogSettings};
use destinations::Destinations;
use queue::{InProcessBus, InProcessQueue, Nobody};
use server::{ServerParts, ServerSettings};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use vault::{
    DestinationSettings, KeySettings, Keyring, Store, VaultSettings,
    destination::{HostKeys, HostKeysInMemory},
};
use worker::{WorkerParts, WorkerSettings};

use crate::{
    error::{CliError, Result},
    exit::Exit,
    standalone::data_dir::DataDir,
};

/// The settings of all parts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server's.
    pub server: ServerSettings,
    /// The worker's.
    pub worker: WorkerSettings,
    /// The catalog's.
    pub catalog: CatalogSettings,
    /// The destination's.
    pub destination: DestinationSettings,
    /// The keys.
    pub keys: KeySettings,
    /// The vaults'.
    pub vault: VaultSettings,
}

impl Settings {
    /// The defaults, with everything in one data directory and nothing from the
    /// environment.
    pub fn in_one_place(dir: &DataDir, key: String, jwt_secret: String) -> Self {
        Self {
            server: ServerSettings {
                jwt_secret,
                ..ServerSettings::default()
            },
            worker: WorkerSettings {
                health_port: 0,
                health_address: Ipv4Addr::LOCALHOST.into(),
                ..WorkerSettings::default()
            },
            catalog: CatalogSettings::sqlite(dir.catalog()),
            destination: DestinationSettings::local(dir.path().to_path_buf()),
            keys: KeySettings {
                encryption_key: key,
                ..KeySettings::default()
            },
            vault: VaultSettings::default(),
        }
    }
}

/// Opens where vaults are kept; connects to nothing yet.
pub fn open_destination(settings: &DestinationSettings) -> Result<Arc<dyn Store>> {
    let host_keys: Arc<dyn HostKeys> = Arc::new(HostKeysInMemory::default());
    settings
        .open(&host_keys)
        .map_err(|error| CliError::usage(error.to_string()))
}

/// Everything opened, not yet running.
pub struct Parts {
    settings: Settings,
    catalog: Catalog,
    destinations: Arc<Destinations>,
    keyring: Keyring,
    queue: InProcessQueue,
    bus: InProcessBus,
    server_ops: Option<server::Ops>,
    worker_ops: Option<worker::Ops>,
    admin: Option<TcpListener>,
}

impl Parts {
    /// Opens key, destination and catalog; anything wrong with them is said here.
    pub async fn open(settings: Settings) -> Result<Self> {
        let keyring = settings
            .keys
            .keyring()
            .map_err(|error| CliError::usage(error.to_string()))?;
        let destination = settings
            .destination
            .destination()
            .map_err(|error| CliError::usage(error.to_string()))?;
        let failed = |doing: &str, error: &dyn std::error::Error| {
            CliError::failed(format!("{doing} (NORA_BACKUP_DATABASE_URL): {error}"))
        };
        let catalog = Catalog::connect(&settings.catalog)
            .await
            .map_err(|error| failed("open the database", &error))?;
        catalog
            .migrate()
            .await
            .map_err(|error| failed("bring the database up to date", &error))?;
        let destinations = Destinations::new(catalog.clone(), keyring.clone());
        destinations
            .register_default(&destination)
            .await
            .map_err(|error| failed("note the destination", &error))?;
        // The queue in memory is empty: what the last process had put there is
        // put there again.
        catalog
            .redispatch_all()
            .await
            .map_err(|error| failed("look for waiting jobs", &error))?;
        let (queue, bus) = (InProcessQueue::default(), InProcessBus::default());
        Ok(Self {
            settings,
            catalog,
            destinations: Arc::new(destinations),
            keyring,
            queue,
            bus,
            server_ops: None,
            worker_ops: None,
            admin: None,
        })
    }

    /// Serves AdminService too, on a listener of its own.
    pub fn with_admin(mut self, admin: Option<TcpListener>) -> Self {
        self.admin = admin;
        self
    }

    /// Serves `/health` and `/metrics` too, where the settings say. A port that is
    /// taken is no reason not to back up.
    pub async fn with_ops(mut self) -> Result<Self> {
        let metrics =
            server::install_metrics().map_err(|error| CliError::failed(format!("{error:#}")))?;
        if let Some(address) = self.settings.server.ops_listen.0 {
            let listener = TcpListener::bind(address).await.map_err(|error| {
                CliError::io(
                    format!("listen on {address} (NORA_BACKUP_OPS_ADDR)"),
                    &error,
                )
            })?;
            self.server_ops = Some(server::Ops {
                listener,
                metrics: metrics.clone(),
            });
        }
        let worker = &self.settings.worker;
        let address = SocketAddr::new(worker.health_address, worker.health_port);
        match TcpListener::bind(address).await {
            Ok(listener) => {
                self.worker_ops = Some(worker::Ops {
                    listener,
                    metrics: Some(metrics),
                });
            }
            Err(error) => warn!(
                %address,
                %error,
                "the worker's health port is taken (BACKUP_WORKER_HEALTH_PORT): going on without it"
            ),
        }
        Ok(self)
    }

    /// Runs both until `stop`; the end of one is the end of the other.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> Result<()> {
        let Self {
            settings,
            catalog,
            destinations,
            keyring,
            queue,
            bus,
            server_ops,
            worker_ops,
            admin,
        } = self;
        let server = ServerParts {
            catalog: catalog.clone(),
            queue: Arc::new(queue.clone()),
            bus: Arc::new(bus.clone()),
            announcer: Arc::new(Nobody),
            destinations: destinations.clone(),
            keyring: keyring.clone(),
            vault: settings.vault.clone(),
            settings: settings.server,
            ops: server_ops,
            admin,
        };
        let worker = WorkerParts {
            catalog: catalog.clone(),
            queue: Arc::new(queue),
            bus: Arc::new(bus),
            destinations,
            keyring,
            vault_settings: settings.vault,
            settings: settings.worker,
            ops: worker_ops,
        };
        // Stopping either way stops both: the token is a child, so that a part that
        // ends by itself can stop the other one.
        let stop = stop.child_token();
        let mut running = JoinSet::new();
        running.spawn(server::run(server, listener, stop.clone()));
        running.spawn(worker::run(worker, stop.clone()));
        let mut result = Ok(());
        while let Some(ended) = running.join_next().await {
            stop.cancel();
            let ended = match ended {
                Ok(ended) => ended.map_err(|error| CliError::failed(format!("{error:#}"))),
                Err(error) => Err(CliError::failed(format!(
                    "a part of the service broke off: {error}"
                ))),
            };
            result = result.and(ended);
        }
        let closed = catalog.close().await;
        result.and(closed.map_err(|error| CliError::failed(format!("close the database: {error}"))))
    }
}

/// A port that is free now.
pub async fn listen_anywhere() -> Result<(TcpListener, SocketAddr)> {
    let bound: io::Result<_> = async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }
    .await;
    bound.map_err(|error| CliError::new(Exit::Failed, format!("listen on 127.0.0.1: {error}")))
}
