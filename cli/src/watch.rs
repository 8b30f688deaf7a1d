//! Watching a job to its end.
//!
//! A watch shows the truth until the final state. A stream that breaks because
//! the service went away is opened again; Ctrl-C ends the watching, not the job.

use std::{future::Future, time::Duration};

use proto::backup::v1::{
    Backup, Failure, KeyRotation, Phase, Progress, Restore, WatchBackupRequest,
    WatchBackupResponse, WatchKeyRotationRequest, WatchKeyRotationResponse, WatchRestoreRequest,
    WatchRestoreResponse, WatchVerificationRequest, WatchVerificationResponse, backup,
    key_rotation, restore,
};
use tokio::{signal, time::Instant};
use tonic::{Response, Status, Streaming};

use crate::{
    connect::Session,
    error::{CliError, Result, is_passing},
    exit::Exit,
    find::incomplete,
    output::{human, json::Document as _},
    progress::Meter,
    show,
};

/// How long a service may be away before a watch gives up.
const AWAY_MAX: Duration = Duration::from_mins(2);
/// The pause before the first new attempt, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// What a stream of events brings.
pub trait Event: Sized {
    /// How far it is.
    fn progress(&self) -> Option<&Progress>;
    /// Whether it is the last.
    fn is_final(&self) -> bool;
    /// The event as JSON.
    fn json(&self) -> serde_json::Value;
}

impl Event for WatchBackupResponse {
    fn progress(&self) -> Option<&Progress> {
        self.backup.as_ref()?.progress.as_ref()
    }
    fn is_final(&self) -> bool {
        self.backup.as_ref().is_some_and(|backup| {
            use backup::State;
            matches!(
                backup.state(),
                State::Completed | State::Failed | State::Canceled | State::Deleting
            )
        })
    }
    fn json(&self) -> serde_json::Value {
        self.backup
            .as_ref()
            .map(Backup::to_json)
            .unwrap_or_default()
    }
}

impl Event for WatchRestoreResponse {
    fn progress(&self) -> Option<&Progress> {
        self.restore.as_ref()?.progress.as_ref()
    }
    fn is_final(&self) -> bool {
        self.restore.as_ref().is_some_and(|restore| {
            use restore::State;
            matches!(
                restore.state(),
                State::Completed | State::Failed | State::Canceled
            )
        })
    }
    fn json(&self) -> serde_json::Value {
        self.restore
            .as_ref()
            .map(Restore::to_json)
            .unwrap_or_default()
    }
}

impl Event for WatchVerificationResponse {
    fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }
    fn is_final(&self) -> bool {
        self.failure.is_some()
            || self.verify_time.is_some()
            || self
                .progress
                .as_ref()
                .is_some_and(|p| p.phase() == Phase::Ended)
    }
    fn json(&self) -> serde_json::Value {
        self.to_json()
    }
}

impl Event for WatchKeyRotationResponse {
    fn progress(&self) -> Option<&Progress> {
        self.rotation.as_ref()?.progress.as_ref()
    }
    fn is_final(&self) -> bool {
        use key_rotation::State;
        self.rotation
            .as_ref()
            .is_some_and(|rotation| matches!(rotation.state(), State::Completed | State::Failed))
    }
    fn json(&self) -> serde_json::Value {
        self.rotation
            .as_ref()
            .map(KeyRotation::to_json)
            .unwrap_or_default()
    }
}

/// Watches a rotation of keys to its end; returns it as it ended.
pub async fn rotation(session: &Session, rotation_id: &str) -> Result<KeyRotation> {
    let again =
        format!("the rotation goes on; look at it with `nora-backup key status {rotation_id}`");
    let open = || {
        let mut client = session.admin();
        let request = WatchKeyRotationRequest {
            rotation_id: rotation_id.to_string(),
        };
        async move { client.watch_key_rotation(request).await }
    };
    follow(session, "rotation", &again, open)
        .await?
        .rotation
        .ok_or_else(incomplete)
}

/// Watches a backup to its end; returns it as it ended.
pub async fn backup(session: &Session, backup_id: &str) -> Result<Backup> {
    let again =
        format!("the backup goes on; look at it with `nora-backup backup watch {backup_id}`");
    let open = || {
        let mut client = session.backups();
        let request = WatchBackupRequest {
            backup_id: backup_id.to_string(),
        };
        async move { client.watch_backup(request).await }
    };
    follow(session, "backup", &again, open)
        .await?
        .backup
        .ok_or_else(incomplete)
}

