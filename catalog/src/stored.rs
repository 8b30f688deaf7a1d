//! Rows to models and back. Lists and messages are stored as protobuf.

use prost::Message;
use proto::backup::v1::{
    BackupWarning, Integration, Phase, Progress, RestoreDecision, RestorePlan, Source,
};

use crate::{
    Agent, Backup, CatalogError, Failure, Job, JobKind, JobState, Pin, Restore,
    entities::{agents, backups, jobs, pins, restores},
};

/// A list of integrations.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Integrations {
    #[prost(message, repeated, tag = "1")]
    pub(crate) items: Vec<Integration>,
}

/// A list of a backup's warnings.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BackupWarnings {
    #[prost(message, repeated, tag = "1")]
    pub(crate) items: Vec<BackupWarning>,
}

/// A list of texts: a restore's warnings, an agent's patterns.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Texts {
    #[prost(string, repeated, tag = "1")]
    pub(crate) items: Vec<String>,
}

/// A list of decisions.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Decisions {
    #[prost(message, repeated, tag = "1")]
    pub(crate) items: Vec<RestoreDecision>,
}

/// Reads a stored message.
pub(crate) fn decode<M: Message + Default>(
    bytes: &[u8],
    what: &'static str,
    id: &str,
) -> Result<M, CatalogError> {
    M::decode(bytes).map_err(|_| CatalogError::Damaged {
        what,
        id: id.to_owned(),
    })
}

/// Two columns make a failure.
pub(crate) fn failure(reason: Option<String>, message: Option<String>) -> Option<Failure> {
    reason.map(|reason| Failure {
        reason,
        message: message.unwrap_or_default(),
    })
}

pub(crate) fn agent(row: agents::Model) -> Result<Agent, CatalogError> {
    let source: Source = decode(&row.source, "source", &row.agent_id)?;
    let integrations: Integrations = decode(&row.integrations, "integrations", &row.agent_id)?;
    let patterns: Texts = decode(&row.patterns, "patterns", &row.agent_id)?;
    Ok(Agent {
        source,
        integrations: integrations.items,
        agent_id: row.agent_id,
        display_name: row.display_name,
        owner_id: row.owner_id,
        workspace_id: row.workspace_id,
        pool: row.pool,
        patterns: patterns.items,
        size_warning_bytes: row.size_warning_bytes as u64,
        destination_id: row.destination_id,
        second_destination_id: row.second_destination_id,
        etag: row.etag,
        restore_id: row.restore_id,
        vault_bytes: row.vault_bytes as u64,
        create_time_ms: row.create_time_ms,
        update_time_ms: row.update_time_ms,
    })
}

/// A backup, with its job for the progress.
pub(crate) fn backup(
    (row, job): (backups::Model, Option<jobs::Model>),
) -> Result<Backup, CatalogError> {
    let id = &row.backup_id;
    let warnings: BackupWarnings = decode(&row.warnings, "warnings", id)?;
    let manifest_digest = row.manifest_digest.map(<[u8; 32]>::try_from).transpose();
    let manifest_digest = manifest_digest.map_err(|_| CatalogError::Damaged {
        what: "manifest_digest",
        id: id.clone(),
    })?;
    Ok(Backup {
        progress: subject_progress(job.as_ref())?,
        manifest_digest,
        warnings: warnings.items,
        backup_id: row.backup_id,
        agent_id: row.agent_id,
        owner_id: row.owner_id,
        name: row.name,
        state: row.state,
        trigger: row.trigger_kind,
        job_id: row.job_id,
        manifest_attempt: row.manifest_attempt.map(|attempt| attempt as u32),
        sequence: row.sequence.map(|sequence| sequence as u64),
        size_bytes: row.size_bytes as u64,
        stored_bytes: row.stored_bytes as u64,
        new_bytes: row.new_bytes as u64,
        entries: row.entries as u64,
        warnings_total: row.warnings_total as u64,
        verify_time_ms: row.verify_time_ms,
        verify_failure: failure(row.verify_failure_reason, row.verify_failure_message),
        failure: failure(row.failure_reason, row.failure_message),
        create_time_ms: row.create_time_ms,
        start_time_ms: row.start_time_ms,
        end_time_ms: row.end_time_ms,
        protected: row.protected,
        destination_id: row.destination_id,
        copies: Vec::new(),
    })
}

