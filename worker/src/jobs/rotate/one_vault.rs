//! One vault of a rotation, in futures that own what they need: many of them run at the
//! same time.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use proto::backup::v1::Failure;
use vault::{RewrapPolicy, RewrapReport, Store, VaultError, erase, rewrap, survey};

use crate::{clock::now_ms, failure::JobError, runner::context::JobContext};

/// What became of one vault.
pub(super) enum Done {
    Rewrapped(RewrapReport),
    /// Nothing that has keys.
    Empty,
    /// It can't be brought under the key.
    Failed(Failure),
    /// Its destination does not answer as it should: the vaults after it wait.
    Unreached(JobError),
}

/// Looks at one vault.
pub(super) fn look(
    context: Arc<JobContext>,
    store: Arc<dyn Store>,
    agent_id: String,
) -> BoxFuture<'static, (String, vault::Result<RewrapReport>)> {
    async move {
        let found = survey(&*store, &agent_id, &context.worker.keyring).await;
        (agent_id, found)
    }
    .boxed()
}

/// Brings one vault under the key.
pub(super) fn bring(
    context: Arc<JobContext>,
    destination_id: String,
    store: Arc<dyn Store>,
    agent_id: String,
    policy: RewrapPolicy,
) -> BoxFuture<'static, (String, Result<Done, JobError>)> {
    async move {
        let done = under_key(&context, &destination_id, &*store, &agent_id, policy).await;
        (agent_id, done)
    }
    .boxed()
}

/// The same. An error is not about the vault, nor about its destination.
async fn under_key(
    context: &JobContext,
    destination_id: &str,
    store: &dyn Store,
    agent_id: &str,
    policy: RewrapPolicy,
) -> Result<Done, JobError> {
    context.check_stop()?;
    let (catalog, keyring) = (&context.worker.catalog, &context.worker.keyring);
    let report = match rewrap(store, agent_id, keyring, policy, context.stop.token()).await {
        Ok(report) => report,
        // An agent's that is being erased, or was: there is no key to rotate.
        Err(VaultError::NoVault { .. } | VaultError::KeysGone { .. }) => return Ok(Done::Empty),
        Err(error) => {
            return match JobError::from(error) {
                error @ JobError::Failed {
                    retryable: true, ..
                } => Ok(Done::Unreached(error)),
                JobError::Failed { failure, .. } => Ok(Done::Failed(failure)),
                error => Err(error),
            };
        }
    };
    fail::fail_point!("worker-rotate-vault");
    // What was destroyed while it was rewritten must not come back: until it is destroyed
    // again, the rotation does not end.
    let data_key_ids = report.data_key_ids();
    let erased = context
        .persist(|| catalog.erased_among(&data_key_ids))
        .await?;
    if !erased.is_empty() {
        erase::destroy_keys_named(store, agent_id, &erased).await?;
        return Ok(Done::Empty);
    }
    let key_ids = report.wrapped_under();
    context
        .persist(|| catalog.note_vault_keys(destination_id, agent_id, &key_ids, now_ms()))
        .await?;
    Ok(Done::Rewrapped(report))
}
