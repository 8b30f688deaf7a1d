//! The end of a vault: with its data keys first, which makes the rest unreadable
//! wherever a copy of it may lie, or with everything.

use crate::{error::Result, store::Store, vault::Vault};

/// Ids of the data keys of an agent's vault, as the destination lists them.
pub async fn data_key_ids(store: &dyn Store, agent_id: &str) -> Result<Vec<String>> {
    let prefix = format!("vaults/{agent_id}/keys/");
    let listed = store.list(&prefix).await?;
    Ok(listed
        .into_iter()
        .filter_map(|object| object.name.strip_prefix(&prefix).map(str::to_owned))
        .collect())
}

/// Removes the data keys of an agent's vault: nothing of it can be read any more. No key
/// is needed for that. Returns how many there were.
pub async fn destroy_keys(store: &dyn Store, agent_id: &str) -> Result<u64> {
    remove_all(store, &format!("vaults/{agent_id}/keys/")).await
}

/// Removes some data keys of an agent's vault.
pub async fn destroy_keys_named(
    store: &dyn Store,
    agent_id: &str,
    data_key_ids: &[String],
) -> Result<()> {
    for id in data_key_ids {
        store
            .delete(&format!("vaults/{agent_id}/keys/{id}"))
            .await?;
    }
    Ok(())
}

/// Removes everything of an agent's vault. Its keys go last, so that an interrupted call
/// can be made again; after it, a new agent of the same id begins with keys of its own.
pub async fn erase(store: &dyn Store, agent_id: &str) -> Result<()> {
    for folder in ["backups", "indexes", "packs", "keys"] {
        remove_all(store, &format!("vaults/{agent_id}/{folder}/")).await?;
    }
    Ok(())
}

/// Removes the objects directly under a prefix.
async fn remove_all(store: &dyn Store, prefix: &str) -> Result<u64> {
    let mut removed = 0;
    for object in store.list(prefix).await? {
        store.delete(&object.name).await?;
        removed += 1;
    }
    Ok(removed)
}

impl Vault {
    /// Removes everything of this vault: see [`erase`].
    pub async fn erase(&self) -> Result<()> {
        erase(&*self.store, &self.agent_id).await
    }
}
