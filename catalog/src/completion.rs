//! How each kind of job ends well: one transaction for the job and everything
//! it changes. All answer `Fenced` when the attempt lost its lease.

use proto::backup::v1::Progress;

use crate::{Backup, BackupResult, Catalog, CatalogError, Failure, Fence, Restore, RestoreResult};

impl Catalog {
    /// The backup is stored and was read back: COMPLETED.
    pub async fn complete_backup(
        &self,
        fence: &Fence,
        result: BackupResult,
        now_ms: i64,
    ) -> Result<Backup, CatalogError> {
        let _ = (fence, result, now_ms);
        unimplemented!()
    }

    /// The new agent is there: registers it and completes the restore.
    /// Errors besides: `AgentExists`, with nothing changed.
    pub async fn complete_restore(
        &self,
        fence: &Fence,
        result: RestoreResult,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        let _ = (fence, result, now_ms);
        unimplemented!()
    }

    /// The backup was read: found right (`found` is None), or wrong. A job that
    /// found something wrong ends FAILED with it.
    pub async fn complete_verify(
        &self,
        fence: &Fence,
        found: Option<Failure>,
        progress: Option<Progress>,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let _ = (fence, found, progress, now_ms);
        unimplemented!()
    }

    /// The backup's manifests are gone: removes its row, and the agent's row
    /// when it is deregistered and this was its last backup. With
    /// `compact_not_before_ms`, queues a compaction in the same transaction.
    pub async fn complete_delete(
        &self,
        fence: &Fence,
        vault_bytes: Option<u64>,
        compact_not_before_ms: Option<i64>,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let _ = (fence, vault_bytes, compact_not_before_ms, now_ms);
        unimplemented!()
    }

    /// The vault is compacted.
    pub async fn complete_compact(
        &self,
        fence: &Fence,
        vault_bytes: u64,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let _ = (fence, vault_bytes, now_ms);
        unimplemented!()
    }
}
