//! AdminService: running the platform. Served on the administrators' listener only.
//!
//! One file for each group of rpcs in `admin/`; here every rpc only says who may and who does it.
//! `access::may_administer` comes before anything else.

use std::sync::Arc;

use proto::backup::v1::{
    ListWorkersRequest, ListWorkersResponse, admin_service_server::AdminService,
};
use tonic::{Request, Response, Status, async_trait};

use super::Call;
use crate::{access, state::State, status::ApiError};

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

#[async_trait]
impl AdminService for Admin {
    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        Ok(Response::new(self.workers(admitted(request)?).await?))
    }
}
