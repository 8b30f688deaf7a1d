//! What the queue should have word of. The dispatcher reads
//! `undispatched_jobs`, publishes each, and marks it; jobs whose word got lost
//! show up in `stale_dispatched`.

use crate::{Catalog, CatalogError, DispatchItem};

impl Catalog {
    /// QUEUED jobs that are due and not dispatched, the urgent ones first.
    pub async fn undispatched_jobs(
        &self,
        limit: u64,
        now_ms: i64,
    ) -> Result<Vec<DispatchItem>, CatalogError> {
        let _ = (limit, now_ms);
        unimplemented!()
    }

    /// When the next undispatched job is due: then call `undispatched_jobs`.
    pub async fn next_due_ms(&self) -> Result<Option<i64>, CatalogError> {
        unimplemented!()
    }

    /// The queue has word of it. Tells whether that still is news: false when
    /// the job was claimed, ended or is to be dispatched anew.
    pub async fn mark_dispatched(
        &self,
        item: &DispatchItem,
        now_ms: i64,
    ) -> Result<bool, CatalogError> {
        let _ = (item, now_ms);
        unimplemented!()
    }

    /// QUEUED jobs dispatched before `older_than_ms`: publish and mark them
    /// again. A doubled message is harmless.
    pub async fn stale_dispatched(
        &self,
        older_than_ms: i64,
        limit: u64,
    ) -> Result<Vec<DispatchItem>, CatalogError> {
        let _ = (older_than_ms, limit);
        unimplemented!()
    }

    /// Makes all dispatched QUEUED jobs undispatched: for a start with an
    /// in-process queue, which forgot everything. Returns how many.
    pub async fn redispatch_all(&self) -> Result<u64, CatalogError> {
        unimplemented!()
    }

    /// Returns when a call through this catalog (or a clone of it) may have
    /// made a job that is to be dispatched. Other processes' calls don't show
    /// here: poll besides.
    pub async fn work_added(&self) {
        self.work.notified().await;
    }
}