/// A restore, with its job for the progress.
pub(crate) fn restore(
    (row, job): (restores::Model, Option<jobs::Model>),
) -> Result<Restore, CatalogError> {
    let id = &row.restore_id;
    let plan: RestorePlan = decode(&row.plan, "plan", id)?;
    let decisions: Decisions = decode(&row.decisions, "decisions", id)?;
    let warnings: Texts = decode(&row.warnings, "warnings", id)?;
    Ok(Restore {
        plan,
        decisions: decisions.items,
        warnings: warnings.items,
        progress: subject_progress(job.as_ref())?,
        restore_id: row.restore_id,
        backup_id: row.backup_id,
        agent_id: row.agent_id,
        owner_id: row.owner_id,
        state: row.state,
        job_id: row.job_id,
        failure: failure(row.failure_reason, row.failure_message),
        create_time_ms: row.create_time_ms,
        start_time_ms: row.start_time_ms,
        end_time_ms: row.end_time_ms,
        expire_time_ms: row.expire_time_ms,
        in_place: row.in_place,
        safety_backup_id: row.safety_backup_id,
        destination_id: row.destination_id,
    })
}

pub(crate) fn job(row: jobs::Model) -> Result<Job, CatalogError> {
    let after_hook = row.after_hook.as_deref();
    let after_hook = after_hook
        .map(|bytes| decode(bytes, "after_hook", &row.job_id))
        .transpose()?;
    Ok(Job {
        progress: job_progress(&row)?,
        job_id: row.job_id,
        kind: row.kind,
        state: row.state,
        agent_id: row.agent_id,
        owner_id: row.owner_id,
        backup_id: row.backup_id,
        restore_id: row.restore_id,
        depth: row.depth,
        destination_id: row.destination_id,
        pool: row.pool,
        urgency: row.urgency,
        attempt: row.attempt as u32,
        tries: row.tries as u32,
        max_attempts: row.max_attempts as u32,
        due_time_ms: row.due_time_ms,
        dispatch_time_ms: row.dispatch_time_ms,
        lease_owner: row.lease_owner,
        lease_expire_time_ms: row.lease_expire_time_ms,
        cancel_requested: row.cancel_requested,
        paused_container: row.paused_container,
        after_hook,
        failure: failure(row.failure_reason, row.failure_message),
        create_time_ms: row.create_time_ms,
        start_time_ms: row.start_time_ms,
        end_time_ms: row.end_time_ms,
    })
}

pub(crate) fn pin(row: pins::Model) -> Pin {
    Pin {
        pin_id: row.pin_id,
        backup_id: row.backup_id,
        agent_id: row.agent_id,
        holder: row.holder,
        create_time_ms: row.create_time_ms,
        expire_time_ms: row.expire_time_ms,
    }
}

fn subject_progress(job: Option<&jobs::Model>) -> Result<Progress, CatalogError> {
    job.map_or_else(|| Ok(Progress::default()), job_progress)
}

pub(crate) fn job_progress(job: &jobs::Model) -> Result<Progress, CatalogError> {
    decode(&job.progress, "progress", &job.job_id)
}

/// The progress of a job that waits: the last figures, and why it waits.
pub(crate) fn waiting_progress(job: &jobs::Model, why: &str) -> Result<Vec<u8>, CatalogError> {
    let mut progress = job_progress(job)?;
    progress.set_phase(Phase::Queued);
    progress.attempt = job.attempt as u32;
    progress.rate_bytes_per_second = 0;
    progress.eta = None;
    why.clone_into(&mut progress.waiting_reason);
    Ok(progress.encode_to_vec())
}

/// The progress of a job that has ended: the last figures.
pub(crate) fn ended_progress(
    job: &jobs::Model,
    last: Option<Progress>,
) -> Result<Vec<u8>, CatalogError> {
    let mut progress = match last {
        Some(progress) => progress,
        None => job_progress(job)?,
    };
    progress.set_phase(Phase::Ended);
    progress.attempt = job.attempt as u32;
    progress.rate_bytes_per_second = 0;
    progress.eta = None;
    progress.waiting_reason.clear();
    Ok(progress.encode_to_vec())
}

/// The progress of a job that begins.
pub(crate) fn fresh_progress(phase: Phase, attempt: u32, now_ms: i64) -> Progress {
    let mut progress = Progress {
        attempt,
        update_time: Some(timestamp(now_ms)),
        ..Progress::default()
    };
    progress.set_phase(phase);
    progress
}

fn timestamp(time_ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time_ms.div_euclid(1_000),
        nanos: (time_ms.rem_euclid(1_000) * 1_000_000) as i32,
    }
}

/// Whether a job that ended, or waits, may have left something to clean up. Of a
/// restore nobody knows: its worker cleans up, but may have failed to.
pub(crate) fn has_leftover(job: &jobs::Model) -> bool {
    let is_restore = job.kind == JobKind::Restore;
    job.leftover || (job.state == JobState::Running && (is_restore || owes_container(job)))
}

/// Whether an attempt has something to undo in a container that it has not reported undone.
pub(crate) fn owes_container(job: &jobs::Model) -> bool {
    job.paused_container.is_some() || job.after_hook.is_some()
}
