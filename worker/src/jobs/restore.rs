//! Restore: vault to a new agent, or in place of the agent itself.

use std::sync::Arc;

use catalog::{InPlaceResult, JobState, NewAgent, Restore, RestoreResult};
use prost::Message as _;
use proto::backup::v1::{DockerSource, Integration, Source, source::Kind};
use vault::BackupReader;

use super::{backup::manifest_ref, open_to_read, rolled_back};
use crate::{
    clock::now_ms,
    failure::JobError,
    progress::ended,
    runner::context::JobContext,
    targets::{self, RestoreContext, Restored, Target, TargetError},
};

pub(super) async fn run(context: &Arc<JobContext>) -> Result<(), JobError> {
    let Some(restore) = &context.lease.restore else {
        return Err(JobError::internal(
            &"a restore job without a restore",
            false,
        ));
    };
    let target = targets::open(
        &context.worker.settings,
        RestoreContext {
            restore_id: restore.restore_id.clone(),
            attempt: context.lease.attempt,
            plan: restore.plan.clone(),
            in_place: restore.in_place,
            decisions: restore.decisions.clone(),
            cancel: context.stop.token().clone(),
            meter: context.meter.clone(),
        },
    )?;
    // What attempts before this one left is in the way.
    target.clean().await?;
    let done = make(context, restore, &*target).await;
    let tidied = match &done {
        Ok(()) => settle(context, &*target).await,
        Err(JobError::Lost) => target.abandon().await,
        Err(_) => target.clean().await,
    };
    if let Err(error) = tidied {
        let restore_id = &restore.restore_id;
        tracing::warn!(restore_id, %error, "tidy up after a restore");
    }
    done
}

/// Removes the target's marks. Of a worker that dies before, another one does it.
async fn settle(context: &JobContext, target: &dyn Target) -> Result<(), TargetError> {
    target.settle().await?;
    let job_id = &context.lease.job.job_id;
    if let Err(error) = context.worker.catalog.leftover_cleaned(job_id).await {
        tracing::warn!(job_id, %error, "note that a restore has left nothing");
    }
    Ok(())
}

async fn make(
    context: &Arc<JobContext>,
    restore: &Restore,
    target: &dyn Target,
) -> Result<(), JobError> {
    let worker = &context.worker;
    context.pin(&restore.backup_id).await?;
    let reader = open(context, restore).await?;
    let integrations = integrations(&reader)?;
    let restored = target.write(reader).await?;
    fail::fail_point!("worker-restore-written");
    context.check_held().await?;
    target.publish().await?;
    fail::fail_point!("worker-restore-published");
    let (catalog, fence) = (&worker.catalog, context.fence());
    let completed = if restore.in_place {
        let result = InPlaceResult {
            source: moved(context, restored.source),
            warnings: restored.warnings,
            progress: Some(ended(context.progress())),
        };
        context
            .persist(|| catalog.complete_in_place(&fence, result.clone(), now_ms()))
            .await
    } else {
        let result = result(context, restore, restored, integrations);
        context
            .persist(|| catalog.complete_restore(&fence, result.clone(), now_ms()))
            .await
    };
    fail::fail_point!("worker-restore-completed");
    match completed {
        Err(JobError::Lost) if is_completed(context).await => Ok(()),
        completed => completed.map(drop),
    }
}

/// Where the agent's state lives after a restore in place: as it is registered, but never by the
/// id of a container that is gone.
fn moved(context: &JobContext, made: Source) -> Source {
    let registered = context.lease.agent.as_ref();
    match (
        registered.and_then(|agent| agent.source.kind.clone()),
        made.kind,
    ) {
        (Some(Kind::Docker(registered)), Some(Kind::Docker(made))) => Source {
            kind: Some(Kind::Docker(DockerSource {
                container: made.container,
                ..registered
            })),
        },
        (registered, made) => Source {
            kind: registered.or(made),
        },
    }
}

/// Whether this attempt has completed the job, after all: the answer to the write may have been
/// lost with the connection, and the same write again is refused.
async fn is_completed(context: &JobContext) -> bool {
    let fence = context.fence();
    let job = context.worker.catalog.get_job(&fence.job_id).await;
    job.is_ok_and(|job| {
        job.is_some_and(|job| job.state == JobState::Completed && job.attempt == fence.attempt)
    })
}

async fn open(context: &JobContext, restore: &Restore) -> Result<BackupReader, JobError> {
    let manifest = context.lease.backup.as_ref().and_then(manifest_ref);
    let vault = open_to_read(context, &restore.destination_id).await?;
    if vault.is_none() && manifest.is_some() {
        return Err(rolled_back(&context.lease.job.agent_id).into());
    }
    let (Some(manifest), Some(vault)) = (manifest, vault) else {
        return Err(JobError::final_failure(
            "OBJECT_MISSING",
            format!(
                "backup {} has nothing stored at the destination: restore another one",
                restore.backup_id
            ),
        ));
    };
    let cancel = context.stop.token().clone();
    Ok(vault.open_backup(&manifest, cancel).await?)
}

fn integrations(reader: &BackupReader) -> Result<Vec<Integration>, JobError> {
    reader
        .manifest()
        .integrations
        .iter()
        .map(|stored| Integration::decode(stored.as_slice()))
        .collect::<Result<_, _>>()
        .map_err(|error| JobError::internal(&format!("a manifest's integration: {error}"), false))
}

fn result(
    context: &JobContext,
    restore: &Restore,
    restored: Restored,
    integrations: Vec<Integration>,
) -> RestoreResult {
    let plan = &restore.plan;
    let original = context.lease.agent.as_ref();
    RestoreResult {
        agent: NewAgent {
            agent_id: plan.agent_id.clone(),
            display_name: plan.display_name.clone(),
            owner_id: restore.owner_id.clone(),
            workspace_id: plan.workspace_id.clone(),
            source: restored.source,
            integrations,
            pool: context.lease.job.pool.clone(),
            patterns: original.map_or_else(Vec::new, |agent| agent.patterns.clone()),
            size_warning_bytes: original.map_or(0, |agent| agent.size_warning_bytes),
            destination_id: original.map_or_else(String::new, |agent| agent.destination_id.clone()),
            second_destination_id: original
                .map_or_else(String::new, |agent| agent.second_destination_id.clone()),
        },
        warnings: restored.warnings,
        progress: Some(ended(context.progress())),
    }
}
