//! Vault to sink: list, one file, everything, tar, verify.
//!
//! Everything here but [`Vault::open_backup`] blocks: call it from
//! `spawn_blocking`, never on an async worker thread.

use std::{
    io::{self, Read, Write},
    sync::{Arc, RwLock, atomic::AtomicBool},
};

use bytes::Bytes;
use proto::vault::v1::{Content, Entry, Manifest};
use tokio_util::sync::CancellationToken;

use crate::{
    error::Result, id::ChunkId, index::ChunkIndex, manifest::ManifestRef, meter::Meter,
    vault::Vault,
};

/// One backup, opened for reading. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BackupReader {
    vault: Vault,
    manifest: Arc<Manifest>,
    chunks: Arc<RwLock<ChunkIndex>>,
    cancel: CancellationToken,
}

/// Entries in path order; fuses after an error.
#[derive(Debug)]
pub struct EntryIter;

/// One content as bytes; holes read as zeros.
#[derive(Debug)]
pub struct ContentReader;

/// Everything of a backup in order, prefetched and decoded on all cores.
#[derive(Debug)]
pub struct Walk;

/// What an exported tar holds, and under which names.
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
    /// Bytes of contents read (holes not counted).
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
        Ok(BackupReader::new(
            self.clone(),
            manifest,
            contents.chunks,
            cancel,
        ))
    }
}

impl BackupReader {
    /// A reader over an index that is loaded already.
    pub(crate) fn new(
        vault: Vault,
        manifest: Manifest,
        chunks: Arc<RwLock<ChunkIndex>>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            vault,
            manifest: Arc::new(manifest),
            chunks,
            cancel,
        }
    }

    /// The ids of all chunks of a content, and of the lists that name them.
    pub(crate) fn all_chunk_ids(&self, content: &Content) -> Result<Vec<ChunkId>> {
        let _ = (content, &self.vault, &self.chunks, &self.cancel);
        unimplemented!()
    }

    /// The backup's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The entries in path order, after `after` where given. Blocks.
    pub fn entries(&self, after: Option<&[u8]>) -> Result<EntryIter> {
        let _ = after;
        unimplemented!()
    }

    /// The entry with a path. Blocks.
    pub fn find(&self, path: &[u8]) -> Result<Option<Entry>> {
        let _ = path;
        unimplemented!()
    }

    /// A content's bytes from `offset` on. Blocks when read.
    pub fn content(&self, content: &Content, offset: u64) -> Result<ContentReader> {
        let _ = (content, offset);
        unimplemented!()
    }

    /// Everything in order, the fast way. Blocks.
    pub fn walk(&self, meter: Arc<Meter>) -> Result<Walk> {
        let _ = meter;
        unimplemented!()
    }

    /// Writes a deterministic PAX tar. Blocks.
    pub fn export_tar(&self, spec: &TarSpec, sink: &mut dyn Write) -> Result<()> {
        let _ = (spec, sink, AtomicBool::new(false));
        unimplemented!()
    }

    /// Writes a deterministic `.tar.zst`. Blocks.
    pub fn export_tar_zst(&self, spec: &TarSpec, sink: &mut dyn Write) -> Result<()> {
        let _ = (spec, sink);
        unimplemented!()
    }

    /// Reads the backup and reports what is wrong with it; an error only when it
    /// can't be told (canceled, destination unreachable). Blocks.
    pub fn verify(&self, depth: VerifyDepth, meter: Arc<Meter>) -> Result<VerifyReport> {
        let _ = (depth, meter);
        unimplemented!()
    }
}

impl Iterator for EntryIter {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}

impl Read for ContentReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let _ = buf;
        unimplemented!()
    }
}

impl Walk {
    /// The next entry; what is left of the data of the one before is passed over.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        unimplemented!()
    }

    /// The next piece of the current entry's data with its offset in the file;
    /// `None` at its end. Holes are left out.
    pub fn next_data(&mut self) -> Result<Option<(Bytes, u64)>> {
        unimplemented!()
    }
}
