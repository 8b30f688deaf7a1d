//! Pins: what keeps a backup while it is read.

use crate::{Catalog, CatalogError, Pin};

impl Catalog {
    /// Pins a COMPLETED backup until `now_ms + ttl_ms`.
    /// Errors: `BackupNotFound`, `BackupNotCompleted`.
    pub async fn pin_backup(
        &self,
        backup_id: &str,
        holder: &str,
        ttl_ms: i64,
        now_ms: i64,
    ) -> Result<Pin, CatalogError> {
        let _ = (backup_id, holder, ttl_ms, now_ms);
        unimplemented!()
    }

    /// Prolongs a pin to `now_ms + ttl_ms`. Errors: `PinLost` when it has ended.
    pub async fn renew_pin(
        &self,
        pin_id: &str,
        ttl_ms: i64,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let _ = (pin_id, ttl_ms, now_ms);
        unimplemented!()
    }

    /// Ends a pin; one that has ended already is no error.
    pub async fn unpin(&self, pin_id: &str) -> Result<(), CatalogError> {
        let _ = pin_id;
        unimplemented!()
    }

    /// The live pins of an agent's backups: compaction leaves what they need.
    pub async fn agent_pins(&self, agent_id: &str, now_ms: i64) -> Result<Vec<Pin>, CatalogError> {
        let _ = (agent_id, now_ms);
        unimplemented!()
    }
}
