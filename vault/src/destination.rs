//! Opens a destination from its description, `nora.backup.v1.Destination`: the one
//! form in which the environment, the API and the catalog name a place for vaults.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use proto::backup::v1::{Destination, destination::Kind};

use crate::{
    error::{StoreError, StoreErrorKind},
    store::{OpendalStore, Store},
};

/// Which host keys were trusted at a first connection.
#[async_trait]
pub trait HostKeys: Send + Sync + std::fmt::Debug {
    /// The key that is remembered of a host, as in known_hosts ("ssh-ed25519 AAAA...").
    async fn remembered(&self, host: &str, port: u16) -> Result<Option<String>, StoreError>;
    /// Remembers it. Returns the one that counts: another process may have been faster.
    async fn remember(&self, host: &str, port: u16, key: &str) -> Result<String, StoreError>;
}

/// Opens a destination. Does not connect yet where there is something to connect to.
pub fn open(
    destination: &Destination,
    _host_keys: &Arc<dyn HostKeys>,
) -> Result<Arc<dyn Store>, StoreError> {
    match &destination.kind {
        Some(Kind::Local(local)) => Ok(Arc::new(OpendalStore::local(Path::new(&local.path))?)),
        _ => Err(StoreError {
            action: "open",
            object: "the destination".to_owned(),
            kind: StoreErrorKind::Misconfigured,
            detail: "this version knows `local`".to_owned(),
        }),
    }
}
