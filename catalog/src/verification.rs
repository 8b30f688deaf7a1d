//! Verifications: jobs that callers ask for.

use crate::{
    Catalog, CatalogError, Job, JobKind, NewVerification, Urgency, agents, backups, copies,
    requests, stored,
    transitions::{self, NewJob},
};

impl Catalog {
    /// Queues a verification; its id is the job's.
    ///
    /// Errors: `BackupNotFound` (also when the verification of the first call
    /// with this `request_id` is forgotten), `BackupNotCompleted`, `CopyNotCompleted`,
    /// `RequestIdReused`.
    pub async fn create_verification(
        &self,
        verification: NewVerification,
        now_ms: i64,
    ) -> Result<Job, CatalogError> {
        match self.create_verification_once(&verification, now_ms).await {
            // The same request came twice at the same moment: the other was first.
            Err(error) if error.is_unique_violation() => {
                self.create_verification_once(&verification, now_ms).await
            }
            result => result,
        }
    }

    async fn create_verification_once(
        &self,
        new: &NewVerification,
        now_ms: i64,
    ) -> Result<Job, CatalogError> {
        let tx = self.begin("create verification").await?;
        let job_id = transitions::new_id(now_ms);
        let before = requests::note(&tx, new.request.as_ref(), &job_id, now_ms).await?;
        if let Some(before) = before {
            drop(tx);
            let job = self.get_job(&before).await?;
            return job.ok_or_else(|| backups::not_found(&new.backup_id));
        }
        let backup = backups::lock_readable(&tx, &new.backup_id, Some(&new.owner_id)).await?;
        copies::check_readable_at(&tx, &backup, &new.destination_id).await?;
        let agent = agents::lock_agent(&tx, &backup.agent_id).await?;
        let agent = agent.ok_or_else(|| agents::not_found(&backup.agent_id))?;
        let job = NewJob {
            job_id,
            kind: JobKind::Verify,
            agent_id: &backup.agent_id,
            owner_id: &backup.owner_id,
            backup_id: Some(&backup.backup_id),
            restore_id: None,
            depth: Some(new.depth),
            destination_id: &new.destination_id,
            pool: &agent.pool,
            urgency: Urgency::Manual,
            due_time_ms: now_ms,
            max_attempts: self.retry.max_attempts,
        };
        let job = transitions::insert_job(&tx, job, now_ms).await?;
        tx.commit_with_work().await?;
        stored::job(job)
    }
}
