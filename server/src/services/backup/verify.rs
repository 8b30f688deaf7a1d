//! Verifications: jobs that read a backup and check it.

use std::sync::Arc;

use catalog::{NewVerification, VerifyDepth};
use proto::backup::v1::{VerifyBackupRequest, VerifyBackupResponse, verify_backup_request::Depth};

use crate::{
    access,
    clock::now_ms,
    services::{Call, request_key},
    state::State,
    status::ApiError,
    validation::Checks,
};

pub(super) async fn start(
    state: &Arc<State>,
    call: Call<VerifyBackupRequest>,
) -> Result<VerifyBackupResponse, ApiError> {
    access::may_use_backups(&call.caller)?;
    let mut request = call.message;
    let mut checks = Checks::new();
    checks.id("backup_id", &request.backup_id);
    checks.request_id(&request.request_id);
    checks.optional_id("destination_id", &request.destination_id);
    let depth = match Depth::try_from(request.depth) {
        Ok(Depth::Structure) => VerifyDepth::Structure,
        Ok(Depth::Full | Depth::Unspecified) => VerifyDepth::Full,
        Err(_) => {
            checks.fault("depth", "must be a value of VerifyBackupRequest.Depth");
            VerifyDepth::Full
        }
    };
    checks.done()?;
    let backup = access::backup_for(state, &call.caller, &request.backup_id).await?;
    let request_id = std::mem::take(&mut request.request_id);
    let verification = NewVerification {
        request: request_key(&call.caller, "VerifyBackup", request_id, &request),
        backup_id: backup.backup_id,
        owner_id: backup.owner_id,
        depth,
        destination_id: request.destination_id,
    };
    let job = state
        .catalog
        .create_verification(verification, now_ms())
        .await?;
    Ok(VerifyBackupResponse {
        verification_id: job.job_id,
    })
}