/// Watches a restore to its end; returns it as it ended.
pub async fn restore(session: &Session, restore_id: &str) -> Result<Restore> {
    let again =
        format!("the restore goes on; look at it with `nora-backup restore watch {restore_id}`");
    let open = || {
        let mut client = session.restores();
        let request = WatchRestoreRequest {
            restore_id: restore_id.to_string(),
        };
        async move { client.watch_restore(request).await }
    };
    follow(session, "restore", &again, open)
        .await?
        .restore
        .ok_or_else(incomplete)
}

/// Watches a verification to its end; returns its last event.
pub async fn verification(
    session: &Session,
    backup_id: &str,
    verification_id: &str,
) -> Result<WatchVerificationResponse> {
    let again = format!(
        "the verification goes on; look at it with \
         `nora-backup backup verify {backup_id} --verification {verification_id}`"
    );
    let open = || {
        let mut client = session.backups();
        let request = WatchVerificationRequest {
            backup_id: backup_id.to_string(),
            verification_id: verification_id.to_string(),
        };
        async move { client.watch_verification(request).await }
    };
    follow(session, "verify", &again, open).await
}

async fn follow<E, F, O>(session: &Session, what: &str, again: &str, open: F) -> Result<E>
where
    E: Event,
    F: Fn() -> O,
    O: Future<Output = Result<Response<Streaming<E>>, Status>>,
{
    let mut meter = Meter::new(session.out, what);
    tokio::select! {
        end = follow_to_the_end(session, &mut meter, open) => end.map_err(|error| {
            if error.exit == Exit::Unavailable { error.hint(again) } else { error }
        }),
        _ = signal::ctrl_c() => {
            drop(meter);
            Err(CliError::new(Exit::Interrupted, format!("interrupted: {again}")))
        }
    }
}

