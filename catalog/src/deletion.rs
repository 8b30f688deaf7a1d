//! Deletion of backups, and the compaction that follows.

use crate::{Backup, Catalog, CatalogError};

impl Catalog {
    /// Makes an ended backup DELETING and queues its delete job. Repeated, it
    /// changes nothing, unless the delete job before has failed: then it makes a new one.
    ///
    /// Errors: `BackupNotFound`, `BackupNotEnded`, `BackupInUse` (pinned, or a
    /// restore or verification of it waits or runs).
    pub async fn delete_backup(
        &self,
        backup_id: &str,
        now_ms: i64,
    ) -> Result<Backup, CatalogError> {
        let _ = (backup_id, now_ms);
        unimplemented!()
    }

    /// Queues a compact job of the agent's vault, not to begin before
    /// `not_before_ms`; at most one is queued for an agent. Returns its id, or
    /// None when one is queued already or the agent is not known.
    pub async fn enqueue_compact(
        &self,
        agent_id: &str,
        not_before_ms: i64,
        now_ms: i64,
    ) -> Result<Option<String>, CatalogError> {
        let _ = (agent_id, not_before_ms, now_ms);
        unimplemented!()
    }
}
