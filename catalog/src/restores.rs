//! Restores: planned, started, shown, canceled.

use std::collections::HashMap;

use crate::{Catalog, CatalogError, NewDraft, Page, PageRequest, Restore, RestoreFilter};

impl Catalog {
    /// Keeps a plan; it goes away after [`crate::limits::DRAFT_TTL_MS`].
    ///
    /// Errors: `BackupNotFound`, `BackupNotCompleted`, `AgentExists`,
    /// `RequestIdReused`, `RestoreNotFound` when the draft of the first call
    /// with this `request_id` is gone already.
    pub async fn create_draft(
        &self,
        draft: NewDraft,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        let _ = (draft, now_ms);
        unimplemented!()
    }

    /// A restore.
    pub async fn get_restore(&self, restore_id: &str) -> Result<Option<Restore>, CatalogError> {
        let _ = restore_id;
        unimplemented!()
    }

    /// Restores, newest first.
    pub async fn list_restores(
        &self,
        filter: &RestoreFilter,
        page: &PageRequest,
    ) -> Result<Page<Restore>, CatalogError> {
        let _ = (filter, page);
        unimplemented!()
    }

    /// Starts a draft with these choices (`decision_id` to choice; whether a
    /// choice is one of the options is the caller's to check): PENDING, with its
    /// job, in one transaction. One that waits or runs already is left as it is.
    ///
    /// Errors: `RestoreNotFound` (also a draft whose time is over),
    /// `AlreadyEnded`, `DecisionUnknown`, `DecisionMissing`,
    /// `BackupNotCompleted`, `AgentExists` (also when another restore that waits
    /// or runs will make it).
    pub async fn start_restore(
        &self,
        restore_id: &str,
        choices: &HashMap<String, String>,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        let _ = (restore_id, choices, now_ms);
        unimplemented!()
    }

    /// Cancels a restore: at once before a worker began, otherwise by asking
    /// the worker. Asking again changes nothing.
    ///
    /// Errors: `RestoreNotFound`, `AlreadyEnded`.
    pub async fn cancel_restore(
        &self,
        restore_id: &str,
        now_ms: i64,
    ) -> Result<Restore, CatalogError> {
        let _ = (restore_id, now_ms);
        unimplemented!()
    }
}
