//! What is left of vaults, read with nothing but the destination and a key.
//!
//! No catalog is asked, so what it alone knows is not known here: of several
//! attempts at one backup the highest counts, and a storage that serves an older
//! state is not found out. For the rest, nothing is believed that is not checked,
//! as everywhere; but where a reader stops at the first thing that is wrong, this
//! goes on and names it:
//!
//! - a damaged key object: the vault's other keys
//! - a damaged or missing index: the packs' own tables of contents
//! - a damaged pack: its chunks in other packs, retired ones too
//! - a damaged manifest: the same backup's earlier attempt, if one is stored
//! - a damaged part of an entry stream: the entries before and after it
//!
//! What can't be gone around: a pack whose table of contents is damaged and that no
//! readable index lists. Its segments are sealed one by one, but where each begins
//! and which chunks it holds stands in these tables only.
//!
//! - `agents`: which vaults there are, and which key each needs
//! - `backups`: which backups a vault holds
//! - `contents`: every place of every chunk

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    error::{Result, VaultError},
    keyring::{Keyring, VaultKeys},
    manifest::ManifestRef,
    read::BackupReader,
    settings::VaultSettings,
    store::Store,
    vault::{KEY_OBJECT_BYTES_MAX, Vault},
};

mod agents;
mod backups;
mod contents;
#[cfg(test)]
mod mutation_tests;

pub use agents::FoundAgent;
pub use backups::FoundBackup;

/// A destination with its vaults, and the keys to open them.
#[derive(Debug, Clone)]
pub struct Recovery {
    store: Arc<dyn Store>,
    keyring: Keyring,
    settings: VaultSettings,
}

/// An agent's vault, opened as far as it opens.
#[derive(Debug)]
pub struct RecoveredVault {
    vault: Vault,
    damage: Vec<VaultError>,
}

/// A key object: its name below the vault and its bytes, or what is wrong with it.
type KeyObject = (String, Result<Vec<u8>>);

impl Recovery {
    /// At a destination, with these keys. Reads nothing yet, and never writes.
    pub fn new(store: Arc<dyn Store>, keyring: Keyring, settings: VaultSettings) -> Self {
        Self {
            store,
            keyring,
            settings,
        }
    }

    /// Opens an agent's vault. An error when there is none or no key opens it.
    pub async fn open(&self, agent_id: &str) -> Result<RecoveredVault> {
        let root = vault_root(agent_id);
        let (mut objects, mut damage) = (Vec::new(), Vec::new());
        for (name, bytes) in self.key_objects(&root).await? {
            match bytes {
                Ok(bytes) => objects.push((name, bytes)),
                Err(error) => damage.push(error),
            }
        }
        if objects.is_empty() {
            if let Some(error) = damage.pop() {
                return Err(error);
            }
            return Err(self.without_keys(agent_id, &root).await?);
        }
        let (keys, broken) = VaultKeys::open_what_opens(agent_id, &self.keyring, &objects)?;
        damage.extend(broken);
        Ok(RecoveredVault {
            vault: Vault {
                store: self.store.clone(),
                root,
                agent_id: agent_id.to_owned(),
                keys: Arc::new(keys),
                settings: self.settings.clone(),
            },
            damage,
        })
    }

    async fn key_objects(&self, root: &str) -> Result<Vec<KeyObject>> {
        let mut objects = Vec::new();
        for listed in self.store.list(&format!("{root}keys/")).await? {
            let name = listed.name.strip_prefix(root).unwrap_or(&listed.name);
            let bytes = match self.store.get(&listed.name, KEY_OBJECT_BYTES_MAX).await {
                Ok(bytes) => Ok(bytes.to_vec()),
                Err(error) => match VaultError::from(error) {
                    fault if fault.is_fault() => Err(fault),
                    error => return Err(error),
                },
            };
            objects.push((name.to_owned(), bytes));
        }
        Ok(objects)
    }

    /// What is said of a vault without key objects.
    async fn without_keys(&self, agent_id: &str, root: &str) -> Result<VaultError> {
        let agent_id = agent_id.to_owned();
        for folder in ["backups/", "packs/"] {
            if !self
                .store
                .list(&format!("{root}{folder}"))
                .await?
                .is_empty()
            {
                return Ok(VaultError::KeysGone { agent_id });
            }
        }
        Ok(VaultError::NoVault { agent_id })
    }
}

fn vault_root(agent_id: &str) -> String {
    format!("vaults/{agent_id}/")
}

impl RecoveredVault {
    /// The agent's id.
    pub fn agent_id(&self) -> &str {
        self.vault.agent_id()
    }

    /// What is wrong with the vault's keys.
    pub fn damage(&self) -> &[VaultError] {
        &self.damage
    }

    /// Bytes of all the vault's objects at the destination.
    pub async fn stored_bytes(&self) -> Result<u64> {
        self.vault.stored_bytes().await
    }

    /// Opens a backup as any reader does: the first thing that is wrong ends it.
    /// What verifies and exports uses this.
    pub async fn open_strictly(
        &self,
        at: &ManifestRef,
        cancel: CancellationToken,
    ) -> Result<BackupReader> {
        self.vault.open_backup(at, cancel).await
    }

    /// Opens a backup to save what can be saved: its walk goes on after what is
    /// damaged. Also returns what is wrong with the vault's lists of what it holds.
    pub async fn open_salvaging(
        &self,
        at: &ManifestRef,
        cancel: CancellationToken,
    ) -> Result<(BackupReader, Vec<VaultError>)> {
        let (manifest, _) = self.vault.read_manifest(at).await?;
        let (chunks, damage) = contents::every_place(&self.vault).await?;
        let reader = BackupReader::salvaging(self.vault.clone(), manifest, chunks, cancel);
        Ok((reader, damage))
    }
}
