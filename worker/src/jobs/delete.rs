//! Delete: removes a backup's manifests; the rest goes with a compaction.

use std::sync::Arc;

use vault::Vault;

use super::open_vault;
use crate::{clock::now_ms, failure::JobError, runner::context::JobContext};

pub(super) async fn run(context: &Arc<JobContext>) -> Result<(), JobError> {
    let worker = &context.worker;
    let backup_id = context.lease.job.backup_id.as_deref().unwrap_or_default();
    let vault = open_vault(context).await?;
    let mut vault_bytes = 0;
    if let Some(vault) = &vault {
        context.check_held().await?;
        vault.delete_backup(backup_id).await?;
        fail::fail_point!("worker-manifests-deleted");
        if is_last_of_gone_agent(context, vault).await? {
            // A later agent of this id, of whatever owner, begins with nothing.
            let agent_id = &context.lease.job.agent_id;
            let data_key_ids = vault::erase::data_key_ids(&*worker.store, agent_id).await?;
            context
                .persist(|| {
                    let catalog = &worker.catalog;
                    catalog.note_erased_keys(agent_id, &data_key_ids, now_ms())
                })
                .await?;
            vault.erase().await?;
        }
        vault_bytes = vault.stored_bytes().await?;
    }
    let fence = context.fence();
    let compact_ms = vault.is_some().then(now_ms);
    context
        .persist(|| {
            let catalog = &worker.catalog;
            catalog.complete_delete(&fence, Some(vault_bytes), compact_ms, now_ms())
        })
        .await
}

/// Whether nothing is left that anyone could want: then no later job comes to clear up.
async fn is_last_of_gone_agent(context: &JobContext, vault: &Vault) -> Result<bool, JobError> {
    let catalog = &context.worker.catalog;
    let agent_id = &context.lease.job.agent_id;
    let agent = context.persist(|| catalog.get_agent(agent_id)).await?;
    Ok(agent.is_none() && vault.manifests().await?.is_empty())
}
