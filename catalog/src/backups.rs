//! Backups: accepted, shown, canceled.

use crate::{Backup, BackupFilter, Catalog, CatalogError, NewBackup, Page, PageRequest};

impl Catalog {
    /// Accepts a backup: backup, job and request in one transaction.
    ///
    /// Errors: `AgentNotFound`, `RequestIdReused`, `BackupNotFound` when the
    /// backup of the first call with this `request_id` is gone already.
    pub async fn create_backup(
        &self,
        backup: NewBackup,
        now_ms: i64,
    ) -> Result<Backup, CatalogError> {
        let _ = (backup, now_ms);
        unimplemented!()
    }

    /// A backup.
    pub async fn get_backup(&self, backup_id: &str) -> Result<Option<Backup>, CatalogError> {
        let _ = backup_id;
        unimplemented!()
    }

    /// Backups, newest first.
    pub async fn list_backups(
        &self,
        filter: &BackupFilter,
        page: &PageRequest,
    ) -> Result<Page<Backup>, CatalogError> {
        let _ = (filter, page);
        unimplemented!()
    }

    /// The agent's COMPLETED backup of the highest sequence.
    pub async fn latest_completed(&self, agent_id: &str) -> Result<Option<Backup>, CatalogError> {
        let _ = agent_id;
        unimplemented!()
    }

    /// Cancels a backup: at once while its job is queued, otherwise by asking
    /// its worker. Asking again changes nothing.
    ///
    /// Errors: `BackupNotFound`, `AlreadyEnded`.
    pub async fn cancel_backup(
        &self,
        backup_id: &str,
        now_ms: i64,
    ) -> Result<Backup, CatalogError> {
        let _ = (backup_id, now_ms);
        unimplemented!()
    }
}
