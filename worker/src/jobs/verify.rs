//! Verify: reads a backup back, and keeps what was found with the backup.

use std::sync::Arc;

use catalog::VerifyDepth;
use proto::backup::v1::Failure;
use vault::{VaultError, VerifyReport};

use super::{backup::manifest_ref, open_to_read, rolled_back};
use crate::{
    clock::now_ms,
    failure::{JobError, failure},
    progress::ended,
    runner::context::JobContext,
    unwinding::join,
};

/// Faults that are named; further ones are counted.
const FAULTS_NAMED_MAX: usize = 5;

pub(super) async fn run(context: &Arc<JobContext>) -> Result<(), JobError> {
    let worker = &context.worker;
    let backup_id = context.lease.job.backup_id.as_deref().unwrap_or_default();
    context.pin(backup_id).await?;
    let found = look(context, backup_id).await?;
    if let Some(found) = &found {
        let reason = &found.reason;
        tracing::error!(
            backup_id,
            reason,
            message = found.message,
            "backup is damaged"
        );
    }
    let (fence, progress) = (context.fence(), ended(context.progress()));
    context
        .persist(|| {
            let catalog = &worker.catalog;
            catalog.complete_verify(&fence, found.clone(), Some(progress.clone()), now_ms())
        })
        .await
}

/// What is wrong with the backup, if anything.
async fn look(context: &JobContext, backup_id: &str) -> Result<Option<Failure>, JobError> {
    let manifest = context.lease.backup.as_ref().and_then(manifest_ref);
    let vault = match open_to_read(context, &context.lease.job.destination_id).await {
        Ok(vault) => vault,
        Err(error) => return found(error).map(Some),
    };
    if vault.is_none() && manifest.is_some() {
        return found(rolled_back(&context.lease.job.agent_id).into()).map(Some);
    }
    let (Some(manifest), Some(vault)) = (manifest, vault) else {
        let message =
            format!("backup {backup_id} has nothing stored at the destination: make a new one");
        return Ok(Some(failure("OBJECT_MISSING", message)));
    };
    let cancel = context.stop.token().clone();
    let reader = match vault.open_backup(&manifest, cancel).await {
        Ok(reader) => reader,
        Err(error) => return found(error.into()).map(Some),
    };
    let depth = match context.lease.job.depth {
        Some(VerifyDepth::Structure) => vault::VerifyDepth::Structure,
        Some(VerifyDepth::Full) | None => vault::VerifyDepth::Full,
    };
    let meter = context.meter.clone();
    let report: Result<VerifyReport, VaultError> = join(tokio::task::spawn_blocking(move || {
        reader.verify(depth, meter)
    }))
    .await;
    match report {
        Ok(report) => Ok(faults(backup_id, &report)),
        Err(error) => found(error.into()).map(Some),
    }
}

/// Whether an error is what was looked for: a stored object that is missing or damaged.
fn found(error: JobError) -> Result<Failure, JobError> {
    match error {
        JobError::Failed { failure, .. }
            if matches!(
                failure.reason.as_str(),
                "OBJECT_MISSING"
                    | "OBJECT_CORRUPT"
                    | "OBJECT_REPLAYED"
                    | "VAULT_ROLLED_BACK"
                    | "KEYS_GONE"
            ) =>
        {
            Ok(failure)
        }
        error => Err(error),
    }
}

fn faults(backup_id: &str, report: &VerifyReport) -> Option<Failure> {
    if report.faults.is_empty() {
        return None;
    }
    let reason = if report.missing {
        "OBJECT_MISSING"
    } else {
        "OBJECT_CORRUPT"
    };
    let named: Vec<&str> = report
        .faults
        .iter()
        .take(FAULTS_NAMED_MAX)
        .map(String::as_str)
        .collect();
    let more = match report.faults.len() - named.len() {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let message = format!("backup {backup_id} is damaged: {}{more}", named.join("; "));
    Some(failure(reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_up_to_a_bound() {
        assert_eq!(faults("b", &VerifyReport::default()), None);
        let report = VerifyReport {
            faults: (0..7).map(|n| format!("packs/{n} is missing")).collect(),
            missing: true,
            ..VerifyReport::default()
        };
        let found = faults("b", &report).unwrap();
        assert_eq!(found.reason, "OBJECT_MISSING");
        assert!(found.message.contains("packs/4") && !found.message.contains("packs/5"));
        assert!(found.message.ends_with("and 2 more"));
    }
}
