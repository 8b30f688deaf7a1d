//! The destinations that the catalog knows, opened: what a server and a worker share.
//!
//! - [`Destinations`]: stores by the id of their destination, kept open until the
//!   destination changes; the environment's own, which each process registers at its start
//! - `host_keys`: host keys that were trusted at first sight, in the catalog
//! - `sealing`: descriptions under the keys that they shall be under
//!
//! It knows nothing of agents, backups and jobs, nor of the API's calls.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use catalog::{Catalog, CatalogError, NewDestination, StoredDestination};
use proto::backup::v1::Destination;
use vault::{
    Keyring, Store, StoreError, StoreErrorKind, VaultError,
    destination::{self, HostKeys},
};

mod host_keys;
mod sealing;
#[cfg(test)]
mod tests;

pub use host_keys::HostKeysInCatalog;
pub use sealing::Resealed;

/// Id of the destination that the environment describes.
pub const DEFAULT: &str = catalog::DEFAULT_DESTINATION;

/// Why a destination can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DestinationsError {
    /// The catalog does not know it, or does not answer.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// It does not open.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl From<StoreError> for DestinationsError {
    fn from(error: StoreError) -> Self {
        Self::Vault(error.into())
    }
}

/// A destination as it was opened.
#[derive(Debug, Clone)]
struct Opened {
    etag: String,
    store: Arc<dyn Store>,
}

/// The destinations of a process.
#[derive(Debug)]
pub struct Destinations {
    catalog: Catalog,
    keyring: Keyring,
    host_keys: Arc<dyn HostKeys>,
    opened: Mutex<HashMap<String, Opened>>,
    given: HashMap<String, Arc<dyn Store>>,
}

impl Destinations {
    /// Those of a catalog, whose descriptions these keys open.
    pub fn new(catalog: Catalog, keyring: Keyring) -> Self {
        Self {
            host_keys: Arc::new(HostKeysInCatalog::new(catalog.clone())),
            catalog,
            keyring,
            opened: Mutex::default(),
            given: HashMap::new(),
        }
    }

    /// With a store that is given, whatever the catalog says of its destination.
    pub fn with_store(mut self, destination_id: &str, store: Arc<dyn Store>) -> Self {
        self.given.insert(destination_id.to_owned(), store);
        self
    }

    /// Makes what the environment describes the destination `default`: see
    /// [`Catalog::register_default`]. Nothing is written where the catalog says so already.
    pub async fn register_default(
        &self,
        destination: &Destination,
    ) -> Result<(), DestinationsError> {
        let known = self.catalog.get_destination(DEFAULT).await?;
        let is_known = known.is_some_and(|known| {
            self.unseal(&known)
                .is_ok_and(|described| described == *destination)
                && self.holds_all_keys(&known)
        });
        if !is_known {
            let new = self.sealed(destination);
            self.catalog.register_default(&new, now_ms()).await?;
        }
        Ok(())
    }

    /// The store of a destination.
    pub async fn store(&self, destination_id: &str) -> Result<Arc<dyn Store>, DestinationsError> {
        if let Some(store) = self.given.get(destination_id) {
            return Ok(store.clone());
        }
        let known = self.known(destination_id).await?;
        if let Some(opened) = self.opened().get(destination_id)
            && opened.etag == known.etag
        {
            return Ok(opened.store.clone());
        }
        let store = self.open(&self.unseal(&known)?)?;
        let opened = Opened {
            etag: known.etag,
            store: store.clone(),
        };
        self.opened().insert(destination_id.to_owned(), opened);
        Ok(store)
    }

    /// Every destination, in order.
    pub async fn ids(&self) -> Result<Vec<String>, CatalogError> {
        let mut ids = self.catalog.destination_ids().await?;
        ids.extend(self.given.keys().cloned());
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// The stores of the destinations where something of an agent may lie.
    pub async fn of_agent(
        &self,
        agent_id: &str,
    ) -> Result<Vec<(String, Arc<dyn Store>)>, DestinationsError> {
        let ids = self.catalog.agent_destinations(agent_id).await?;
        let mut stores = Vec::with_capacity(ids.len());
        for id in ids {
            match self.store(&id).await {
                Ok(store) => stores.push((id, store)),
                // Forgotten since: nothing lies there that anyone knows of.
                Err(DestinationsError::Catalog(CatalogError::DestinationNotFound { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(stores)
    }

    /// What the catalog knows of a destination.
    pub async fn known(
        &self,
        destination_id: &str,
    ) -> Result<StoredDestination, DestinationsError> {
        let known = self.catalog.get_destination(destination_id).await?;
        known.ok_or_else(|| {
            let destination_id = destination_id.to_owned();
            CatalogError::DestinationNotFound { destination_id }.into()
        })
    }

    /// Opens a description; does not connect yet.
    pub fn open(&self, destination: &Destination) -> Result<Arc<dyn Store>, DestinationsError> {
        Ok(destination::open(destination, &self.host_keys)?)
    }

    /// The description of a destination, with its secrets.
    pub fn unseal(&self, known: &StoredDestination) -> Result<Destination, DestinationsError> {
        destination::unseal(&known.sealed, &known.place, &self.keyring)
            .map(|described| Destination {
                destination_id: known.destination_id.clone(),
                display_name: known.display_name.clone(),
                ..described
            })
            .map_err(|error| {
                StoreError {
                    action: "open",
                    object: format!("destination {}", known.destination_id),
                    kind: StoreErrorKind::Misconfigured,
                    detail: error.to_string(),
                }
                .into()
            })
    }

    /// A description as the catalog keeps it.
    pub fn sealed(&self, destination: &Destination) -> NewDestination {
        NewDestination {
            destination_id: destination.destination_id.clone(),
            display_name: destination.display_name.clone(),
            place: destination::place(destination),
            sealed: destination::seal(destination, &self.keyring),
        }
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<String, Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
