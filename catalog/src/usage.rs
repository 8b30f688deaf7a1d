//! What backups take.

use crate::{Catalog, CatalogError, StorageUsage};

impl Catalog {
    /// Sums up COMPLETED backups and vaults: of an owner, of an agent, or of all.
    pub async fn storage_usage(
        &self,
        owner_id: Option<&str>,
        agent_id: Option<&str>,
    ) -> Result<StorageUsage, CatalogError> {
        let _ = (owner_id, agent_id);
        unimplemented!()
    }
}
