//! Delete: removes a backup's manifests where it lies and wherever a copy of it is or may be;
//! the rest goes with a compaction.

use std::sync::Arc;

use catalog::CatalogError;
use destinations::DestinationsError;
use vault::{Store, Vault};

use super::{open_vault_at, where_it_lies};
use crate::{clock::now_ms, failure::JobError, runner::context::JobContext};

pub(super) async fn run(context: &Arc<JobContext>) -> Result<(), JobError> {
    let worker = &context.worker;
    let backup_id = context.lease.job.backup_id.as_deref().unwrap_or_default();
    let mut vaults = Vec::new();
    for store in stores(context).await? {
        if let Some(vault) = open_vault_at(context, store.clone()).await? {
            vaults.push((store, vault));
        }
    }
    for (_, vault) in &vaults {
        context.check_held().await?;
        vault.delete_backup(backup_id).await?;
        fail::fail_point!("worker-manifests-deleted");
    }
    let mut vault_bytes = 0;
    for (store, vault) in &vaults {
        if is_last_of_gone_agent(context, vault).await? {
            // A later agent of this id, of whatever owner, begins with nothing.
            let agent_id = &context.lease.job.agent_id;
            let data_key_ids = vault::erase::data_key_ids(&**store, agent_id).await?;
            context
                .persist(|| {
                    let catalog = &worker.catalog;
                    catalog.note_erased_keys(agent_id, &data_key_ids, now_ms())
                })
                .await?;
            vault.erase().await?;
        }
        vault_bytes += vault.stored_bytes().await?;
    }
    let fence = context.fence();
    let compact_ms = (!vaults.is_empty()).then(now_ms);
    context
        .persist(|| {
            let catalog = &worker.catalog;
            catalog.complete_delete(&fence, Some(vault_bytes), compact_ms, now_ms())
        })
        .await
}

/// The stores where something of the backup may be.
async fn stores(context: &JobContext) -> Result<Vec<Arc<dyn Store>>, JobError> {
    let destinations = &context.worker.destinations;
    let mut stores: Vec<_> = where_it_lies(context)
        .await?
        .into_iter()
        .map(|lies| lies.store)
        .collect();
    let copies = context
        .lease
        .backup
        .iter()
        .flat_map(|backup| &backup.copies);
    for copy in copies {
        match destinations.store(&copy.destination_id).await {
            Ok(store) => stores.push(store),
            // Forgotten: it is refused while a copy is there, so none is.
            Err(DestinationsError::Catalog(CatalogError::DestinationNotFound { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(stores)
}

/// Whether nothing is left that anyone could want: then no later job comes to clear up.
async fn is_last_of_gone_agent(context: &JobContext, vault: &Vault) -> Result<bool, JobError> {
    let catalog = &context.worker.catalog;
    let agent_id = &context.lease.job.agent_id;
    let agent = context.persist(|| catalog.get_agent(agent_id)).await?;
    Ok(agent.is_none() && vault.manifests().await?.is_empty())
}
