//! RestoreService: backups brought back as new agents.
//!
//! - `draft`: plans a restore from what the backup's manifest says
//! - `decisions`: what of a container can't be copied as it was
//! - here: shown, started, watched, canceled

use std::sync::Arc;

use catalog::{PageRequest, RestoreFilter};
use proto::{
    backup::v1::{
        CancelRestoreRequest, CancelRestoreResponse, CreateRestoreDraftRequest,
        CreateRestoreDraftResponse, GetRestoreRequest, GetRestoreResponse, ListRestoresRequest,
        ListRestoresResponse, Progress, Restore, StartRestoreRequest, StartRestoreResponse,
        WatchRestoreRequest, WatchRestoreResponse, restore_service_server::RestoreService,
    },
    queue::v1::JobEvent,
};
use tonic::{Request, Response, Status, async_trait};

use super::Call;
use crate::{
    access,
    auth::Caller,
    clock::now_ms,
    convert,
    feed::FeedStream,
    page,
    page::Listing,
    state::State,
    status::ApiError,
    validation::{Checks, PAGE_DEFAULT},
    watch::{Now, Subject, watch},
};

mod decisions;
mod draft;

/// The service.
#[derive(Clone)]
pub struct Restores {
    state: Arc<State>,
}

impl Restores {
    /// The service over its parts.
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    /// The restore that a request names, when the caller may see it.
    async fn the_restore(
        &self,
        caller: &Caller,
        restore_id: &str,
    ) -> Result<catalog::Restore, ApiError> {
        access::may_use_backups(caller)?;
        let mut checks = Checks::new();
        checks.id("restore_id", restore_id);
        checks.done()?;
        access::restore_for(&self.state, caller, restore_id).await
    }

    async fn list(
        &self,
        call: Call<ListRestoresRequest>,
    ) -> Result<ListRestoresResponse, ApiError> {
        access::may_use_backups(&call.caller)?;
        let request = call.message;
        let mut checks = Checks::new();
        checks.optional_id("backup_id", &request.backup_id);
        let limit = checks.page_size(request.page_size, PAGE_DEFAULT);
        checks.page_token(&request.page_token);
        checks.done()?;
        let listing = Listing::new("restores", [request.backup_id.as_bytes()]);
        let after = listing.open_text(&request.page_token)?;
        if !request.backup_id.is_empty() {
            access::backup_for(&self.state, &call.caller, &request.backup_id).await?;
        }
        let filter = RestoreFilter {
            owner_id: access::owner_scope(&call.caller),
            backup_id: (!request.backup_id.is_empty()).then_some(request.backup_id),
        };
        let found = self
            .state
            .catalog
            .list_restores(&filter, &PageRequest { limit, after })
            .await?;
        let mut restores: Vec<Restore> = found.items.into_iter().map(convert::restore).collect();
        let fitting = page::fitting(&restores);
        let next = if fitting < restores.len() {
            restores.truncate(fitting);
            restores.last().map(|restore| restore.restore_id.clone())
        } else {
            found.next
        };
        Ok(ListRestoresResponse {
            restores,
            next_page_token: next.map_or_else(String::new, |key| listing.token(key.as_bytes())),
        })
    }

    async fn start(
        &self,
        call: Call<StartRestoreRequest>,
    ) -> Result<StartRestoreResponse, ApiError> {
        let request = call.message;
        let restore = self.the_restore(&call.caller, &request.restore_id).await?;
        let mut checks = Checks::new();
        checks.choices(&request.choices);
        decisions::check_choices(
            &mut checks,
            &restore.decisions,
            &request.choices,
            access::may_keep_privileges(&call.caller),
        );
        checks.done()?;
        let restore = self
            .state
            .catalog
            .start_restore(&restore.restore_id, &request.choices, now_ms())
            .await?;
        self.announce(&restore, false).await;
        tracing::info!(
            restore_id = restore.restore_id,
            backup_id = restore.backup_id,
            "restore accepted"
        );
        Ok(StartRestoreResponse {
            restore: Some(convert::restore(restore)),
        })
    }

