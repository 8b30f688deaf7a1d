//! Which chunks the stored backups need.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, atomic::Ordering::Relaxed},
};

use prost::Message as _;
use proto::vault::v1::{Content, Entry};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    error::Result,
    id::ChunkId,
    index::{BitSet, ChunkIndex},
    limits::{CHUNK_ID_BYTES, ENTRY_BYTES_MAX, LIST_DEPTH_MAX},
    manifest::ManifestRef,
    meter::Meter,
    read::BackupReader,
    vault::Vault,
};

/// Beginnings of entries, at the end of a chunk, that are remembered up to this length…
const CARRY_BYTES_MAX: usize = 512;
/// …and this many.
const CARRIES_MAX: usize = 65_536;

/// What is live, by chunk numbers.
#[derive(Default)]
pub(super) struct Marked {
    /// Chunks that a stored backup needs.
    pub live: BitSet,
    /// Of these, chunks of entry streams and lists of chunk ids.
    pub meta: BitSet,
    /// Chunks that backups need and that are nowhere. Those backups are damaged;
    /// a pack that can't be read may hold what they lack.
    pub missing: u64,
    /// Retired packs that could be read, where they were looked into.
    pub retired_readable: Option<HashSet<[u8; 32]>>,
    /// Backups whose damage was logged.
    pub reported: HashSet<String>,
}

/// What walks through manifests.
struct Marker<'a> {
    chunks: &'a RwLock<ChunkIndex>,
    marked: Marked,
    /// Lists that were gone through already, by depth.
    walked: [BitSet; LIST_DEPTH_MAX as usize + 1],
    /// Entry streams of successive backups are mostly the same chunks. By the
    /// chunk's number and what of an entry stood before it: what of an entry
    /// stands at its end. Chunks found here need not be read again.
    carries: HashMap<(u32, [u8; 32]), Vec<u8>>,
}

/// Marks what the manifests need. Blocks, within the async runtime.
pub(super) fn mark(
    vault: &Vault,
    manifests: &[ManifestRef],
    chunks: &Arc<RwLock<ChunkIndex>>,
    cancel: &CancellationToken,
    meter: &Meter,
) -> Result<Marked> {
    let mut marker = Marker {
        chunks,
        marked: Marked::default(),
        walked: Default::default(),
        carries: HashMap::new(),
    };
    meter
        .entries_total
        .fetch_max(manifests.len() as u64, Relaxed);
    let runtime = Handle::current();
    for at in manifests {
        // One at a time: a manifest names all packs of its backup.
        let (manifest, _) = runtime.block_on(vault.read_manifest(at))?;
        let reader = BackupReader::new(vault.clone(), manifest, chunks.clone(), cancel.clone());
        marker.backup(&reader)?;
        meter.add_entry();
    }
    Ok(marker.marked)
}

impl Marker<'_> {
    fn number(&self, id: &ChunkId) -> Option<u32> {
        let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        chunks.find(id).map(|(number, _)| number)
    }

    /// Marks everything that a backup needs.
    fn backup(&mut self, reader: &BackupReader) -> Result<()> {
        let none = Content::default();
        let stream = reader.manifest().entries.as_ref().unwrap_or(&none);
        let mut ids = Vec::new();
        self.stream_ids(reader, &stream.chunk_ids, stream.depth, &mut ids)?;
        let mut carry = self.entries(reader, &stream.inline)?;
        for id in ids {
            let Some(number) = self.number(&id) else {
                // Reading it says which object is missing.
                reader.chunk(&id)?;
                return Err(reader.malformed("its entry stream changed while it was read"));
            };
            self.marked.live.insert(number);
            self.marked.meta.insert(number);
            let key = (number, *blake3::hash(&carry).as_bytes());
            if let Some(after) = self.carries.get(&key) {
                carry.clone_from(after);
                continue;
            }
            carry.extend_from_slice(&reader.chunk(&id)?);
            carry = self.entries(reader, &carry)?;
            if carry.len() <= CARRY_BYTES_MAX && self.carries.len() < CARRIES_MAX {
                self.carries.insert(key, carry.clone());
            }
        }
        if carry.is_empty() {
            return Ok(());
        }
        Err(reader.malformed("its entry stream ends inside a record"))
    }

    /// Marks the lists of an entry stream; what they list is added to `ids`.
    fn stream_ids(
        &mut self,
        reader: &BackupReader,
        list: &[u8],
        depth: u32,
        ids: &mut Vec<ChunkId>,
    ) -> Result<()> {
        for id in list.chunks_exact(CHUNK_ID_BYTES) {
            let id: ChunkId = id.try_into().expect("chunks_exact");
            if depth == 0 {
                ids.push(id);
                continue;
            }
            let below = self.list(reader, &id)?;
            self.stream_ids(reader, &below, depth - 1, ids)?;
        }
        Ok(())
    }

    /// Marks and reads a list of chunk ids.
    fn list(&mut self, reader: &BackupReader, id: &ChunkId) -> Result<bytes::Bytes> {
        let below = reader.chunk(id)?;
        if !below.len().is_multiple_of(CHUNK_ID_BYTES) {
            return Err(reader.malformed("a list of chunk ids is malformed"));
        }
        if let Some(number) = self.number(id) {
            self.marked.live.insert(number);
            self.marked.meta.insert(number);
        }
        Ok(below)
    }

    /// Marks what the entries need that stand in `bytes`; what is left of them is
    /// the beginning of another entry.
    fn entries(&mut self, reader: &BackupReader, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut rest = bytes;
        loop {
            let mut record = rest;
            let Ok(length) = prost::decode_length_delimiter(&mut record) else {
                // A length takes ten bytes at most; fewer may not be all of it.
                if rest.len() >= 10 {
                    return Err(reader.malformed("its entry stream holds no entries"));
                }
                return Ok(rest.to_vec());
            };
            if length > ENTRY_BYTES_MAX {
                return Err(reader.malformed("an entry is too long"));
            }
            if record.len() < length {
                return Ok(rest.to_vec());
            }
            let entry = Entry::decode(&record[..length])
                .map_err(|_| reader.malformed("its entry stream holds no entries"))?;
            rest = &record[length..];
            if let Some(content) = &entry.content {
                self.content(reader, content)?;
            }
        }
    }

    fn content(&mut self, reader: &BackupReader, content: &Content) -> Result<()> {
        if content.depth > LIST_DEPTH_MAX || !content.chunk_ids.len().is_multiple_of(CHUNK_ID_BYTES)
        {
            return Err(reader.malformed("a list of chunk ids is malformed"));
        }
        self.ids(reader, &content.chunk_ids, content.depth)
    }

    fn ids(&mut self, reader: &BackupReader, list: &[u8], depth: u32) -> Result<()> {
        for id in list.chunks_exact(CHUNK_ID_BYTES) {
            let id: ChunkId = id.try_into().expect("chunks_exact");
            match (depth, self.number(&id)) {
                (0, Some(number)) => {
                    self.marked.live.insert(number);
                }
                (0, None) => self.miss(reader, &id),
                (_, Some(number)) if !self.walked[depth as usize].insert(number) => {}
                _ => {
                    let below = self.list(reader, &id)?;
                    self.ids(reader, &below, depth - 1)?;
                }
            }
        }
        Ok(())
    }

    fn miss(&mut self, reader: &BackupReader, id: &ChunkId) {
        self.marked.missing += 1;
        let backup_id = &reader.manifest().backup_id;
        if self.marked.reported.insert(backup_id.clone()) {
            let chunk = hex::encode(id);
            tracing::warn!(%backup_id, chunk, "backup needs a chunk that is in no pack");
        }
    }
}
