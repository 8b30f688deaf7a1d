//! Jobs: claimed, renewed, failed, handed back, canceled. Every write of a
//! worker names its [`Fence`].

use proto::backup::v1::Progress;

use crate::{
    Catalog, CatalogError, ClaimOutcome, FailOutcome, Failure, Fence, Job, JobState, Renewal,
};

impl Catalog {
    /// A job: a verification, for example.
    pub async fn get_job(&self, job_id: &str) -> Result<Option<Job>, CatalogError> {
        let _ = job_id;
        unimplemented!()
    }

    /// Claims a job for a worker: RUNNING, the next attempt, a lease. Its backup
    /// or restore becomes RUNNING with it.
    pub async fn claim_job(
        &self,
        job_id: &str,
        owner: &str,
        lease_ms: i64,
        now_ms: i64,
    ) -> Result<ClaimOutcome, CatalogError> {
        let _ = (job_id, owner, lease_ms, now_ms);
        unimplemented!()
    }

    /// Prolongs the lease to `now_ms + lease_ms`, and keeps the progress when
    /// there is any.
    pub async fn renew_lease(
        &self,
        fence: &Fence,
        lease_ms: i64,
        now_ms: i64,
        progress: Option<&Progress>,
    ) -> Result<Renewal, CatalogError> {
        let _ = (fence, lease_ms, now_ms, progress);
        unimplemented!()
    }

    /// Notes which container this attempt is about to pause, or (None) that it
    /// is resumed. Errors: `Fenced`.
    pub async fn note_paused(
        &self,
        fence: &Fence,
        container: Option<&str>,
    ) -> Result<(), CatalogError> {
        let _ = (fence, container);
        unimplemented!()
    }

    /// Ends this attempt without success: back to the queue when `retryable`,
    /// tries are left and no cancellation was asked for. Errors: `Fenced`.
    pub async fn fail_job(
        &self,
        fence: &Fence,
        failure: Failure,
        retryable: bool,
        now_ms: i64,
    ) -> Result<FailOutcome, CatalogError> {
        let _ = (fence, failure, retryable, now_ms);
        unimplemented!()
    }

    /// Ends the job as CANCELED, with its backup or restore: the worker has
    /// stopped and cleaned up. Errors: `Fenced`.
    pub async fn cancel_job_done(&self, fence: &Fence, now_ms: i64) -> Result<(), CatalogError> {
        let _ = (fence, now_ms);
        unimplemented!()
    }

    /// Gives the job back, due at once, without counting the attempt: the
    /// worker stops. Tells the state it is in now: QUEUED, or CANCELED when that
    /// had been asked for. Errors: `Fenced`.
    pub async fn hand_back(&self, fence: &Fence, now_ms: i64) -> Result<JobState, CatalogError> {
        let _ = (fence, now_ms);
        unimplemented!()
    }
}
