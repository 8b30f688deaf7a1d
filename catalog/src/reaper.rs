//! Leases that ran out, and what time takes away by itself.

use crate::{Catalog, CatalogError, Job, Reaped};

impl Catalog {
    /// Takes RUNNING jobs whose lease ran out from their workers: back to the
    /// queue with backoff, FAILED (`WORKER_LOST`) when no try is left, CANCELED
    /// when that had been asked for. At most `limit` of them.
    pub async fn reap_expired(&self, limit: u64, now_ms: i64) -> Result<Vec<Reaped>, CatalogError> {
        let _ = (limit, now_ms);
        unimplemented!()
    }

    /// Jobs of a pool that the reaper ended and whose dead worker may have left
    /// something: a paused container (`paused_container`), or a half-made
    /// restore. A worker of the pool cleans up, then calls `leftover_cleaned`.
    pub async fn leftovers(&self, pool: &str, limit: u64) -> Result<Vec<Job>, CatalogError> {
        let _ = (pool, limit);
        unimplemented!()
    }

    /// What the job's dead workers left is gone.
    pub async fn leftover_cleaned(&self, job_id: &str) -> Result<(), CatalogError> {
        let _ = job_id;
        unimplemented!()
    }

    /// Removes drafts whose time is over; returns their ids.
    pub async fn expire_drafts(
        &self,
        limit: u64,
        now_ms: i64,
    ) -> Result<Vec<String>, CatalogError> {
        let _ = (limit, now_ms);
        unimplemented!()
    }

    /// Forgets `request_id`s whose time is over; returns how many.
    pub async fn expire_requests(&self, limit: u64, now_ms: i64) -> Result<u64, CatalogError> {
        let _ = (limit, now_ms);
        unimplemented!()
    }

    /// Removes pins whose time is over; returns how many.
    pub async fn expire_pins(&self, limit: u64, now_ms: i64) -> Result<u64, CatalogError> {
        let _ = (limit, now_ms);
        unimplemented!()
    }

    /// Forgets verify, delete and compact jobs that ended before
    /// `ended_before_ms`; returns how many.
    pub async fn expire_jobs(&self, limit: u64, ended_before_ms: i64) -> Result<u64, CatalogError> {
        let _ = (limit, ended_before_ms);
        unimplemented!()
    }
}
