//! Compact: removes and rewrites what no backup needs any more.

use std::sync::Arc;

use vault::CompactSpec;

use super::{expected, garbage, open_vault, rolled_back};
use crate::{clock::now_ms, failure::JobError, runner::context::JobContext};

/// When a compaction that could not remove packs, because someone reads, is tried again.
const READERS_WAIT_MS: i64 = 5 * 60 * 1000;
/// Packs that are to go soon after another are removed together.
const REMOVAL_SPACING_MS: i64 = 60 * 1000;

pub(super) async fn run(context: &Arc<JobContext>) -> Result<(), JobError> {
    let worker = &context.worker;
    let (catalog, fence) = (&worker.catalog, context.fence());
    let agent_id = &context.lease.job.agent_id;
    let mut vault_bytes = 0;
    let mut again_ms = None;
    let vault = open_vault(context).await?;
    if vault.is_none() {
        let known = context
            .persist(|| catalog.known_manifests(agent_id))
            .await?;
        if !expected(&known).is_empty() {
            return Err(rolled_back(agent_id).into());
        }
    }
    if let Some(vault) = vault {
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
            expected: expected(&known),
            garbage: garbage(stored, known),
            grace_ms: grace.as_millis() as u64,
            may_remove: pins.is_empty(),
            now_ms: now_ms(),
        };
        let cancel = context.stop.token().clone();
        let report = vault.compact(spec, cancel, context.meter.clone()).await?;
        tracing::info!(
            agent_id,
            removed_manifests = report.removed_manifests,
            rewritten_packs = report.rewritten_packs,
            retired_packs = report.retired_packs,
            removed_packs = report.removed_packs,
            removed_bytes = report.removed_bytes,
            waiting_packs = report.waiting_packs,
            "vault compacted"
        );
        vault_bytes = report.vault_bytes;
        let not_before_ms = if pins.is_empty() {
            now_ms() + REMOVAL_SPACING_MS.min(grace.as_millis() as i64)
        } else {
            now_ms() + READERS_WAIT_MS
        };
        again_ms = report
            .next_removal_ms
            .map(|next_ms| next_ms.max(not_before_ms));
    }
    context
        .persist(|| catalog.complete_compact(&fence, vault_bytes, again_ms, now_ms()))
        .await?;
    fail::fail_point!("worker-compact-completed");
    Ok(())
}
