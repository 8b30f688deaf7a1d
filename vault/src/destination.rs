//! Destinations from their description, `nora.backup.v1.Destination`: the one form
//! in which the environment, the API and the catalog name a place for vaults.
//!
//! - [`check()`]: whether a description can be one, field by field
//! - [`public`], [`merge_secrets`]: what of it is shown, and what is kept
//! - [`seal()`], [`unseal`]: how the catalog keeps it
//! - [`open`]: the store; [`probe()`]: whether it can be used

use std::{collections::HashMap, path::Path, sync::Arc};

use async_trait::async_trait;
use proto::backup::v1::{Destination, destination::Kind};
use tokio::sync::Mutex;

use crate::{
    error::{StoreError, StoreErrorKind},
    store::{OpendalStore, S3Store, SshStore, Store},
};

mod check;
mod probe;
mod sealed;
mod secrets;

pub use check::{FieldProblem, check};
pub use probe::{ProbeStep, probe};
pub use sealed::{UnsealError, seal, seal_for_writing_key, sealed_under, unseal};
pub use secrets::{merge_secrets, public};

/// Id of the destination that the environment describes.
pub const DEFAULT: &str = "default";

/// Which host keys were trusted at a first connection.
#[async_trait]
pub trait HostKeys: Send + Sync + std::fmt::Debug {
    /// The key that is remembered of a host, as in known_hosts ("ssh-ed25519 AAAA...").
    async fn remembered(&self, host: &str, port: u16) -> Result<Option<String>, StoreError>;
    /// Remembers it. Returns the one that counts: another process may have been faster.
    async fn remember(&self, host: &str, port: u16, key: &str) -> Result<String, StoreError>;
}

/// Host keys that are remembered as long as the process lives.
#[derive(Debug, Default)]
pub struct HostKeysInMemory(Mutex<HashMap<(String, u16), String>>);

#[async_trait]
impl HostKeys for HostKeysInMemory {
    async fn remembered(&self, host: &str, port: u16) -> Result<Option<String>, StoreError> {
        Ok(self.0.lock().await.get(&(host.to_owned(), port)).cloned())
    }

    async fn remember(&self, host: &str, port: u16, key: &str) -> Result<String, StoreError> {
        let mut keys = self.0.lock().await;
        let counts = keys
            .entry((host.to_owned(), port))
            .or_insert_with(|| key.to_owned());
        Ok(counts.clone())
    }
}

/// How the fields of a destination are called in messages: by the environment's
/// variable for the default one, else by their path in the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldNames {
    is_default: bool,
}

impl FieldNames {
    /// Of a destination.
    pub fn of(destination: &Destination) -> Self {
        Self {
            is_default: matches!(destination.destination_id.as_str(), "" | DEFAULT),
        }
    }

    /// The name of a field, for example of "s3.bucket".
    pub fn name(self, field: &str) -> String {
        if self.is_default {
            variable(field)
        } else {
            field.to_owned()
        }
    }
}

/// The environment's variable for a field of the default destination.
pub fn variable(field: &str) -> String {
    match field {
        "kind" => "NORA_BACKUP_STORAGE".to_owned(),
        "local.path" => "NORA_BACKUP_DIR".to_owned(),
        other => format!("NORA_BACKUP_{}", other.replace('.', "_").to_uppercase()),
    }
}

/// Where it is, in a few words for people; nothing of it is secret.
pub fn place(destination: &Destination) -> String {
    let bucket = |bucket: &str, prefix: &str, endpoint: &str| {
        let slash = if prefix.is_empty() { "" } else { "/" };
        let at = if endpoint.is_empty() { "" } else { " at " };
        format!("{bucket}{slash}{prefix}{at}{endpoint}")
    };
    match &destination.kind {
        Some(Kind::Local(local)) => local.path.clone(),
        Some(Kind::S3(s3)) => format!("s3://{}", bucket(&s3.bucket, &s3.prefix, &s3.endpoint)),
        Some(Kind::R2(r2)) => format!("r2://{}", bucket(&r2.bucket, &r2.prefix, &r2.endpoint)),
        Some(Kind::Ssh(ssh)) => format!(
            "ssh://{}@{}{}/{}",
            ssh.username,
            ssh.host,
            if matches!(ssh.port, 0 | 22) {
                String::new()
            } else {
                format!(":{}", ssh.port)
            },
            ssh.remote_path.trim_start_matches('/')
        ),
        None => "nowhere".to_owned(),
    }
}

/// Opens a destination. Does not connect yet where there is something to connect to.
pub fn open(
    destination: &Destination,
    host_keys: &Arc<dyn HostKeys>,
) -> Result<Arc<dyn Store>, StoreError> {
    let names = FieldNames::of(destination);
    if let Some(problem) = check(destination).into_iter().next() {
        return Err(StoreError {
            action: "open",
            object: "the destination".to_owned(),
            kind: StoreErrorKind::Misconfigured,
            detail: format!("{} {}", names.name(&problem.field), problem.what),
        });
    }
    match &destination.kind {
        Some(Kind::Local(local)) => match OpendalStore::local(Path::new(&local.path)) {
            Ok(store) => Ok(Arc::new(store)),
            Err(error) => Err(no_folder(&names.name("local.path"), error)),
        },
        Some(Kind::S3(s3)) => Ok(Arc::new(S3Store::s3(s3, names)?)),
        Some(Kind::R2(r2)) => Ok(Arc::new(S3Store::r2(r2, names)?)),
        Some(Kind::Ssh(ssh)) => Ok(Arc::new(SshStore::new(ssh, host_keys, names)?)),
        // Checked above.
        None => Err(StoreError {
            action: "open",
            object: "the destination".to_owned(),
            kind: StoreErrorKind::Misconfigured,
            detail: "of no known kind".to_owned(),
        }),
    }
}

/// Why a folder does not serve, with the field that names it and what to do.
fn no_folder(field: &str, error: StoreError) -> StoreError {
    let detail = match error.kind {
        StoreErrorKind::Misconfigured => format!(
            "{field} leads where no folder can be made ({}): set it to a folder on a disk of this \
             machine, or make the folder above it",
            error.detail
        ),
        _ => format!("{field}: {}", error.detail),
    };
    StoreError { detail, ..error }
}
