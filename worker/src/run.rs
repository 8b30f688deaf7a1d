//! Puts a worker together from its parts and runs it until it is told to stop.

use std::sync::Arc;

use catalog::Catalog;
use destinations::Destinations;
use futures::FutureExt as _;
use queue::{EventBus, JobQueue};
use tokio_util::sync::CancellationToken;
use vault::{Keyring, VaultSettings};

use crate::{
    jobs,
    ops::{self, Ops},
    runner::{Shared, be_seen, clear_up, take_jobs, tell_of_work},
    settings::WorkerSettings,
};

/// What a worker is made of.
pub struct WorkerParts {
    /// The catalog, migrated.
    pub catalog: Catalog,
    /// Where word of jobs comes from.
    pub queue: Arc<dyn JobQueue>,
    /// Where news of jobs goes to.
    pub bus: Arc<dyn EventBus>,
    /// The destinations; the environment's own is registered.
    pub destinations: Arc<Destinations>,
    /// The keys of its vaults.
    pub keyring: Keyring,
    /// How much a vault may use.
    pub vault_settings: VaultSettings,
    /// The worker's own settings.
    pub settings: WorkerSettings,
    /// Where `/health` and `/metrics` are served; `None`: nowhere.
    pub ops: Option<Ops>,
}

/// Runs a worker. When `shutdown` is canceled it takes no more jobs, lets the running ones go on
/// for as long as the settings allow, hands back those that have not ended by then, and returns.
pub async fn run(parts: WorkerParts, shutdown: CancellationToken) -> anyhow::Result<()> {
    let worker = Arc::new(Shared {
        catalog: parts.catalog,
        queue: parts.queue,
        bus: parts.bus,
        destinations: parts.destinations,
        keyring: parts.keyring,
        vault_settings: parts.vault_settings,
        settings: parts.settings,
        name: name(),
        shutdown: shutdown.clone(),
        work: Arc::new(|context| jobs::run(context).boxed()),
    });
    tracing::info!(
        worker = worker.name,
        concurrency = worker.settings.concurrency,
        pools = ?worker.settings.pools,
        "worker takes jobs"
    );
    let served = CancellationToken::new();
    let serving = match parts.ops {
        // It goes on while jobs are drained.
        Some(ops) => ops::serve(ops, worker.clone(), served.clone()).boxed(),
        None => async { Ok(()) }.boxed(),
    };
    let working = async {
        tokio::join!(
            take_jobs(worker.clone()),
            clear_up(worker.clone()),
            be_seen(worker.clone()),
            tell_of_work(worker.clone())
        );
        served.cancel();
        anyhow::Ok(())
    };
    tokio::try_join!(working, serving)?;
    tracing::info!(worker = worker.name, "worker stopped");
    Ok(())
}

/// A name under which leases are held: for people, and never the same twice.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let id = uuid::Uuid::now_v7().simple().to_string();
    let tail = &id[id.len() - 8..];
    format!("{}-{}-{tail}", host.trim(), std::process::id())
}