    async fn cancel(
        &self,
        call: Call<CancelRestoreRequest>,
    ) -> Result<CancelRestoreResponse, ApiError> {
        let restore_id = &call.message.restore_id;
        let restore = self.the_restore(&call.caller, restore_id).await?;
        let restore = self
            .state
            .catalog
            .cancel_restore(&restore.restore_id, now_ms())
            .await?;
        self.announce(&restore, true).await;
        tracing::info!(restore_id = restore.restore_id, "restore to be canceled");
        Ok(CancelRestoreResponse {
            restore: Some(convert::restore(restore)),
        })
    }

    async fn announce(&self, restore: &catalog::Restore, cancel_requested: bool) {
        let event = JobEvent {
            subject_id: restore.restore_id.clone(),
            job_id: restore.job_id.clone().unwrap_or_default(),
            state_changed: true,
            cancel_requested,
            ..JobEvent::default()
        };
        self.state.announce(event).await;
    }

    async fn watch(
        &self,
        call: Call<WatchRestoreRequest>,
    ) -> Result<FeedStream<WatchRestoreResponse>, ApiError> {
        let restore_id = &call.message.restore_id;
        let restore = self.the_restore(&call.caller, restore_id).await?;
        let subject = WatchedRestore {
            state: self.state.clone(),
            restore_id: restore.restore_id,
        };
        watch(self.state.ground(), subject, call.slot).await
    }
}

struct WatchedRestore {
    state: Arc<State>,
    restore_id: String,
}

impl Subject for WatchedRestore {
    type Event = WatchRestoreResponse;

    fn subject_id(&self) -> &str {
        &self.restore_id
    }

    async fn load(&self) -> Result<Now<WatchRestoreResponse>, ApiError> {
        let restore = self.state.catalog.get_restore(&self.restore_id).await?;
        let restore = restore.ok_or_else(|| access::no_restore(&self.restore_id))?;
        Ok(Now {
            ended: restore.state.is_ended(),
            event: WatchRestoreResponse {
                restore: Some(convert::restore(restore)),
            },
        })
    }

    fn progress(event: &mut WatchRestoreResponse) -> Option<&mut Progress> {
        event.restore.as_mut()?.progress.as_mut()
    }
}

#[async_trait]
impl RestoreService for Restores {
    type WatchRestoreStream = FeedStream<WatchRestoreResponse>;

    async fn create_restore_draft(
        &self,
        request: Request<CreateRestoreDraftRequest>,
    ) -> Result<Response<CreateRestoreDraftResponse>, Status> {
        let answer = draft::create(&self.state, Call::of(request)?).await?;
        Ok(Response::new(answer))
    }

    async fn get_restore(
        &self,
        request: Request<GetRestoreRequest>,
    ) -> Result<Response<GetRestoreResponse>, Status> {
        let call = Call::of(request)?;
        let restore = self
            .the_restore(&call.caller, &call.message.restore_id)
            .await?;
        Ok(Response::new(GetRestoreResponse {
            restore: Some(convert::restore(restore)),
        }))
    }

    async fn list_restores(
        &self,
        request: Request<ListRestoresRequest>,
    ) -> Result<Response<ListRestoresResponse>, Status> {
        Ok(Response::new(self.list(Call::of(request)?).await?))
    }

    async fn start_restore(
        &self,
        request: Request<StartRestoreRequest>,
    ) -> Result<Response<StartRestoreResponse>, Status> {
        Ok(Response::new(self.start(Call::of(request)?).await?))
    }

    async fn watch_restore(
        &self,
        request: Request<WatchRestoreRequest>,
    ) -> Result<Response<Self::WatchRestoreStream>, Status> {
        Ok(Response::new(self.watch(Call::of(request)?).await?))
    }

    async fn cancel_restore(
        &self,
        request: Request<CancelRestoreRequest>,
    ) -> Result<Response<CancelRestoreResponse>, Status> {
        Ok(Response::new(self.cancel(Call::of(request)?).await?))
    }
}
