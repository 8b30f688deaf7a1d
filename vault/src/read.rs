//! Vault to sink: list, one file, everything, tar, verify.
//!
//! Everything here but [`Vault::open_backup`] blocks: call it from
//! `spawn_blocking`, never on an async worker thread.
//!
//! - `fetch`, `lost`: from a chunk's id to its bytes, or to what is missing
//! - `buffers`: decoded segments, reused and cached
//! - `ids`, `layout`: long lists of ids; where data lies in its file
//! - `entries`, `content`: the entry stream; one file
//! - `resync`: where the stream goes on after a part of it was lost
//! - `walk`: everything in order, on all cores
//! - `tar`, `export`: tar headers; a backup as an archive
//! - `verify`: what is wrong with a backup
//! - `needs`: which chunks a backup needs
//!
//! What is read is checked before anyone sees it: a box opens or not, and every
//! chunk must be what its id says. Errors name the object.

use std::{
    fmt,
    io::Write,
    sync::{Arc, RwLock},
};

use bytes::Bytes;
use proto::vault::v1::{Content, Entry, Manifest};
use tokio_util::sync::CancellationToken;

use self::{entries::Scope, fetch::Fetcher, ids::IdStream};
use crate::{
    error::{Result, VaultError},
    id::ChunkId,
    index::ChunkIndex,
    manifest::ManifestRef,
    meter::Meter,
    vault::Vault,
};

mod buffers;
mod content;
mod entries;
mod export;
mod fetch;
mod ids;
mod layout;
mod lost;
mod needs;
mod resync;
mod tar;
mod verify;
mod walk;

pub use content::ContentReader;
pub use entries::EntryIter;
pub use export::ENCODER_VERSION;
pub use walk::Walk;

/// One backup, opened for reading. Cheap to clone.
#[derive(Clone)]
pub struct BackupReader {
    fetcher: Arc<Fetcher>,
}

/// What an exported tar holds, and under which names. Folders end in '/'; the root
/// stands as "./", or as `prepend` where that is set. A hard link to a file outside
/// of `prefix` becomes the file itself, further ones links to it.
#[derive(Debug, Clone, Default)]
pub struct TarSpec {
    /// Only this path and what lies under it; empty: everything.
    pub prefix: Vec<u8>,
    /// What is put before every path, for example `b"rootfs/"`.
    pub prepend: Vec<u8>,
}

/// How much a verification reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyDepth {
    /// Manifest, entries, indexes; of the packs, presence and length.
    Structure,
    /// Every byte.
    Full,
}

/// What a verification found: everything right, or the first few faults by name.
#[derive(Debug, Clone, Default)]
pub struct VerifyReport {
    /// Entries read.
    pub entries: u64,
    /// Bytes of contents that were read and checked, each chunk once; 0 when only
    /// the structure was.
    pub bytes: u64,
    /// What is wrong, each naming its object; at most 100.
    pub faults: Vec<String>,
    /// Whether an object is missing (`OBJECT_MISSING`) rather than changed.
    pub missing: bool,
}

impl Vault {
    /// Opens a backup for reading; its manifest is checked against its digest
    /// where that is known, and every chunk's place is looked up in the indexes.
    pub async fn open_backup(
        &self,
        at: &ManifestRef,
        cancel: CancellationToken,
    ) -> Result<BackupReader> {
        let (manifest, _) = self.read_manifest(at).await?;
        let contents = self.load_contents().await?;
        let reader = BackupReader::new(self.clone(), manifest, contents.chunks, cancel);
        *buffers::lock(&reader.fetcher.retired) = contents.retired;
        Ok(reader)
    }
}

/// Runs what blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(VaultError::Internal(format!("a thread: {error}"))),
    }
}

impl BackupReader {
    /// A reader over an index that is loaded already. Must be called on the
    /// async runtime.
    pub(crate) fn new(
        vault: Vault,
        manifest: Manifest,
        chunks: Arc<RwLock<ChunkIndex>>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            fetcher: Arc::new(Fetcher::new(vault, Arc::new(manifest), chunks, cancel)),
        }
    }

    /// The ids of all chunks of a content, and of the lists that name them. Blocks.
    pub(crate) fn all_chunk_ids(&self, content: &Content) -> Result<Vec<ChunkId>> {
        let mut stream = IdStream::new(self.fetcher.clone(), content)?;
        stream.note_lists();
        let mut all = Vec::new();
        while let Some(id) = stream.next()? {
            self.fetcher.check_cancel()?;
            all.append(&mut stream.take_lists());
            all.push(id);
        }
        Ok(all)
    }

    /// The same, but what is damaged is passed over: a walk and a listing go on
    /// after errors that concern single entries.
    pub(crate) fn salvaging(
        vault: Vault,
        manifest: Manifest,
        chunks: ChunkIndex,
        cancel: CancellationToken,
    ) -> Self {
        let chunks = Arc::new(RwLock::new(chunks));
        let mut fetcher = Fetcher::new(vault, Arc::new(manifest), chunks, cancel);
        fetcher.salvage = true;
        Self {
            fetcher: Arc::new(fetcher),
        }
    }

    /// A chunk's bytes, checked. Blocks.
    pub(crate) fn chunk(&self, id: &ChunkId) -> Result<Bytes> {
        self.fetcher.chunk(id)
    }

    /// The manifest, or what it refers to, contradicts itself.
    pub(crate) fn malformed(&self, what: &str) -> VaultError {
        self.fetcher.malformed(what)
    }

    /// The backup's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.fetcher.manifest
    }

    /// The entries in path order, after `after` where given. Blocks.
    pub fn entries(&self, after: Option<&[u8]>) -> Result<EntryIter> {
        let scope = after.map_or(Scope::All, |after| Scope::After(after.to_vec()));
        EntryIter::new(self.fetcher.clone(), scope)
    }

    /// The entry with a path. Blocks.
    pub fn find(&self, path: &[u8]) -> Result<Option<Entry>> {
        let scope = Scope::Under(path.to_vec());
        let first = EntryIter::new(self.fetcher.clone(), scope)?.next();
        Ok(first.transpose()?.filter(|entry| entry.path == path))
    }

    /// A content's bytes from `offset` on. Blocks.
    pub fn content(&self, content: &Content, offset: u64) -> Result<ContentReader> {
        ContentReader::new(self.fetcher.clone(), content, offset)
    }

    /// Everything in order, the fast way. Blocks.
    pub fn walk(&self, meter: Arc<Meter>) -> Result<Walk> {
        Walk::start(&self.fetcher, Scope::All, meter)
    }

    /// Writes a deterministic PAX tar. Blocks.
    pub fn export_tar(&self, spec: &TarSpec, sink: &mut dyn Write) -> Result<()> {
        export::tar(&self.fetcher, spec, sink)
    }

    /// Writes a deterministic `.tar.zst`. Blocks.
    pub fn export_tar_zst(&self, spec: &TarSpec, sink: &mut dyn Write) -> Result<()> {
        export::tar_zst(&self.fetcher, spec, sink)
    }

    /// Reads the backup and reports what is wrong with it; an error only when it
    /// can't be told (canceled, destination unreachable). Blocks.
    pub fn verify(&self, depth: VerifyDepth, meter: Arc<Meter>) -> Result<VerifyReport> {
        verify::verify(&self.fetcher, depth, &meter)
    }
}

impl fmt::Debug for BackupReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupReader({})", self.fetcher.manifest_name())
    }
}
