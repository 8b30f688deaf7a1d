//! Opens backups for reading. While one is read it is pinned, so that neither a deletion nor a
//! compaction takes away what the reader needs; the work is told to stop when nobody waits for it
//! any more, and the pin is released whatever happens.

use std::sync::Arc;

use catalog::Backup;
use destinations::DestinationsError;
use prost::Message;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use vault::{BackupReader, ManifestRef, VaultError};

use crate::{
    access::check_copy,
    admission::Slot,
    feed::{Feed, FeedStream, feed},
    services::blocking,
    state::{Pinned, State, manifest_of},
    status::ApiError,
};

/// Chunks that wait for the caller, each of at most 256 KiB.
const CHUNKS_WAITING_MAX: usize = 4;

/// A backup that may be read: it is COMPLETED.
pub(super) struct Readable {
    backup: Backup,
    manifest: ManifestRef,
    /// The destination of the copy that is read; empty: where the backup lies.
    destination_id: String,
}

impl Readable {
    /// Refuses a backup, or a copy of it, that is not COMPLETED.
    pub(super) fn new(backup: &Backup, destination_id: &str) -> Result<Self, ApiError> {
        let manifest = manifest_of(backup)?;
        check_copy(backup, destination_id)?;
        Ok(Self {
            backup: backup.clone(),
            manifest,
            destination_id: destination_id.to_owned(),
        })
    }

    async fn open(
        &self,
        state: &State,
        cancel: CancellationToken,
    ) -> Result<BackupReader, DestinationsError> {
        let vault = state.vault(&self.backup, &self.destination_id).await?;
        Ok(vault.open_backup(&self.manifest, cancel).await?)
    }
}

/// Reads a backup for a unary call. The work runs as a task of its own, so that it ends in order
/// even when the call is given up.
pub(super) async fn read<T: Send + 'static>(
    state: &Arc<State>,
    readable: Readable,
    holder: &'static str,
    work: impl FnOnce(BackupReader) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let cancel = state.stop.deadline.child_token();
    // Dropped with the call.
    let _stop_work = cancel.clone().drop_guard();
    let tasks = state.tasks.clone();
    let state = state.clone();
    let task = tasks.spawn(async move {
        let pin = Pinned::take(&state, &readable.manifest.backup_id, holder).await?;
        let result = match readable.open(&state, cancel).await {
            Ok(reader) => blocking(&state, move || work(reader)).await,
            Err(error) => Err(error.into()),
        };
        pin.release().await;
        result?
    });
    task.await
        .map_err(|error| ApiError::internal("read a backup", error))?
}

/// Why a producer of a stream stopped.
pub(super) enum Stopped {
    /// Nobody takes its messages any more, and the stream knows why.
    Outlet,
    /// It failed.
    Failed(ApiError),
}

impl From<VaultError> for Stopped {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Sink(_) | VaultError::Canceled => Self::Outlet,
            error => Self::Failed(error.into()),
        }
    }
}

impl From<DestinationsError> for Stopped {
    fn from(error: DestinationsError) -> Self {
        match error {
            DestinationsError::Vault(error) => error.into(),
            error @ DestinationsError::Catalog(_) => Self::Failed(error.into()),
        }
    }
}

impl From<ApiError> for Stopped {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// Where a producer of a stream, which blocks, puts its messages.
pub(super) struct Outlet<T> {
    feed: Arc<Feed<T>>,
    cancel: CancellationToken,
    runtime: Handle,
}

impl<T> Outlet<T> {
    /// Hands a message over, waiting for the caller to read. Blocks.
    pub(super) fn send(&self, message: T) -> Result<(), Stopped> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(Stopped::Outlet),
                sent = self.feed.send(message) => sent.map_err(|_| Stopped::Outlet),
            }
        })
    }
}

/// Streams what `produce` makes of a backup.
pub(super) fn stream<T: Message + 'static>(
    state: &Arc<State>,
    readable: Readable,
    holder: &'static str,
    slot: Option<Slot>,
    produce: impl FnOnce(BackupReader, Outlet<T>) -> Result<(), Stopped> + Send + 'static,
) -> FeedStream<T> {
    let (feed, stream) = feed(CHUNKS_WAITING_MAX, state.slow_reader);
    let tasks = state.tasks.clone();
    let state = state.clone();
    tasks.spawn(async move {
        let feed = Arc::new(feed);
        match Pinned::take(&state, &readable.manifest.backup_id, holder).await {
            Ok(pin) => {
                let result = run(&state, &readable, &feed, &pin, produce).await;
                // Released before the end shows: who has read the last byte may delete.
                pin.release().await;
                match result {
                    Ok(()) => feed.end(Ok(())),
                    Err(Stopped::Outlet) => {}
                    Err(Stopped::Failed(error)) => feed.end(Err(error)),
                }
            }
            Err(error) => feed.end(Err(error)),
        }
        drop(slot);
    });
    stream
}

async fn run<T: Message + 'static>(
    state: &Arc<State>,
    readable: &Readable,
    feed: &Arc<Feed<T>>,
    pin: &Pinned,
    produce: impl FnOnce(BackupReader, Outlet<T>) -> Result<(), Stopped> + Send + 'static,
) -> Result<(), Stopped> {
    let cancel = CancellationToken::new();
    let work = async {
        let reader = readable.open(state, cancel.clone()).await?;
        let outlet = Outlet {
            feed: feed.clone(),
            cancel: cancel.clone(),
            runtime: Handle::current(),
        };
        blocking(state, move || produce(reader, outlet)).await?
    };
    tokio::pin!(work);
    let why = tokio::select! {
        result = &mut work => return result,
        () = feed.gone() => Stopped::Outlet,
        () = state.stop.deadline.cancelled() => Stopped::Failed(ApiError::shutting_down()),
        lost = pin.keep() => Stopped::Failed(lost),
    };
    cancel.cancel();
    // Whatever it says now, the reason it stopped is ours.
    let _ = work.await;
    Err(why)
}
