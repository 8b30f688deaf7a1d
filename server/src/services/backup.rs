//! BackupService: backups made, shown, read back and removed.
//!
//! - `manage`: create, get, list, cancel, delete, usage
//! - `verify`: verifications
//! - `watching`: what the watch streams of backups and verifications carry
//! - `reading`: opens backups for reading; `entries` lists them, `download` streams them

use std::sync::Arc;

use proto::backup::v1::{
    CancelBackupRequest, CancelBackupResponse, CreateBackupRequest, CreateBackupResponse,
    DeleteBackupRequest, DeleteBackupResponse, DownloadBackupRequest, DownloadBackupResponse,
    DownloadEntryRequest, DownloadEntryResponse, GetBackupRequest, GetBackupResponse,
    GetStorageUsageRequest, GetStorageUsageResponse, ListBackupEntriesRequest,
    ListBackupEntriesResponse, ListBackupsRequest, ListBackupsResponse, UpdateBackupRequest,
    UpdateBackupResponse, VerifyBackupRequest, VerifyBackupResponse, WatchBackupRequest,
    WatchBackupResponse, WatchVerificationRequest, WatchVerificationResponse,
    backup_service_server::BackupService,
};
use tonic::{Request, Response, Status, async_trait};

use super::Call;
use crate::{feed::FeedStream, state::State};

mod download;
mod entries;
mod manage;
mod reading;
mod verify;
mod watching;

/// The service.
#[derive(Clone)]
pub struct Backups {
    state: Arc<State>,
}

impl Backups {
    /// The service over its parts.
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }
}

#[async_trait]
impl BackupService for Backups {
    type WatchBackupStream = FeedStream<WatchBackupResponse>;
    type DownloadBackupStream = FeedStream<DownloadBackupResponse>;
    type DownloadEntryStream = FeedStream<DownloadEntryResponse>;
    type WatchVerificationStream = FeedStream<WatchVerificationResponse>;

    async fn create_backup(
        &self,
        request: Request<CreateBackupRequest>,
    ) -> Result<Response<CreateBackupResponse>, Status> {
        let answer = manage::create(&self.state, Call::of(request)?).await?;
        Ok(Response::new(answer))
    }

    async fn get_backup(
        &self,
        request: Request<GetBackupRequest>,
    ) -> Result<Response<GetBackupResponse>, Status> {
        let answer = manage::get(&self.state, Call::of(request)?).await?;
        Ok(Response::new(answer))
    }

    async fn list_backups(
        &self,
        request: Request<ListBackupsRequest>,
    ) -> Result<Response<ListBackupsResponse>, Status> {
        let answer = manage::list(&self.state, Call::of(request)?).await?;
        Ok(Response::new(answer))
    }

    async fn watch_backup(
        &self,
        request: Request<WatchBackupRequest>,
    ) -> Result<Response<Self::WatchBackupStream>, Status> {
        let stream = watching::backup(&self.state, Call::of(request)?).await?;
        Ok(Response::new(stream))
    }

    async fn cancel_backup(
        &self,
        request: Request<CancelBackupRequest>,
    ) -> Result<Response<CancelBackupResponse>, Status> {
        let answer = manage::cancel(&self.state, Call::of(request)?).await?;
        Ok(Response::new(answer))
    }

    async fn delete_backup(
        &self,
        request: Request<DeleteBackupRequest>,
    ) -> Result<Response<DeleteBackupResponse>, Status> {
        let answer = manage::delete(&self.state, Call::of(request)?).await?;
        Ok(Response::new(answer))
    }

    async fn update_backup(
        &self,
        request: Request<UpdateBackupRequest>,
    ) -> Result<Response<UpdateBackupResponse>, Status> {
        let answer = manage::update(&self.state, Call::of(request)?).await?;
        Ok(Response::new(answer))
    }

    async fn download_backup(
        &self,
        request: Request<DownloadBackupRequest>,
    ) -> Result<Response<Self::DownloadBackupStream>, Status> {
        let stream = download::backup(&self.state, Call::of(request)?).await?;
        Ok(Response::new(stream))
    }

    async fn list_backup_entries(
        &self,
        request: Request<ListBackupEntriesRequest>,
    ) -> Result<Response<ListBackupEntriesResponse>, Status> {
        let answer = entries::list(&self.state, Call::of(request)?).await?;
        Ok(Response::new(answer))
    }

    async fn download_entry(
        &self,
        request: Request<DownloadEntryRequest>,
    ) -> Result<Response<Self::DownloadEntryStream>, Status> {
        let stream = download::entry(&self.state, Call::of(request)?).await?;
        Ok(Response::new(stream))
    }

    async fn verify_backup(
        &self,
        request: Request<VerifyBackupRequest>,
    ) -> Result<Response<VerifyBackupResponse>, Status> {
        let answer = verify::start(&self.state, Call::of(request)?).await?;
        Ok(Response::new(answer))
    }

    async fn watch_verification(
        &self,
        request: Request<WatchVerificationRequest>,
    ) -> Result<Response<Self::WatchVerificationStream>, Status> {
        let stream = watching::verification(&self.state, Call::of(request)?).await?;
        Ok(Response::new(stream))
    }

    async fn get_storage_usage(
        &self,
        request: Request<GetStorageUsageRequest>,
    ) -> Result<Response<GetStorageUsageResponse>, Status> {
        let answer = manage::usage(&self.state, Call::of(request)?).await?;
        Ok(Response::new(answer))
    }
}
