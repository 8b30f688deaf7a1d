//! The destination and its vaults, and what people type to name a backup.

use std::sync::Arc;

use proto::backup::v1::Destination;
use vault::{
    DestinationSettings, FoundBackup, KeySettings, Keyring, ManifestRef, RecoveredVault, Recovery,
    VaultError, VaultSettings,
    destination::{self, HostKeys, HostKeysInMemory},
    format::Manifest,
};

use crate::{
    error::{CliError, Result},
    exit::Exit,
    output::human,
};

/// How many candidates an error lists.
const CANDIDATES_MAX: usize = 8;

/// A destination whose vaults are read without a catalog.
pub(super) struct Place {
    pub recovery: Recovery,
    /// What the settings describe.
    pub destination: Destination,
    pub keyring: Keyring,
}

/// A backup that was found, and can be read.
pub(super) struct Chosen {
    pub vault: RecoveredVault,
    pub at: ManifestRef,
    pub manifest: Manifest,
}

impl Place {
    /// Opens the destination that the settings name.
    pub(super) fn open(
        destination: &DestinationSettings,
        keys: &KeySettings,
        settings: VaultSettings,
    ) -> Result<Self> {
        let usage = |error: String| CliError::usage(error);
        let keyring = keys.keyring().map_err(|error| {
            usage(error.to_string()).hint(
                "a standalone keeps its key in the file `key` of its data directory, and its vaults in \
                 the data directory itself unless NORA_BACKUP_DIR names another folder",
            )
        })?;
        let host_keys: Arc<dyn HostKeys> = Arc::new(HostKeysInMemory::default());
        let described = destination.destination();
        let destination = described.map_err(|error| usage(error.to_string()))?;
        let store = destination::open(&destination, &host_keys)
            .map_err(|error| usage(error.to_string()))?;
        Ok(Self {
            recovery: Recovery::new(store, keyring.clone(), settings),
            destination,
            keyring,
        })
    }

    /// Opens an agent's vault.
    pub(super) async fn vault(&self, agent_id: &str) -> Result<RecoveredVault> {
        Ok(self.recovery.open(agent_id).await?)
    }

    /// The backup that AGENT@BACKUP names.
    pub(super) async fn backup(&self, named: &str) -> Result<Chosen> {
        let (agent_id, selector) = named.split_once('@').unwrap_or((named, "latest"));
        if agent_id.is_empty() || selector.is_empty() {
            return Err(CliError::usage(format!(
                "{named:?} names no backup: write AGENT@BACKUP, for example my-agent@latest"
            )));
        }
        let vault = self.vault(agent_id).await?;
        let found = choose(vault.backups().await?, agent_id, selector)?;
        match (found.at, found.manifest) {
            (Some(at), Some(manifest)) => Ok(Chosen {
                vault,
                at,
                manifest,
            }),
            _ => Err(unreadable(&found.backup_id, &found.damage)),
        }
    }
}

fn choose(backups: Vec<FoundBackup>, agent_id: &str, selector: &str) -> Result<FoundBackup> {
    let not_found = |message: String| CliError::new(Exit::NotFound, message);
    if selector == "latest" {
        // Those that can't be read come last.
        let readable = backups.into_iter().rev().find(|found| found.at.is_some());
        return readable.ok_or_else(|| {
            not_found(format!(
                "agent {} has no backup here that can be read",
                human::printable(agent_id)
            ))
        });
    }
    let mut named: Vec<FoundBackup> = backups
        .into_iter()
        .filter(|found| found.backup_id.starts_with(selector))
        .collect();
    if let Some(whole) = named.iter().position(|found| found.backup_id == selector) {
        return Ok(named.swap_remove(whole));
    }
    match named.len() {
        0 => Err(not_found(format!(
            "agent {} has no backup {} here: `nora-backup recover backups {}` lists those it has",
            human::printable(agent_id),
            human::printable(selector),
            human::printable(agent_id)
        ))),
        1 => Ok(named.remove(0)),
        _ => {
            let ids = named.iter().take(CANDIDATES_MAX);
            let ids: Vec<&str> = ids.map(|found| found.backup_id.as_str()).collect();
            Err(CliError::usage(format!(
                "{selector:?} is the beginning of {} backups: {}",
                named.len(),
                ids.join(", ")
            )))
        }
    }
}

fn unreadable(backup_id: &str, damage: &[VaultError]) -> CliError {
    let why: Vec<String> = damage.iter().map(ToString::to_string).collect();
    let mut error = CliError::failed(format!("backup {backup_id}: {}", why.join("; ")));
    error.reason = damage.first().map(|fault| fault.reason().to_owned());
    error
}

impl From<VaultError> for CliError {
    fn from(error: VaultError) -> Self {
        let exit = match &error {
            VaultError::NoVault { .. } => Exit::NotFound,
            VaultError::KeyNotConfigured { .. } => Exit::Denied,
            VaultError::Canceled => Exit::Interrupted,
            VaultError::Sink(cause) => return Self::io("write", cause),
            VaultError::Store(_) if error.is_retryable() => Exit::Unavailable,
            _ => Exit::Failed,
        };
        let mut said = Self::new(exit, error.to_string());
        said.reason = Some(error.reason().to_owned());
        said
    }
}
