//! Copy: a completed backup's sealed objects, as they are, to the agent's vault at another
//! destination. The backup itself is not touched, whatever comes of it; an interrupted copy
//! goes on from what is there.

use std::sync::Arc;

use vault::Vault;

use super::{backup::manifest_ref, open_vault_at, rolled_back, where_it_lies};
use crate::{clock::now_ms, failure::JobError, progress::ended, runner::context::JobContext};

pub(super) async fn run(context: &Arc<JobContext>) -> Result<(), JobError> {
    let worker = &context.worker;
    let job = &context.lease.job;
    let backup_id = job.backup_id.as_deref().unwrap_or_default();
    let manifest = context.lease.backup.as_ref().and_then(manifest_ref);
    let (Some(manifest), Some(lies)) = (manifest, where_it_lies(context).await?) else {
        return Err(JobError::final_failure(
            "BACKUP_NOT_FOUND",
            format!("backup {backup_id} is gone: there is nothing to copy"),
        ));
    };
    context.pin(backup_id).await?;
    let source: Vault = open_vault_at(context, lies.store)
        .await?
        .ok_or_else(|| rolled_back(&job.agent_id))?;
    let target = worker.destinations.store(&job.destination_id).await?;
    context.check_held().await?;
    let report = source
        .copy_backup(
            &manifest,
            target,
            &worker.keyring,
            context.stop.token().clone(),
            context.meter.clone(),
        )
        .await?;
    fail::fail_point!("worker-copy-stored");
    tracing::info!(
        backup_id,
        destination_id = job.destination_id,
        packs = report.packs,
        repacked_packs = report.repacked_packs,
        stored_bytes = report.stored_bytes,
        "backup copied"
    );
    let catalog = &worker.catalog;
    context
        .persist(|| {
            let (at, agent_id) = (&job.destination_id, &job.agent_id);
            catalog.note_vault_keys(at, agent_id, &report.wrapped_under, now_ms())
        })
        .await?;
    let (fence, progress) = (context.fence(), ended(context.progress()));
    context
        .persist(|| {
            let stored_bytes = report.stored_bytes;
            catalog.complete_copy(&fence, stored_bytes, Some(progress.clone()), now_ms())
        })
        .await?;
    fail::fail_point!("worker-copy-completed");
    Ok(())
}
