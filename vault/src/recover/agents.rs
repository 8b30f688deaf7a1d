//! Which vaults there are, and which key each needs.

use std::collections::BTreeSet;

use prost::Message as _;
use proto::vault::v1::{KeyObject, Manifest};

use super::{Recovery, vault_root};
use crate::{
    error::{Result, VaultError},
    manifest::ManifestRef,
};

/// A vault that was found at the destination.
#[derive(Debug)]
pub struct FoundAgent {
    /// The agent's id: the vault's folder.
    pub agent_id: String,
    /// Ids of the key-encryption keys that open the vault, in order. Several while
    /// a rotation is under way.
    pub key_ids: Vec<String>,
    /// Why the vault does not open, if it does not.
    pub locked: Option<VaultError>,
    /// Backups whose manifests are stored, readable or not.
    pub backups: u64,
    /// Bytes of all the vault's objects.
    pub stored_bytes: u64,
    /// The newest manifest that can be read: it tells name, owner and workspace.
    pub newest: Option<Manifest>,
}

impl Recovery {
    /// The agents that have a vault at the destination, in the order of their ids.
    pub async fn agent_ids(&self) -> Result<Vec<String>> {
        let mut ids = self.store.list_folders("vaults/").await?;
        ids.sort();
        Ok(ids)
    }

    /// What can be told of one agent's vault.
    pub async fn look_at(&self, agent_id: &str) -> Result<FoundAgent> {
        let root = vault_root(agent_id);
        let mut found = FoundAgent {
            agent_id: agent_id.to_owned(),
            key_ids: Vec::new(),
            locked: None,
            backups: 0,
            stored_bytes: 0,
            newest: None,
        };
        let mut manifests = Vec::new();
        for folder in ["keys/", "packs/", "indexes/", "backups/"] {
            let prefix = format!("{root}{folder}");
            for object in self.store.list(&prefix).await? {
                found.stored_bytes += object.bytes;
                let name = object.name.strip_prefix(&prefix).unwrap_or_default();
                if folder == "backups/" {
                    manifests.extend(ManifestRef::from_name(name));
                }
            }
        }
        let ids: BTreeSet<&str> = manifests.iter().map(|at| at.backup_id.as_str()).collect();
        found.backups = ids.len() as u64;
        found.key_ids = self.key_ids(&root).await?;
        match self.open(agent_id).await {
            Ok(vault) => {
                // Ids begin with the time: the highest is the newest.
                manifests.sort_by(|a, b| (&b.backup_id, b.attempt).cmp(&(&a.backup_id, a.attempt)));
                for at in &manifests {
                    match vault.vault.read_manifest(at).await {
                        Ok((manifest, _)) => {
                            found.newest = Some(manifest);
                            break;
                        }
                        Err(error) if error.is_fault() => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error @ VaultError::Store(_)) => return Err(error),
            Err(error) => found.locked = Some(error),
        }
        Ok(found)
    }

    /// The key-encryption keys under which the vault's data keys are wrapped.
    async fn key_ids(&self, root: &str) -> Result<Vec<String>> {
        let mut ids = BTreeSet::new();
        for (_, bytes) in self.key_objects(root).await? {
            let object = bytes.ok().and_then(|bytes| KeyObject::decode(&*bytes).ok());
            for wrapped in object.iter().flat_map(|object| &object.wrapped_keys) {
                ids.insert(hex::encode(&wrapped.key_encryption_key_id));
            }
        }
        Ok(ids.into_iter().collect())
    }
}
