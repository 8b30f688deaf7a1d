//! Compact: removes and rewrites what no backup needs any more, in each vault of the agent.

use std::sync::Arc;

use vault::{CompactSpec, Store};

use super::{expected, garbage, open_vault_at, rolled_back};
use crate::{clock::now_ms, failure::JobError, runner::context::JobContext};

/// When a compaction that could not remove packs, because someone reads, is tried again.
const READERS_WAIT_MS: i64 = 5 * 60 * 1000;
/// Packs that are to go soon after another are removed together.
const REMOVAL_SPACING_MS: i64 = 60 * 1000;

/// What became of one vault.
#[derive(Default)]
struct Compacted {
    vault_bytes: u64,
    /// When there is to be another one.
    again_ms: Option<i64>,
}

pub(super) async fn run(context: &Arc<JobContext>) -> Result<(), JobError> {
    let worker = &context.worker;
    let agent_id = &context.lease.job.agent_id;
    let mut all = Compacted::default();
    let mut failure = None;
    for (destination_id, store) in worker.destinations.of_agent(agent_id).await? {
        match vault(context, &destination_id, store).await {
            Ok(one) => {
                all.vault_bytes += one.vault_bytes;
                all.again_ms = [all.again_ms, one.again_ms].into_iter().flatten().min();
            }
            Err(error @ (JobError::Stopped | JobError::Lost)) => return Err(error),
            // A destination that does not answer keeps no other one from its compaction.
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let (catalog, fence) = (&worker.catalog, context.fence());
    context
        .persist(|| catalog.complete_compact(&fence, all.vault_bytes, all.again_ms, now_ms()))
        .await?;
    fail::fail_point!("worker-compact-completed");
    Ok(())
}

/// Compacts the agent's vault at one destination.
async fn vault(
    context: &JobContext,
    destination_id: &str,
    store: Arc<dyn Store>,
) -> Result<Compacted, JobError> {
    let worker = &context.worker;
    let catalog = &worker.catalog;
    let agent_id = &context.lease.job.agent_id;
    let Some(vault) = open_vault_at(context, store).await? else {
        let known = context
            .persist(|| catalog.known_manifests(agent_id))
            .await?;
        if !expected(&known, destination_id).is_empty() {
            return Err(rolled_back(agent_id).into());
        }
        return Ok(Compacted::default());
    };
    // First what is stored, then what is known: a manifest that is stored is known by then.
    let stored = vault.manifests().await?;
    let known = context
        .persist(|| catalog.known_manifests(agent_id))
        .await?;
    let pins = context
        .persist(|| catalog.agent_pins(agent_id, now_ms()))
        .await?;
    context.check_held().await?;
    let grace = worker.settings.effective_compact_grace();
    let spec = CompactSpec {
        expected: expected(&known, destination_id),
        garbage: garbage(stored, known),
        grace_ms: grace.as_millis() as u64,
        may_remove: pins.is_empty(),
        now_ms: now_ms(),
    };
    let cancel = context.stop.token().clone();
    let report = vault.compact(spec, cancel, context.meter.clone()).await?;
    tracing::info!(
        agent_id,
        destination_id,
        removed_manifests = report.removed_manifests,
        rewritten_packs = report.rewritten_packs,
        retired_packs = report.retired_packs,
        removed_packs = report.removed_packs,
        removed_bytes = report.removed_bytes,
        waiting_packs = report.waiting_packs,
        "vault compacted"
    );
    let not_before_ms = if pins.is_empty() {
        now_ms() + REMOVAL_SPACING_MS.min(grace.as_millis() as i64)
    } else {
        now_ms() + READERS_WAIT_MS
    };
    Ok(Compacted {
        vault_bytes: report.vault_bytes,
        again_ms: report
            .next_removal_ms
            .map(|next_ms| next_ms.max(not_before_ms)),
    })
}
