//! What each kind of job does, one file a kind.
//!
//! A job's work ends it as completed by itself, in one transaction of the catalog that names its
//! attempt; every other end is the runner's.

use std::{collections::HashMap, sync::Arc};

use catalog::JobKind;
use vault::{Store, Vault, VaultError};

use crate::{clock::now_ms, failure::JobError, runner::context::JobContext};

mod backup;
mod compact;
mod copy;
mod delete;
mod erase;
mod restore;
mod rotate;
mod verify;

#[cfg(test)]
mod tests;

/// Does the work of a claimed job.
pub(crate) async fn run(context: Arc<JobContext>) -> Result<(), JobError> {
    match context.lease.job.kind {
        JobKind::Backup => backup::run(&context).await,
        JobKind::Restore => restore::run(&context).await,
        JobKind::Verify => verify::run(&context).await,
        JobKind::Delete => delete::run(&context).await,
        JobKind::Compact => compact::run(&context).await,
        JobKind::Rotate => rotate::run(&context).await,
        JobKind::Erase => erase::run(&context).await,
        JobKind::Copy => copy::run(&context).await,
    }
}

/// What a kind of job is called in logs and metrics.
pub(crate) fn name(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Backup => "backup",
        JobKind::Restore => "restore",
        JobKind::Verify => "verify",
        JobKind::Delete => "delete",
        JobKind::Compact => "compact",
        JobKind::Rotate => "rotate",
        JobKind::Erase => "erase",
        JobKind::Copy => "copy",
    }
}

/// Sees to what a job without success left at the destination: it is removed by a compaction,
/// once nothing that still runs can want it.
pub(crate) async fn left_behind(context: &JobContext) {
    use std::sync::atomic::Ordering::Relaxed;
    let stored = context.meter.stored_bytes.load(Relaxed) > 0 || context.lease.attempt > 1;
    if context.lease.job.kind == JobKind::Backup && stored {
        let grace_ms = context
            .worker
            .settings
            .effective_compact_grace()
            .as_millis() as i64;
        enqueue_compact(context, now_ms() + grace_ms).await;
    }
}

/// Asks for a compaction; the next one does the work of one that could not be asked for.
async fn enqueue_compact(context: &JobContext, not_before_ms: i64) {
    let agent_id = &context.lease.job.agent_id;
    let catalog = &context.worker.catalog;
    if let Err(error) = catalog
        .enqueue_compact(agent_id, not_before_ms, now_ms())
        .await
    {
        tracing::warn!(agent_id, %error, "ask for a compaction");
    }
}

/// Where a backup lies.
struct Lies {
    destination_id: String,
    store: Arc<dyn Store>,
}

/// Where the job's backup lies; `None` when it is gone. It is looked at again once the store
/// is open: the default destination may become another one at any time, with all backups of
/// the former one under another id.
async fn where_it_lies(context: &JobContext) -> Result<Option<Lies>, JobError> {
    let mut found = backup_now(context).await?;
    while let Some(destination_id) = found {
        let store = context.worker.destinations.store(&destination_id).await?;
        found = backup_now(context).await?;
        if found.as_ref().is_none_or(|again| *again == destination_id) {
            return Ok(Some(Lies {
                destination_id,
                store,
            }));
        }
    }
    Ok(None)
}

/// The destination of the job's backup, as it is now.
async fn backup_now(context: &JobContext) -> Result<Option<String>, JobError> {
    let catalog = &context.worker.catalog;
    let backup_id = context.lease.job.backup_id.as_deref().unwrap_or_default();
    let backup = context.persist(|| catalog.get_backup(backup_id)).await?;
    Ok(backup.map(|backup| backup.destination_id))
}

/// Opens the vault in which the job's backup is read: of its copy at a destination, or
/// (empty) where it lies. `None` when there is none.
async fn open_to_read(
    context: &JobContext,
    destination_id: &str,
) -> Result<Option<Vault>, JobError> {
    let store = if destination_id.is_empty() {
        match where_it_lies(context).await? {
            Some(lies) => lies.store,
            None => return Ok(None),
        }
    } else {
        context.worker.destinations.store(destination_id).await?
    };
    open_vault_at(context, store).await
}

/// Opens the vault of the job's agent at a destination; `None` when there is none.
async fn open_vault_at(
    context: &JobContext,
    store: Arc<dyn Store>,
) -> Result<Option<Vault>, JobError> {
    let worker = &context.worker;
    let opened = Vault::open(
        store,
        &context.lease.job.agent_id,
        &worker.keyring,
        worker.vault_settings.clone(),
    )
    .await;
    match opened {
        Ok(vault) => Ok(Some(vault)),
        Err(VaultError::NoVault { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The manifests that must be stored at a destination: those of completed backups that lie
/// there, and of copies that are complete.
fn expected(known: &[catalog::KnownManifest], destination_id: &str) -> Vec<vault::ManifestRef> {
    known
        .iter()
        .filter(|known| known.state == catalog::BackupState::Completed)
        .filter(|known| known.destination_ids.iter().any(|id| id == destination_id))
        .filter_map(|known| {
            Some(vault::ManifestRef {
                backup_id: known.backup_id.clone(),
                attempt: known.manifest_attempt?,
                digest: known.manifest_digest,
            })
        })
        .collect()
}

/// The error for a vault that is not there at all, while backups in it are known.
fn rolled_back(agent_id: &str) -> VaultError {
    VaultError::RolledBack {
        agent_id: agent_id.to_owned(),
        lacking: "nothing of its vault is there".to_owned(),
    }
}

/// The stored manifests that are known to be garbage: those of backups that failed or were
/// canceled, and of attempts other than the one that counts. What is not known is kept, and so is
/// what another job still works on.
fn garbage(
    stored: Vec<vault::ManifestRef>,
    known: Vec<catalog::KnownManifest>,
) -> std::collections::HashSet<vault::ManifestRef> {
    use catalog::BackupState;
    let known: HashMap<_, _> = known
        .into_iter()
        .map(|known| (known.backup_id.clone(), known))
        .collect();
    stored
        .into_iter()
        .filter(|manifest| {
            known
                .get(&manifest.backup_id)
                .is_some_and(|known| match known.state {
                    BackupState::Completed => known.manifest_attempt != Some(manifest.attempt),
                    BackupState::Failed | BackupState::Canceled => true,
                    BackupState::Pending | BackupState::Running | BackupState::Deleting => false,
                })
        })
        .collect()
}