async fn follow_to_the_end<E, F, O>(session: &Session, meter: &mut Meter, open: F) -> Result<E>
where
    E: Event,
    F: Fn() -> O,
    O: Future<Output = Result<Response<Streaming<E>>, Status>>,
{
    let mut pause = PAUSE.0;
    let mut last_sign = Instant::now();
    loop {
        let broken = match open().await {
            Err(status) => status,
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(event)) => {
                            (pause, last_sign) = (PAUSE.0, Instant::now());
                            if session.out.json {
                                session.out.event(&event.json())?;
                            }
                            if let Some(progress) = event.progress() {
                                meter.show(progress);
                            }
                            if event.is_final() {
                                return Ok(event);
                            }
                        }
                        Ok(None) => break Status::unavailable("the stream ended before the job"),
                        Err(status) => break status,
                    }
                }
            }
        };
        if !is_passing(&broken) || last_sign.elapsed() > AWAY_MAX {
            return Err(broken.into());
        }
        if pause == PAUSE.0 {
            let text = CliError::from(broken).message;
            meter.remark(&format!(
                "connection lost ({}), trying again",
                human::printable(&text)
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// What a backup's end means for the exit code; says it for people.
pub fn conclude_backup(session: &Session, backup: &Backup) -> Result<()> {
    let out = session.out;
    let state = backup.state();
    if out.json {
        return if state == backup::State::Completed {
            Ok(())
        } else {
            Err(CliError::silent(Exit::Failed))
        };
    }
    let id = &backup.backup_id;
    match state {
        backup::State::Completed if out.quiet => out.line(id),
        backup::State::Completed => {
            let took = human::between(backup.start_time.as_ref(), backup.end_time.as_ref());
            let took = took.map_or_else(String::new, |t| format!(" in {}", human::duration(t)));
            out.line(format!(
                "Backup {id} of {} is COMPLETED{took}",
                backup.agent_id
            ))?;
            out.line(format!(
                "  {} in {}; {} new, {} stored",
                human::bytes(backup.size_bytes),
                human::plural(backup.entries, "entry", "entries"),
                human::bytes(backup.new_bytes),
                human::bytes(backup.stored_bytes),
            ))?;
            let warnings = show::warnings(backup, 5);
            for line in warnings.lines() {
                out.line(format!("  warning: {line}"))?;
            }
            Ok(())
        }
        _ => Err(ended_badly(
            "backup",
            id,
            &show::backup_state(backup),
            backup.failure.as_ref(),
        )),
    }
}

/// What a restore's end means for the exit code; says it for people.
pub fn conclude_restore(session: &Session, restore: &Restore) -> Result<()> {
    let out = session.out;
    let completed = restore.state() == restore::State::Completed;
    if out.json {
        return if completed {
            Ok(())
        } else {
            Err(CliError::silent(Exit::Failed))
        };
    }
    let id = &restore.restore_id;
    if !completed {
        let state = show::restore_state(restore);
        return Err(ended_badly("restore", id, &state, restore.failure.as_ref()));
    }
    let agent = restore
        .plan
        .as_ref()
        .map(|plan| plan.agent_id.clone())
        .unwrap_or_default();
    if out.quiet {
        return out.line(agent);
    }
    let took = human::between(restore.start_time.as_ref(), restore.end_time.as_ref());
    let took = took.map_or_else(String::new, |t| format!(" in {}", human::duration(t)));
    out.line(format!("Restore {id} is COMPLETED{took}"))?;
    let what = if restore.in_place {
        "replaced agent"
    } else {
        "new agent"
    };
    out.line(format!(
        "  {what} {}: {}",
        human::printable(&agent),
        show::target(restore)
    ))?;
    if restore.in_place {
        out.line(format!(
            "  as it was before: backup {}",
            restore.safety_backup_id
        ))?;
    }
    for warning in &restore.warnings {
        out.line(format!("  warning: {}", human::printable(warning)))?;
    }
    Ok(())
}

/// What a verification's end means for the exit code; says it for people.
pub fn conclude_verification(
    session: &Session,
    backup_id: &str,
    end: &WatchVerificationResponse,
) -> Result<()> {
    let out = session.out;
    match &end.failure {
        Some(_) if out.json => Err(CliError::silent(Exit::Failed)),
        Some(failed) => Err(ended_badly(
            "verification of",
            backup_id,
            "FAILED",
            Some(failed),
        )),
        None if out.json || out.quiet => Ok(()),
        None => {
            let read = end
                .progress
                .as_ref()
                .map_or(0, |progress| progress.bytes_done);
            out.line(format!(
                "Backup {backup_id} is right: {} checked",
                human::bytes(read)
            ))
        }
    }
}

fn ended_badly(what: &str, id: &str, state: &str, failure: Option<&Failure>) -> CliError {
    let mut error = CliError::failed(format!("{what} {id} is {state}"));
    if let Some(failure) = failure {
        if !failure.message.is_empty() {
            error.message = format!("{}: {}", error.message, failure.message);
        }
        error.reason = (!failure.reason.is_empty()).then(|| failure.reason.clone());
        if failure.reason == "SOURCE_DENIED" {
            return error.hint("`nora-backup standalone --source-root FOLDER` allows a folder");
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_states_end_a_watch() {
        let at = |state: backup::State| WatchBackupResponse {
            backup: Some(Backup {
                state: state.into(),
                ..Backup::default()
            }),
        };
        assert!(!at(backup::State::Pending).is_final());
        assert!(!at(backup::State::Running).is_final());
        for state in [
            backup::State::Completed,
            backup::State::Failed,
            backup::State::Canceled,
        ] {
            assert!(at(state).is_final());
        }
        let draft = WatchRestoreResponse {
            restore: Some(Restore {
                state: restore::State::Draft.into(),
                ..Restore::default()
            }),
        };
        assert!(!draft.is_final());
        assert!(!WatchVerificationResponse::default().is_final());
    }

    #[test]
    fn failures_carry_message_and_reason() {
        let failure = Failure {
            reason: "JOB_TIMEOUT".into(),
            message: "took too long".into(),
        };
        let error = ended_badly("backup", "b1", "FAILED", Some(&failure));
        assert_eq!(error.exit, Exit::Failed);
        assert_eq!(error.message, "backup b1 is FAILED: took too long");
        assert_eq!(error.reason.as_deref(), Some("JOB_TIMEOUT"));
    }
}
