//! The end of a vault.

use crate::{error::Result, vault::Vault};

impl Vault {
    /// Removes everything of this vault. Its keys go last, so that an
    /// interrupted call can be made again; after it, a new agent of the same id
    /// begins with keys of its own.
    pub async fn erase(&self) -> Result<()> {
        for folder in ["backups/", "indexes/", "packs/", "keys/"] {
            for object in self.store.list(&format!("{}{folder}", self.root)).await? {
                self.store.delete(&object.name).await?;
            }
        }
        Ok(())
    }
}
