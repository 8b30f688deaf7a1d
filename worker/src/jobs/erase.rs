//! Erase: destroys an agent's data keys at every destination, before anything else; then
//! the rest of its vaults. Killed at any point, it is done again from the beginning.

use std::sync::Arc;

use vault::{Store, erase};

use crate::{clock::now_ms, failure::JobError, runner::context::JobContext};

pub(super) async fn run(context: &Arc<JobContext>) -> Result<(), JobError> {
    let agent_id = &context.lease.job.agent_id;
    let stores = context.worker.destinations.of_agent(agent_id).await?;
    context.check_held().await?;
    for (_, store) in &stores {
        destroy_keys(context, &**store, agent_id).await?;
    }
    fail::fail_point!("worker-erase-keys-destroyed");
    tracing::info!(agent_id, "data keys destroyed");
    for (_, store) in &stores {
        context.check_stop()?;
        erase::erase(&**store, agent_id).await?;
    }
    fail::fail_point!("worker-erase-erased");
    let (catalog, fence) = (&context.worker.catalog, context.fence());
    context
        .persist(|| catalog.complete_erase(&fence, now_ms()))
        .await
}

/// Destroys the data keys of an agent's vault. That they are is noted first, so that a
/// rotation that rewrites one at the same time takes it away again.
pub(super) async fn destroy_keys(
    context: &JobContext,
    store: &dyn Store,
    agent_id: &str,
) -> Result<(), JobError> {
    let catalog = &context.worker.catalog;
    let data_key_ids = erase::data_key_ids(store, agent_id).await?;
    context
        .persist(|| catalog.note_erased_keys(agent_id, &data_key_ids, now_ms()))
        .await?;
    fail::fail_point!("worker-erase-keys-noted");
    erase::destroy_keys(store, agent_id).await?;
    Ok(())
}
