//! The gRPC services: one file each, and one for each larger part of one.
//!
//! A method checks the request (`validation`), asks who may (`access`), does the work, and answers.
//! Errors become statuses by `?` (`status`).

use std::{sync::Arc, time::Duration};

use catalog::RequestKey;
use prost::Message;
use proto::backup::v1::ErrorReason;
use tonic::Request;

use crate::{admission::Slot, auth::Caller, state::State, status::ApiError};

mod admin;
mod agent;
mod backup;
mod restore;
mod schedule;

pub use admin::Admin;
pub use agent::Agents;
pub use backup::Backups;
pub use restore::Restores;
pub use schedule::Schedules;

/// A call taken apart: who calls, what for, and the place that a stream holds.
struct Call<T> {
    caller: Caller,
    message: T,
    slot: Option<Slot>,
}

impl<T> Call<T> {
    fn of(mut request: Request<T>) -> Result<Self, ApiError> {
        let caller = request.extensions_mut().remove::<Caller>().ok_or_else(|| {
            // The layer before the services has put it there, or has refused the call.
            ApiError::new(ErrorReason::TokenMissing, "the call has no token")
        })?;
        let slot = request.extensions_mut().remove::<Slot>();
        Ok(Self {
            caller,
            message: request.into_inner(),
            slot,
        })
    }
}

/// What makes a creating call idempotent; `None` without a `request_id`. The fingerprint covers the
/// method and every field but the `request_id` itself, which the caller of this has taken out.
fn request_key(
    caller: &Caller,
    method: &str,
    request_id: String,
    rest: &impl Message,
) -> Option<RequestKey> {
    if request_id.is_empty() {
        return None;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(method.as_bytes());
    hasher.update(&[0]);
    hasher.update(&rest.encode_to_vec());
    let role = caller.role.name();
    Some(RequestKey {
        // Two callers of different roles are two callers, even under one id.
        caller: format!("{role}:{}", caller.id),
        request_id,
        fingerprint: hasher.finalize().as_bytes().to_vec(),
    })
}

/// Runs blocking work that reads a vault. The work is told to stop by its own cancellation token;
/// it is always waited for.
async fn blocking<T: Send + 'static>(
    state: &Arc<State>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    state
        .tasks
        .spawn_blocking(work)
        .await
        .map_err(|error| ApiError::internal("read a vault", error))
}

/// The longest that a unary call reads a vault before it answers with what it has.
const READ_BUDGET: Duration = Duration::from_secs(10);
