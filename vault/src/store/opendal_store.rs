//! A folder on this machine, through OpenDAL: write to a temporary name, fsync the
//! file, rename, fsync the folder, read back.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use opendal::{
    ErrorKind, Operator,
    layers::{RetryLayer, TimeoutLayer},
};

use super::{
    Listed, Store, listing,
    scratch::{self, Scratch},
};
use crate::error::{StoreError, StoreErrorKind};

/// Where unfinished writes of a local destination lie, below its root.
const TEMPORARY: &str = ".nora-tmp";
/// Loose files there (probes) are swept at this age.
const LOOSE_AGE_MS: u64 = 60 * 60 * 1000;
/// A call that moves no byte for this long has failed.
const STALL: Duration = Duration::from_mins(1);
/// Attempts after the first, of what the destination calls temporary.
const RETRIES: usize = 3;

/// A folder of this machine as a destination.
#[derive(Debug, Clone)]
pub struct OpendalStore {
    operator: Operator,
    root: PathBuf,
    /// Where this process writes before it renames; locked while it lives.
    scratch: Arc<Scratch>,
}

impl OpendalStore {
    /// A folder on this machine, made if it is not there (mode 0700).
    pub fn local(root: &Path) -> Result<Self, StoreError> {
        let prepare = |path: &Path| {
            use std::os::unix::fs::DirBuilderExt as _;
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
        };
        let temporary = root.join(TEMPORARY);
        prepare(&temporary).map_err(|e| {
            let error = from_io("make the folder of", "the destination", &e);
            match e.kind() {
                // Its path leads where no folders can be.
                io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::AlreadyExists => StoreError {
                    kind: StoreErrorKind::Misconfigured,
                    ..error
                },
                _ => error,
            }
        })?;
        let failed = |e: io::Error| {
            from_io(
                "make a folder for unfinished writes in",
                "the destination",
                &e,
            )
        };
        scratch::sweep(&temporary, LOOSE_AGE_MS).map_err(failed)?;
        let scratch = Scratch::new(&temporary).map_err(failed)?;
        let builder = opendal::services::Fs::default()
            .root(&root.to_string_lossy())
            .atomic_write_dir(&scratch.path().to_string_lossy());
        let operator = Operator::new(builder)
            .map_err(|e| from_opendal("open", "the destination", &e))?
            .layer(
                TimeoutLayer::new()
                    .with_timeout(STALL)
                    .with_io_timeout(STALL),
            )
            .layer(RetryLayer::new().with_max_times(RETRIES).with_jitter());
        Ok(Self {
            operator,
            root: root.to_owned(),
            scratch: Arc::new(scratch),
        })
    }

    /// Makes the names in the object's folder durable.
    async fn sync_folder(&self, name: &str) -> Result<(), StoreError> {
        let root = self.root.clone();
        let folder = root
            .join(name)
            .parent()
            .map_or_else(|| root.clone(), Path::to_owned);
        blocking("sync the folder of", name, move || {
            // A new vault makes new folders: each one's name lies in its parent.
            let mut at = folder.as_path();
            loop {
                fs::File::open(at)?.sync_all()?;
                if at == root {
                    return Ok(());
                }
                at = at.parent().unwrap_or(&root);
            }
        })
        .await
    }

    /// Compares what is stored with what was to be written.
    async fn read_back(&self, name: &str, bytes: &Bytes) -> Result<bool, StoreError> {
        let (path, bytes) = (self.root.join(name), bytes.clone());
        blocking("read back", name, move || same_as_file(&path, &bytes)).await
    }
}

fn same_as_file(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let mut file = fs::File::open(path)?;
    if file.metadata()?.len() != bytes.len() as u64 {
        return Ok(false);
    }
    let mut buffer = vec![0; bytes.len().clamp(1, 256 * 1024)];
    let mut rest = bytes;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(rest.is_empty());
        }
        if n > rest.len() || buffer[..n] != rest[..n] {
            return Ok(false);
        }
        rest = &rest[n..];
    }
}

