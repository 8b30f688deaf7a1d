//! Host keys that were trusted at first sight, in the catalog: whichever process saw a host
//! first, the others expect the same key.

use async_trait::async_trait;
use catalog::{Catalog, CatalogError};
use vault::{StoreError, StoreErrorKind, destination::HostKeys};

use crate::now_ms;

/// Host keys that the catalog remembers.
#[derive(Debug)]
pub struct HostKeysInCatalog(Catalog);

impl HostKeysInCatalog {
    /// Those of a catalog.
    pub fn new(catalog: Catalog) -> Self {
        Self(catalog)
    }
}

#[async_trait]
impl HostKeys for HostKeysInCatalog {
    async fn remembered(&self, host: &str, port: u16) -> Result<Option<String>, StoreError> {
        let found = self.0.host_key(host, port).await;
        found.map_err(|error| unavailable(host, &error))
    }

    async fn remember(&self, host: &str, port: u16, key: &str) -> Result<String, StoreError> {
        let counts = self.0.remember_host_key(host, port, key, now_ms()).await;
        counts.map_err(|error| unavailable(host, &error))
    }
}

/// Without the catalog nothing goes on anyway; it will be back.
fn unavailable(host: &str, error: &CatalogError) -> StoreError {
    StoreError {
        action: "read",
        object: format!("the host key of {host} that is remembered"),
        kind: StoreErrorKind::Unavailable,
        detail: error.to_string(),
    }
}
