//! What every service works with: the parts it was given, and how the process stops.

use std::{sync::Arc, time::Duration};

use catalog::Catalog;
use destinations::{Destinations, DestinationsError};
use proto::queue::v1::JobEvent;
use queue::{Announcer, EventBus, JobQueue};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vault::{Keyring, ManifestRef, Vault, VaultError, VaultSettings};

use crate::{clock::now_ms, status::ApiError, watch::Ground};

/// Version of the event that this program publishes.
const EVENT_VERSION: u32 = 1;

/// How the process stops: first politely, then for good.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Canceled when the server is told to stop: nothing new begins, watch streams end.
    pub asked: CancellationToken,
    /// Canceled when time is up: downloads and calls that still go on end too.
    pub deadline: CancellationToken,
}

/// What every service works with.
pub struct State {
    /// What is known.
    pub catalog: Catalog,
    /// Where jobs go.
    pub queue: Arc<dyn JobQueue>,
    /// Where events come from.
    pub bus: Arc<dyn EventBus>,
    /// Who tells other services.
    pub announcer: Arc<dyn Announcer>,
    /// Where vaults lie.
    pub destinations: Arc<Destinations>,
    /// What opens them.
    pub keyring: Keyring,
    /// How much a vault may use.
    pub vault_settings: VaultSettings,
    /// How long a caller may leave its stream unread.
    pub slow_reader: Duration,
    /// After which time word of a job is sent again.
    pub redispatch: Duration,
    /// How often the dispatcher looks for work of which nobody told it.
    pub dispatch_poll: Duration,
    /// How often to look for schedules that are due.
    pub schedule_poll: Duration,
    /// What retention keeps of every agent.
    pub retention: catalog::retention::Rules,
    /// What all vaults together should take at the most; 0: no limit.
    pub storage_limit_bytes: u64,
    /// How long the audit log is kept.
    pub audit_kept: Duration,
    /// How the process stops.
    pub stop: Stop,
    /// Every piece of work of this server that is not a plain call.
    pub tasks: TaskTracker,
}

impl State {
    /// Opens the vault in which a backup is read: of its copy at a destination, or (empty)
    /// where it lies.
    pub async fn vault(
        &self,
        backup: &catalog::Backup,
        destination_id: &str,
    ) -> Result<Vault, DestinationsError> {
        let at = if destination_id.is_empty() {
            &backup.destination_id
        } else {
            destination_id
        };
        let store = self.destinations.store(at).await?;
        let settings = self.vault_settings.clone();
        let opened = Vault::open(store, &backup.agent_id, &self.keyring, settings).await;
        opened.map_err(|error| match error {
            VaultError::NoVault { agent_id } => {
                let lacking = "nothing of its vault is there".to_owned();
                VaultError::RolledBack { agent_id, lacking }.into()
            }
            error => error.into(),
        })
    }

    /// What watch streams stand on.
    pub fn ground(&self) -> Ground {
        Ground {
            bus: self.bus.clone(),
            tasks: self.tasks.clone(),
            stopping: self.stop.asked.clone(),
            slow_reader: self.slow_reader,
        }
    }

    /// Tells watchers and workers that something about a job changed. They would find out by
    /// themselves; this only makes it soon.
    pub async fn announce(&self, event: JobEvent) {
        let event = JobEvent {
            version: EVENT_VERSION,
            ..event
        };
        if let Err(error) = self.bus.publish(event).await {
            tracing::debug!(%error, "publish an event");
        }
    }
}

/// The manifest of a completed backup, with the digest that the catalog keeps.
pub fn manifest_of(backup: &catalog::Backup) -> Result<ManifestRef, ApiError> {
    let (Some(attempt), catalog::BackupState::Completed) = (backup.manifest_attempt, backup.state)
    else {
        return Err(catalog::CatalogError::BackupNotCompleted {
            backup_id: backup.backup_id.clone(),
        }
        .into());
    };
    Ok(ManifestRef {
        backup_id: backup.backup_id.clone(),
        attempt,
        digest: backup.manifest_digest,
    })
}

/// Keeps a backup from being removed while it is read. It must be released; one that is not (the
/// process died) ends by itself.
pub struct Pinned {
    catalog: Catalog,
    pin_id: String,
}

impl Pinned {
    const TTL: Duration = Duration::from_secs(90);
    /// How often it is prolonged: several times within its life.
    const RENEW: Duration = Duration::from_secs(20);

    /// Pins a completed backup.
    pub async fn take(state: &State, backup_id: &str, holder: &str) -> Result<Self, ApiError> {
        let ttl_ms = Self::TTL.as_millis() as i64;
        let pin = state
            .catalog
            .pin_backup(backup_id, holder, ttl_ms, now_ms())
            .await?;
        Ok(Self {
            catalog: state.catalog.clone(),
            pin_id: pin.pin_id,
        })
    }

    /// Prolongs it again and again; returns only when it is lost.
    pub async fn keep(&self) -> ApiError {
        let ttl_ms = Self::TTL.as_millis() as i64;
        let mut last_renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(Self::RENEW).await;
            match self.catalog.renew_pin(&self.pin_id, ttl_ms, now_ms()).await {
                Ok(()) => last_renewed = tokio::time::Instant::now(),
                Err(error) if error.is_retryable() && last_renewed.elapsed() < Self::TTL => {
                    tracing::warn!(%error, "renew a pin");
                }
                Err(error) => return error.into(),
            }
        }
    }

    /// Ends it.
    pub async fn release(self) {
        if let Err(error) = self.catalog.unpin(&self.pin_id).await {
            tracing::warn!(%error, "release a pin; it ends by itself");
        }
    }
}
