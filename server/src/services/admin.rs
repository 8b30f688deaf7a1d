//! AdminService: running the platform. Served on the administrators' listener only.
//!
//! One file for each group of rpcs in `admin/`; here every rpc only says who may and who does it.
//! `access::may_administer` (of admission `access::may_ask_for_admission`) comes before anything else.

use std::sync::Arc;

use proto::backup::v1::{
    CheckWorkspaceCreationRequest, CheckWorkspaceCreationResponse, CreateDestinationRequest,
    CreateDestinationResponse, DeleteDestinationRequest, DeleteDestinationResponse,
    GetAuditLogRequest, GetAuditLogResponse, GetDestinationRequest, GetDestinationResponse,
    GetKeyRotationRequest, GetKeyRotationResponse, ListAllBackupsRequest, ListAllBackupsResponse,
    ListDestinationsRequest, ListDestinationsResponse, ListJobsRequest, ListJobsResponse,
    ListKeysRequest, ListKeysResponse, ListPoolsRequest, ListPoolsResponse, ListWorkersRequest,
    ListWorkersResponse, RestoreInPlaceRequest, RestoreInPlaceResponse, RetryJobRequest,
    RetryJobResponse, RotateKeysRequest, RotateKeysResponse, TestDestinationRequest,
    TestDestinationResponse, UpdateDestinationRequest, UpdateDestinationResponse,
    WatchKeyRotationRequest, WatchKeyRotationResponse, admin_service_server::AdminService,
};
use tonic::{Request, Response, Status, async_trait};

use super::Call;
use crate::{access, feed::FeedStream, state::State, status::ApiError, validation::Checks};

mod admission;
mod audit;
mod backups;
mod destinations;
mod in_place;
mod jobs;
mod keys;
mod pools;
mod workers;

/// The service.
#[derive(Clone)]
pub struct Admin {
    state: Arc<State>,
}

impl Admin {
    /// The service over its parts.
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }
}

/// A call of an administrator, taken apart; nobody else gets further.
fn admitted<T>(request: Request<T>) -> Result<Call<T>, ApiError> {
    let call = Call::of(request)?;
    access::may_administer(&call.caller)?;
    Ok(call)
}

/// A filter that is text: empty is not set.
fn set(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A filter that is a time, in milliseconds.
fn time_ms(checks: &mut Checks, field: &str, time: Option<prost_types::Timestamp>) -> Option<i64> {
    let time = time?;
    let in_range =
        (0..=253_402_300_799).contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos);
    checks.that(in_range, field, "lies outside of the years 1970 to 9999");
    let nanos_ms = i64::from(time.nanos) / 1_000_000;
    Some(time.seconds.saturating_mul(1_000).saturating_add(nanos_ms))
}

#[async_trait]
impl AdminService for Admin {
    type WatchKeyRotationStream = FeedStream<WatchKeyRotationResponse>;

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        Ok(Response::new(self.workers(admitted(request)?).await?))
    }

    async fn list_pools(
        &self,
        request: Request<ListPoolsRequest>,
    ) -> Result<Response<ListPoolsResponse>, Status> {
        admitted(request)?;
        Ok(Response::new(self.pools().await?))
    }

    async fn list_keys(
        &self,
        request: Request<ListKeysRequest>,
    ) -> Result<Response<ListKeysResponse>, Status> {
        Ok(Response::new(self.keys(admitted(request)?).await?))
    }

    async fn rotate_keys(
        &self,
        request: Request<RotateKeysRequest>,
    ) -> Result<Response<RotateKeysResponse>, Status> {
        Ok(Response::new(self.rotate(admitted(request)?).await?))
    }

    async fn get_key_rotation(
        &self,
        request: Request<GetKeyRotationRequest>,
    ) -> Result<Response<GetKeyRotationResponse>, Status> {
        Ok(Response::new(self.rotation(admitted(request)?).await?))
    }

    async fn watch_key_rotation(
        &self,
        request: Request<WatchKeyRotationRequest>,
    ) -> Result<Response<Self::WatchKeyRotationStream>, Status> {
        Ok(Response::new(
            self.watch_rotation(admitted(request)?).await?,
        ))
    }

    async fn restore_in_place(
        &self,
        request: Request<RestoreInPlaceRequest>,
    ) -> Result<Response<RestoreInPlaceResponse>, Status> {
        Ok(Response::new(self.in_place(admitted(request)?).await?))
    }

    async fn check_workspace_creation(
        &self,
        request: Request<CheckWorkspaceCreationRequest>,
    ) -> Result<Response<CheckWorkspaceCreationResponse>, Status> {
        let call = Call::of(request)?;
        access::may_ask_for_admission(&call.caller)?;
        Ok(Response::new(self.admission(call).await?))
    }

    async fn list_all_backups(
        &self,
        request: Request<ListAllBackupsRequest>,
    ) -> Result<Response<ListAllBackupsResponse>, Status> {
        Ok(Response::new(self.all_backups(admitted(request)?).await?))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        Ok(Response::new(self.jobs(admitted(request)?).await?))
    }

    async fn retry_job(
        &self,
        request: Request<RetryJobRequest>,
    ) -> Result<Response<RetryJobResponse>, Status> {
        Ok(Response::new(self.retry(admitted(request)?).await?))
    }

    async fn get_audit_log(
        &self,
        request: Request<GetAuditLogRequest>,
    ) -> Result<Response<GetAuditLogResponse>, Status> {
        Ok(Response::new(self.audit_log(admitted(request)?).await?))
    }

    async fn create_destination(
        &self,
        request: Request<CreateDestinationRequest>,
    ) -> Result<Response<CreateDestinationResponse>, Status> {
        Ok(Response::new(
            self.add_destination(admitted(request)?).await?,
        ))
    }

    async fn get_destination(
        &self,
        request: Request<GetDestinationRequest>,
    ) -> Result<Response<GetDestinationResponse>, Status> {
        Ok(Response::new(self.destination(admitted(request)?).await?))
    }

    async fn list_destinations(
        &self,
        request: Request<ListDestinationsRequest>,
    ) -> Result<Response<ListDestinationsResponse>, Status> {
        Ok(Response::new(self.destinations(admitted(request)?).await?))
    }

    async fn update_destination(
        &self,
        request: Request<UpdateDestinationRequest>,
    ) -> Result<Response<UpdateDestinationResponse>, Status> {
        Ok(Response::new(
            self.change_destination(admitted(request)?).await?,
        ))
    }

    async fn delete_destination(
        &self,
        request: Request<DeleteDestinationRequest>,
    ) -> Result<Response<DeleteDestinationResponse>, Status> {
        Ok(Response::new(
            self.forget_destination(admitted(request)?).await?,
        ))
    }

    async fn test_destination(
        &self,
        request: Request<TestDestinationRequest>,
    ) -> Result<Response<TestDestinationResponse>, Status> {
        Ok(Response::new(
            self.try_destination(admitted(request)?).await?,
        ))
    }
}
