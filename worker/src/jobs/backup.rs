//! Backup: source to vault.

use std::sync::Arc;

use catalog::{Agent, Backup, BackupFilter, BackupResult, BackupState, PageRequest, Patterns};
use prost::Message as _;
use proto::backup::v1::BackupWarning;
use vault::{BackupSpec, Committed, ManifestRef, Vault, VaultError};

use super::{enqueue_compact, open_vault_at, rolled_back, where_it_lies};
use crate::{
    clock::now_ms,
    failure::{JobError, failure},
    progress::ended,
    runner::context::{CatalogUndo, JobContext},
    sources::{self, CaptureContext},
    unwinding::join,
};

/// Every so many backups the vault is compacted, so that small packs don't pile up.
const COMPACT_EVERY: u64 = 16;
/// How long such a compaction waits: whoever makes a backup after a backup need not wait for it.
const COMPACT_LATER_MS: i64 = 30_000;

pub(super) async fn run(context: &Arc<JobContext>) -> Result<(), JobError> {
    let worker = &context.worker;
    let job = &context.lease.job;
    undo(context).await?;
    let (Some(agent), Some(backup)) = (&context.lease.agent, &context.lease.backup) else {
        return Err(JobError::final_failure(
            "AGENT_NOT_FOUND",
            format!("agent {} is gone: register it again", job.agent_id),
        ));
    };
    let source = sources::open(&worker.settings, &agent.source)?;
    let lies = where_it_lies(context).await?.ok_or(JobError::Lost)?;
    let at = Some(lies.destination_id.as_str());
    let previous = context
        .persist(|| worker.catalog.latest_completed(&agent.agent_id, at))
        .await?;
    // Numbers go on wherever the backups lie.
    let latest = context
        .persist(|| worker.catalog.latest_completed(&agent.agent_id, None))
        .await?;
    let vault = if previous.is_none() {
        Vault::open_or_create(
            lies.store.clone(),
            &agent.agent_id,
            &worker.keyring,
            worker.vault_settings.clone(),
        )
        .await?
    } else {
        // A new vault in the place of one that is gone would hide that it is.
        open_vault_at(context, lies.store.clone())
            .await?
            .ok_or_else(|| rolled_back(&agent.agent_id))?
    };
    note_keys(context, &lies.destination_id, vault.wrapped_under()).await;
    let spec = BackupSpec {
        backup_id: backup.backup_id.clone(),
        attempt: context.lease.attempt,
        agent_name: agent.display_name.clone(),
        owner_id: agent.owner_id.clone(),
        workspace_id: agent.workspace_id.clone(),
        name: backup.name.clone(),
        source: agent.source.encode_to_vec(),
        integrations: agent
            .integrations
            .iter()
            .map(prost::Message::encode_to_vec)
            .collect(),
        previous: previous.as_ref().and_then(manifest_ref),
        previous_sequence: latest.as_ref().and_then(|backup| backup.sequence),
        start_time_ms: now_ms(),
    };
    let cancel = context.stop.token().clone();
    let writer = vault
        .begin_backup(spec, cancel.clone(), context.meter.clone())
        .await?;
    if let (Some(backup), Some(fault)) = (&previous, writer.previous_fault()) {
        note_damage(context, &backup.backup_id, fault).await?;
    }
    let capture = CaptureContext {
        backup_id: backup.backup_id.clone(),
        attempt: context.lease.attempt,
        agent_id: agent.agent_id.clone(),
        previous_start_ms: previous.as_ref().and_then(|backup| backup.start_time_ms),
        cancel,
        meter: context.meter.clone(),
        patterns: Arc::new(patterns(agent)?),
        undo: Arc::new(CatalogUndo(context.clone())),
    };
    let writer = source.capture(capture, writer).await?;
    fail::fail_point!("worker-captured");
    context.check_held().await?;
    let committed = join(tokio::task::spawn_blocking(move || writer.finish(now_ms()))).await?;
    fail::fail_point!("worker-committed");
    let result = result(context, committed)?;
    let sequence = result.sequence;
    let fence = context.fence();
    context
        .persist(|| {
            let catalog = &worker.catalog;
            catalog.complete_backup(&fence, result.clone(), now_ms())
        })
        .await?;
    fail::fail_point!("worker-backup-completed");
    if is_garbage_likely(context).await {
        enqueue_compact(context, now_ms()).await;
    } else if sequence.is_multiple_of(COMPACT_EVERY) {
        enqueue_compact(context, now_ms() + COMPACT_LATER_MS).await;
    }
    Ok(())
}