#[async_trait]
impl Store for OpendalStore {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let written = {
            let _unfinished = self.scratch.write(name);
            self.operator.write(name, bytes.clone()).await
        };
        if let Err(error) = written {
            // The outcome of a failed call is unknown: look, then decide.
            let error = from_opendal("write", name, &error);
            if error.kind == StoreErrorKind::Full
                || error.kind == StoreErrorKind::Denied
                || !self.read_back(name, &bytes).await.unwrap_or(false)
            {
                return Err(error);
            }
        }
        self.sync_folder(name).await?;
        if self.read_back(name, &bytes).await? {
            return Ok(());
        }
        Err(StoreError {
            action: "read back",
            object: name.to_owned(),
            kind: StoreErrorKind::Corrupt,
            detail: "size or contents differ".to_owned(),
        })
    }

    async fn get(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
        let stat = self
            .operator
            .stat(name)
            .await
            .map_err(|e| from_opendal("read", name, &e))?;
        if stat.content_length() > bytes_max {
            return Err(StoreError {
                action: "read",
                object: name.to_owned(),
                kind: StoreErrorKind::Corrupt,
                detail: format!(
                    "{} bytes, at most {bytes_max} are expected",
                    stat.content_length()
                ),
            });
        }
        let buffer = self
            .operator
            .read(name)
            .await
            .map_err(|e| from_opendal("read", name, &e))?;
        Ok(buffer.to_bytes())
    }

    async fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        let end = offset.saturating_add(length);
        let read = |end| self.operator.read_with(name).range(offset..end);
        let buffer = match read(end).await {
            Err(e) if e.kind() == ErrorKind::RangeNotSatisfied => {
                // The object ends before the range does: what there is of it.
                let end = end.min(self.stat(name).await?.unwrap_or(0));
                if end <= offset {
                    return Ok(Bytes::new());
                }
                read(end).await
            }
            read => read,
        };
        let buffer = buffer.map_err(|e| from_opendal("read", name, &e))?;
        Ok(buffer.to_bytes())
    }

    async fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match self.operator.stat(name).await {
            Ok(stat) => Ok(Some(stat.content_length())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(from_opendal("look up", name, &e)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let mut listed = Vec::new();
        for entry in listing::entries(&self.operator, prefix, from_opendal).await? {
            if !listing::is_object(&entry) {
                continue;
            }
            // The listing of a local folder tells names only.
            match self.operator.stat(entry.path()).await {
                Ok(metadata) => listed.push(listing::listed(entry.path(), &metadata)),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(from_opendal("list", prefix, &e)),
            }
        }
        Ok(listed)
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let entries = listing::entries(&self.operator, prefix, from_opendal).await?;
        Ok(listing::folders(&entries, prefix))
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.operator
            .delete(name)
            .await
            .map_err(|e| from_opendal("delete", name, &e))?;
        match self.sync_folder(name).await {
            Err(e) if e.kind == StoreErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    async fn sweep(&self, age_ms: u64) -> Result<u64, StoreError> {
        let (folder, scratch) = (self.root.join(TEMPORARY), self.scratch.clone());
        let sweep = move || Ok(scratch::sweep(&folder, age_ms)? + scratch.sweep()?);
        blocking("sweep", TEMPORARY, sweep).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        let name = format!(
            "{TEMPORARY}/probe-{}",
            hex::encode(crate::random::bytes::<8>())
        );
        self.put(&name, Bytes::from_static(b"nora-backup probe"))
            .await?;
        self.delete(&name).await
    }
}

async fn blocking<T: Send + 'static>(
    action: &'static str,
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| from_io(action, name, &e)),
        Err(e) => Err(StoreError {
            action,
            object: name.to_owned(),
            kind: StoreErrorKind::Other,
            detail: e.to_string(),
        }),
    }
}

fn kind_of_io(error: &io::Error) -> StoreErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => StoreErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreErrorKind::Denied
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        io::ErrorKind::TimedOut => StoreErrorKind::Timeout,
        _ => StoreErrorKind::Other,
    }
}

fn from_io(action: &'static str, object: &str, error: &io::Error) -> StoreError {
    let kind = kind_of_io(error);
    // The system's words for the error, without the path that a message might carry.
    let detail = error.raw_os_error().map_or_else(
        || error.kind().to_string(),
        |code| io::Error::from_raw_os_error(code).to_string(),
    );
    StoreError {
        action,
        object: object.to_owned(),
        kind,
        detail,
    }
}

fn from_opendal(action: &'static str, object: &str, error: &opendal::Error) -> StoreError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return from_io(action, object, io);
        }
        cause = inner.source();
    }
    let kind = match error.kind() {
        ErrorKind::NotFound => StoreErrorKind::NotFound,
        ErrorKind::PermissionDenied => StoreErrorKind::Denied,
        ErrorKind::RateLimited => StoreErrorKind::Unavailable,
        _ if error.to_string().contains("timeout") => StoreErrorKind::Timeout,
        _ => StoreErrorKind::Other,
    };
    StoreError {
        action,
        object: object.to_owned(),
        kind,
        detail: error.kind().to_string(),
    }
}
