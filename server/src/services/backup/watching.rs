//! What the watch streams of backups and verifications carry.

use std::sync::Arc;

use proto::backup::v1::{
    Failure, Progress, WatchBackupRequest, WatchBackupResponse, WatchVerificationRequest,
    WatchVerificationResponse,
};

use super::manage::the_backup;
use crate::{
    access,
    auth::Caller,
    clock::timestamp,
    convert,
    feed::FeedStream,
    services::Call,
    state::State,
    status::ApiError,
    validation::Checks,
    watch::{Now, Subject, watch},
};

pub(super) async fn backup(
    state: &Arc<State>,
    call: Call<WatchBackupRequest>,
) -> Result<FeedStream<WatchBackupResponse>, ApiError> {
    // Refused before anything is subscribed to.
    let backup = the_backup(state, &call.caller, &call.message.backup_id).await?;
    let subject = WatchedBackup {
        state: state.clone(),
        backup_id: backup.backup_id,
    };
    watch(state.ground(), subject, call.slot).await
}

struct WatchedBackup {
    state: Arc<State>,
    backup_id: String,
}

impl Subject for WatchedBackup {
    type Event = WatchBackupResponse;

    fn subject_id(&self) -> &str {
        &self.backup_id
    }

    async fn load(&self) -> Result<Now<WatchBackupResponse>, ApiError> {
        let backup = self.state.catalog.get_backup(&self.backup_id).await?;
        let backup = backup.ok_or_else(|| access::no_backup(&self.backup_id))?;
        Ok(Now {
            ended: backup.state.is_ended(),
            event: WatchBackupResponse {
                backup: Some(convert::backup(backup)),
            },
        })
    }

    fn progress(event: &mut WatchBackupResponse) -> Option<&mut Progress> {
        event.backup.as_mut()?.progress.as_mut()
    }
}

pub(super) async fn verification(
    state: &Arc<State>,
    call: Call<WatchVerificationRequest>,
) -> Result<FeedStream<WatchVerificationResponse>, ApiError> {
    access::may_use_backups(&call.caller)?;
    let request = call.message;
    let mut checks = Checks::new();
    checks.id("backup_id", &request.backup_id);
    checks.id("verification_id", &request.verification_id);
    checks.done()?;
    let subject = WatchedVerification {
        state: state.clone(),
        caller: call.caller,
        backup_id: request.backup_id,
        verification_id: request.verification_id,
    };
    subject.load().await?;
    watch(state.ground(), subject, call.slot).await
}

struct WatchedVerification {
    state: Arc<State>,
    caller: Caller,
    backup_id: String,
    verification_id: String,
}

impl Subject for WatchedVerification {
    type Event = WatchVerificationResponse;

    fn subject_id(&self) -> &str {
        &self.verification_id
    }

    async fn load(&self) -> Result<Now<WatchVerificationResponse>, ApiError> {
        let (job, _) = access::verification_for(
            &self.state,
            &self.caller,
            &self.backup_id,
            &self.verification_id,
        )
        .await?;
        let ended = job.state.is_ended();
        let right = job.state == catalog::JobState::Completed;
        let failure = match job.state {
            catalog::JobState::Failed => job.failure,
            catalog::JobState::Canceled => Some(Failure {
                reason: "CANCELED".to_owned(),
                message: "the verification was canceled: start another one".to_owned(),
            }),
            _ => None,
        };
        Ok(Now {
            ended,
            event: WatchVerificationResponse {
                progress: Some(convert::progress(job.progress, ended)),
                failure,
                verify_time: job.end_time_ms.filter(|_| right).map(timestamp),
            },
        })
    }

    fn progress(event: &mut WatchVerificationResponse) -> Option<&mut Progress> {
        event.progress.as_mut()
    }
}
