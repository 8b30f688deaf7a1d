//! Key-encryption keys of a standalone or a fleet, and their rotation.

use anyhow::{Context as _, Result, ensure};
use proto::backup::v1::{
    KeyRotation, RotateKeysRequest, WatchKeyRotationRequest,
    admin_service_client::AdminServiceClient, key_rotation,
};
use tonic::Status;

use crate::{api::Authorized, standalone::KEY};

/// The variable of the key that writes.
pub const WRITING: &str = "NORA_BACKUP_ENCRYPTION_KEY";
/// The variable of those that only read.
pub const PREVIOUS: &str = "NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS";

type Admin = AdminServiceClient<Authorized>;

/// The n-th key; the first is the one that a standalone starts with.
pub fn key(n: usize) -> String {
    if n == 0 {
        return KEY.to_owned();
    }
    format!("{n:02x}").repeat(32)
}

/// Asks for a rotation.
pub async fn begin_rotation(
    admin: &mut Admin,
    retire_previous: bool,
) -> Result<KeyRotation, Status> {
    let request = RotateKeysRequest {
        retire_previous,
        request_id: String::new(),
    };
    let answer = admin.rotate_keys(request).await?.into_inner();
    answer
        .rotation
        .ok_or_else(|| Status::internal("no rotation"))
}

/// Watches a rotation to its end.
pub async fn watch_rotation(admin: &mut Admin, rotation_id: &str) -> Result<KeyRotation> {
    let request = WatchKeyRotationRequest {
        rotation_id: rotation_id.to_owned(),
    };
    let mut stream = admin.watch_key_rotation(request).await?.into_inner();
    let mut last = None;
    while let Some(event) = stream.message().await? {
        last = event.rotation;
    }
    last.context("a watch tells the state")
}

/// Rotates to the end, which must be a good one.
pub async fn rotate(admin: &mut Admin, retire_previous: bool) -> Result<KeyRotation> {
    let begun = begin_rotation(admin, retire_previous).await?;
    let ended = watch_rotation(admin, &begun.rotation_id).await?;
    expect_rotated(&ended)?;
    Ok(ended)
}

/// Refuses a rotation that left a vault behind.
pub fn expect_rotated(rotation: &KeyRotation) -> Result<()> {
    let complete = rotation.state() == key_rotation::State::Completed;
    let at_all = rotation.destinations.iter().all(|at| at.failure.is_none());
    ensure!(
        complete && rotation.vaults_failed == 0 && at_all,
        "{rotation:?}"
    );
    Ok(())
}
