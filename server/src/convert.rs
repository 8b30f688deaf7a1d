//! From what the catalog and the vault know to the messages of the API.

use catalog::{BackupState, CopyState, RestoreState, Trigger};
use proto::{
    backup::v1::{
        self as api, Agent, Backup, BackupEntry, Phase, Progress, Restore, backup, backup_entry,
        restore,
    },
    vault::v1::{Entry, EntryType},
};

use crate::clock::timestamp;

/// An agent.
pub fn agent(agent: catalog::Agent) -> Agent {
    Agent {
        agent_id: agent.agent_id,
        display_name: agent.display_name,
        owner_id: agent.owner_id,
        workspace_id: agent.workspace_id,
        source: Some(agent.source),
        integrations: agent.integrations,
        pool: agent.pool,
        create_time: Some(timestamp(agent.create_time_ms)),
        update_time: Some(timestamp(agent.update_time_ms)),
        etag: agent.etag,
        restore_id: agent.restore_id.unwrap_or_default(),
        patterns: agent.patterns,
        size_warning_bytes: agent.size_warning_bytes,
        destination_id: agent.destination_id,
        second_destination_id: agent.second_destination_id,
    }
}

/// A backup.
pub fn backup(backup: catalog::Backup) -> Backup {
    Backup {
        state: backup_state(backup.state).into(),
        trigger: match backup.trigger {
            Trigger::Manual => backup::Trigger::Manual,
            Trigger::Schedule => backup::Trigger::Schedule,
            Trigger::Safety => backup::Trigger::Safety,
        }
        .into(),
        backup_id: backup.backup_id,
        agent_id: backup.agent_id,
        name: backup.name,
        size_bytes: backup.size_bytes,
        stored_bytes: backup.stored_bytes,
        new_bytes: backup.new_bytes,
        entries: backup.entries,
        create_time: Some(timestamp(backup.create_time_ms)),
        start_time: backup.start_time_ms.map(timestamp),
        end_time: backup.end_time_ms.map(timestamp),
        failure: backup.failure,
        progress: Some(progress(backup.progress, backup.state.is_ended())),
        warnings: backup.warnings,
        warnings_total: backup.warnings_total,
        verify_time: backup.verify_time_ms.map(timestamp),
        verify_failure: backup.verify_failure,
        protected: backup.protected,
        destination_id: backup.destination_id,
        copies: backup.copies.into_iter().map(copy).collect(),
    }
}

fn copy(copy: catalog::BackupCopy) -> api::BackupCopy {
    use api::backup_copy::State;
    api::BackupCopy {
        destination_id: copy.destination_id,
        state: match copy.state {
            CopyState::Pending => State::Pending,
            CopyState::Completed => State::Completed,
            CopyState::Failed => State::Failed,
        }
        .into(),
        update_time: Some(timestamp(copy.update_time_ms)),
        failure: copy.failure,
    }
}

fn backup_state(state: BackupState) -> backup::State {
    match state {
        BackupState::Pending => backup::State::Pending,
        BackupState::Running => backup::State::Running,
        BackupState::Completed => backup::State::Completed,
        BackupState::Failed => backup::State::Failed,
        BackupState::Canceled => backup::State::Canceled,
        BackupState::Deleting => backup::State::Deleting,
    }
}

/// A state to filter by; `None` when it is none.
pub fn wanted_state(state: i32) -> Option<BackupState> {
    Some(match backup::State::try_from(state).ok()? {
        backup::State::Unspecified => return None,
        backup::State::Pending => BackupState::Pending,
        backup::State::Running => BackupState::Running,
        backup::State::Completed => BackupState::Completed,
        backup::State::Failed => BackupState::Failed,
        backup::State::Canceled => BackupState::Canceled,
        backup::State::Deleting => BackupState::Deleting,
    })
}

/// A restore.
pub fn restore(restore: catalog::Restore) -> Restore {
    let ended = restore.state.is_ended();
    let planned = restore.state == RestoreState::Draft;
    Restore {
        state: match restore.state {
            RestoreState::Draft => restore::State::Draft,
            RestoreState::Pending => restore::State::Pending,
            RestoreState::Running => restore::State::Running,
            RestoreState::Completed => restore::State::Completed,
            RestoreState::Failed => restore::State::Failed,
            RestoreState::Canceled => restore::State::Canceled,
        }
        .into(),
        restore_id: restore.restore_id,
        backup_id: restore.backup_id,
        plan: Some(restore.plan),
        decisions: restore.decisions,
        create_time: Some(timestamp(restore.create_time_ms)),
        start_time: restore.start_time_ms.map(timestamp),
        end_time: restore.end_time_ms.map(timestamp),
        expire_time: restore.expire_time_ms.map(timestamp),
        failure: restore.failure,
        progress: (!planned).then(|| progress(restore.progress, ended)),
        warnings: restore.warnings,
        in_place: restore.in_place,
        safety_backup_id: restore.safety_backup_id.unwrap_or_default(),
        destination_id: restore.destination_id,
    }
}

