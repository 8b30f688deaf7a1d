//! Verifications: jobs that callers ask for.

use crate::{Catalog, CatalogError, Job, NewVerification};

impl Catalog {
    /// Queues a verification; its id is the job's.
    ///
    /// Errors: `BackupNotFound`, `BackupNotCompleted`, `RequestIdReused`.
    pub async fn create_verification(
        &self,
        verification: NewVerification,
        now_ms: i64,
    ) -> Result<Job, CatalogError> {
        let _ = (verification, now_ms);
        unimplemented!()
    }
}
