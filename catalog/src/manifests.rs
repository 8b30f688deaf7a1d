//! What compaction must know of an agent's manifests.

use crate::{Catalog, CatalogError, KnownManifest};

impl Catalog {
    /// Everything known of the agent's backups, for its compact job: which
    /// manifests count and which are garbage. A manifest of a backup that is
    /// not named here is garbage too (its backup was removed). Empty for an
    /// agent that is gone: then nothing in its vault counts.
    pub async fn known_manifests(
        &self,
        agent_id: &str,
    ) -> Result<Vec<KnownManifest>, CatalogError> {
        let _ = agent_id;
        unimplemented!()
    }
}