/// Progress, with a phase that agrees with the state.
pub fn progress(mut progress: Progress, ended: bool) -> Progress {
    if ended {
        progress.set_phase(Phase::Ended);
        progress.eta = None;
        progress.waiting_reason.clear();
    } else if progress.phase() == Phase::Unspecified {
        progress.set_phase(Phase::Queued);
    }
    progress
}

/// An entry of a backup.
pub fn entry(entry: &Entry) -> BackupEntry {
    let kind = match entry.r#type() {
        EntryType::Unspecified => backup_entry::Type::Unspecified,
        EntryType::Regular => backup_entry::Type::File,
        EntryType::Directory => backup_entry::Type::Directory,
        EntryType::Symlink => backup_entry::Type::Symlink,
        EntryType::HardLink => backup_entry::Type::HardLink,
        EntryType::Fifo => backup_entry::Type::Fifo,
        EntryType::CharacterDevice => backup_entry::Type::CharacterDevice,
        EntryType::BlockDevice => backup_entry::Type::BlockDevice,
    };
    BackupEntry {
        path: entry.path.clone(),
        path_text: String::from_utf8_lossy(&entry.path).into_owned(),
        r#type: kind.into(),
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size_bytes: entry
            .content
            .as_ref()
            .map_or(0, |content| content.size_bytes),
        modify_time: Some(prost_types::Timestamp {
            seconds: entry.mtime_seconds,
            nanos: entry.mtime_nanos as i32,
        }),
        link_target: entry.link_target.clone(),
    }
}

/// A schedule.
pub fn schedule(schedule: catalog::Schedule) -> api::Schedule {
    use api::schedule::Frequency as F;
    let spec = schedule.spec;
    let (last_run, last_success) = (schedule.last_run, schedule.last_success);
    api::Schedule {
        agent_id: schedule.agent_id,
        enabled: Some(spec.enabled),
        frequency: match spec.frequency {
            catalog::Frequency::Hourly => F::Hourly,
            catalog::Frequency::Daily => F::Daily,
            catalog::Frequency::Weekly => F::Weekly,
            catalog::Frequency::Monthly => F::Monthly,
        }
        .into(),
        retain: spec.retain,
        time_of_day: spec.time_of_day.map_or_else(String::new, |minutes| {
            format!("{:02}:{:02}", minutes / 60, minutes % 60)
        }),
        time_zone: spec.time_zone,
        etag: schedule.etag,
        next_run_time: schedule.next_run_time_ms.map(timestamp),
        last_run_time: last_run.as_ref().map(|(at_ms, _)| timestamp(*at_ms)),
        last_run_backup_id: last_run.map(|(_, id)| id).unwrap_or_default(),
        last_success_time: last_success.as_ref().map(|(at_ms, _)| timestamp(*at_ms)),
        last_success_backup_id: last_success.map(|(_, id)| id).unwrap_or_default(),
        consecutive_failures: schedule.failures,
        last_skip: schedule.skip.map(|(due_ms, reason)| skip(due_ms, reason)),
        create_time: Some(timestamp(schedule.create_time_ms)),
        update_time: Some(timestamp(schedule.update_time_ms)),
    }
}

fn skip(due_ms: i64, reason: catalog::SkipReason) -> api::ScheduleSkip {
    use api::schedule_skip::Reason;
    let (reason, message) = match reason {
        catalog::SkipReason::StillRunning => (
            Reason::StillRunning,
            "the backup before it still went on; it runs again at the next regular time",
        ),
        catalog::SkipReason::Missed => (
            Reason::Missed,
            "it was due while the schedule was paused or no server ran; one run makes up for all \
             that were missed",
        ),
    };
    api::ScheduleSkip {
        due_time: Some(timestamp(due_ms)),
        reason: reason.into(),
        message: message.to_owned(),
    }
}