/// Notes which keys the vault is under; a rotation finds out, where that fails.
async fn note_keys(context: &JobContext, destination_id: &str, key_ids: &[String]) {
    let worker = &context.worker;
    let agent_id = &context.lease.job.agent_id;
    let noted = worker
        .catalog
        .note_vault_keys(destination_id, agent_id, key_ids, now_ms());
    if let Err(error) = noted.await {
        tracing::warn!(agent_id, %error, "note the keys of a vault");
    }
}

/// Keeps with a backup what was found wrong with it.
async fn note_damage(
    context: &JobContext,
    backup_id: &str,
    fault: &VaultError,
) -> Result<(), JobError> {
    let (catalog, fence) = (&context.worker.catalog, context.fence());
    let found = failure(fault.reason(), fault.to_string());
    context
        .persist(|| catalog.note_damage(&fence, backup_id, &found))
        .await
}

/// Whether attempts that came to nothing, of this backup or the one before, may have left
/// something in the vault.
async fn is_garbage_likely(context: &JobContext) -> bool {
    if context.lease.attempt > 1 {
        return true;
    }
    let filter = BackupFilter {
        agent_id: Some(context.lease.job.agent_id.clone()),
        ..BackupFilter::default()
    };
    let catalog = &context.worker.catalog;
    let newest = catalog.list_backups(&filter, &PageRequest::first(2)).await;
    newest.is_ok_and(|page| {
        page.items
            .iter()
            .any(|backup| matches!(backup.state, BackupState::Failed | BackupState::Canceled))
    })
}

/// What is left out of the agent's backups.
fn patterns(agent: &Agent) -> Result<Patterns, JobError> {
    Patterns::new(&agent.patterns).map_err(|bad| {
        JobError::final_failure(
            "INVALID_FIELD",
            format!(
                "the agent's pattern {} {}: register the agent with another one",
                bad.index, bad.why
            ),
        )
    })
}

/// A warning when the agent has grown beyond what it is registered with, or the operator allows.
fn size_warning(context: &JobContext, size_bytes: u64) -> Option<BackupWarning> {
    let registered = context.lease.agent.as_ref()?.size_warning_bytes;
    let (limit_bytes, whose) = if registered > 0 {
        (registered, "it is registered with")
    } else {
        let limit_mb = context.worker.settings.size_warning_mb;
        (limit_mb * 1024 * 1024, "NORA_BACKUP_SIZE_WARNING_MB allows")
    };
    (limit_bytes > 0 && size_bytes > limit_bytes).then(|| BackupWarning {
        path: String::new(),
        message: format!(
            "the agent's files take {size_bytes} bytes, more than the {limit_bytes} that {whose}: \
             leave out by patterns what needs no backup, or raise the limit"
        ),
    })
}

/// Undoes what an attempt that died has done to the agent.
async fn undo(context: &JobContext) -> Result<(), JobError> {
    let worker = &context.worker;
    if let Some(container) = &context.lease.job.paused_container {
        sources::docker::resume(&worker.settings, container).await?;
        let fence = context.fence();
        context
            .persist(|| worker.catalog.note_paused(&fence, None))
            .await?;
    }
    if let Some(owed) = &context.lease.job.after_hook {
        sources::docker::run_owed(&worker.settings, owed).await?;
        let fence = context.fence();
        context
            .persist(|| worker.catalog.note_after_hook(&fence, None))
            .await?;
    }
    Ok(())
}

/// Names the manifest that counts.
pub(super) fn manifest_ref(backup: &Backup) -> Option<ManifestRef> {
    backup.manifest_attempt.map(|attempt| ManifestRef {
        backup_id: backup.backup_id.clone(),
        attempt,
        digest: backup.manifest_digest,
    })
}

fn result(context: &JobContext, committed: Committed) -> Result<BackupResult, JobError> {
    let digest = committed.manifest.digest.ok_or_else(|| {
        JobError::internal(&"the vault committed a manifest without a digest", true)
    })?;
    let statistics = committed.statistics;
    let size_warning = size_warning(context, statistics.size_bytes);
    Ok(BackupResult {
        manifest_attempt: committed.manifest.attempt,
        manifest_digest: digest,
        sequence: committed.sequence,
        size_bytes: statistics.size_bytes,
        stored_bytes: statistics.stored_bytes,
        new_bytes: statistics.new_bytes,
        entries: statistics.entries,
        warnings_total: committed.warnings.len() as u64
            + committed.warnings_omitted
            + u64::from(size_warning.is_some()),
        warnings: size_warning
            .into_iter()
            .chain(committed.warnings.into_iter().map(|warning| BackupWarning {
                path: String::from_utf8_lossy(&warning.path).into_owned(),
                message: warning.message,
            }))
            .take(catalog::limits::WARNINGS_MAX)
            .collect(),
        vault_bytes: committed.vault_bytes,
        progress: Some(ended(context.progress())),
    })
}
