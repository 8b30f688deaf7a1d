//! From a chunk's id to its bytes: look up, read, open, decompress, check.

use std::{
    collections::HashMap,
    future::Future,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use bytes::Bytes;
use lru::LruCache;
use proto::vault::v1::{Manifest, RetiredPack};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    buffers::{Buffers, SegmentCache, lock, share},
    lost::Lost,
};
use crate::{
    error::{Result, StoreErrorKind, VaultError},
    id::ChunkId,
    index::{ChunkIndex, Location, PackAt, SegmentAt},
    manifest::ManifestRef,
    pack::pack_name,
    seal::{Header, Kind, Sealer},
    vault::Vault,
};

/// Decoded segments that listings and single files keep.
const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// Packs whose keys are kept.
const SEALERS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Where a chunk lies, with all that is needed to read it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The chunk's number in the index.
    pub number: u32,
    pub at: Location,
    pub segment: SegmentAt,
    pub pack: PackAt,
}

impl Place {
    /// The chunk within its decoded segment.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        let start = self.at.offset as usize;
        start..start + self.at.bytes as usize
    }
}

/// Reads chunks of one backup's vault.
pub(super) struct Fetcher {
    pub vault: Vault,
    pub manifest: Arc<Manifest>,
    pub runtime: Handle,
    pub cancel: CancellationToken,
    /// Whether reading goes on after what is damaged.
    pub salvage: bool,
    pub(super) chunks: Arc<RwLock<ChunkIndex>>,
    pub(super) lost: Mutex<Option<Arc<Lost>>>,
    /// Packs that wait for their removal and were not looked into yet.
    pub(super) retired: Mutex<Vec<RetiredPack>>,
    sealers: Mutex<LruCache<u32, Arc<Sealer>>>,
    cache: Mutex<SegmentCache>,
    buffers: Arc<Buffers>,
    decoders: Mutex<Vec<Decoder>>,
}

/// Working memory of one thread that decodes.
pub(super) struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    scratch: Vec<u8>,
}

impl Decoder {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            zstd: zstd::bulk::Decompressor::new()
                .map_err(|e| VaultError::Internal(format!("zstd: {e}")))?,
            scratch: Vec::new(),
        })
    }
}

impl Fetcher {
    /// Must be called on the async runtime.
    pub(super) fn new(
        vault: Vault,
        manifest: Arc<Manifest>,
        chunks: Arc<RwLock<ChunkIndex>>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            vault,
            manifest,
            runtime: Handle::current(),
            cancel,
            salvage: false,
            chunks,
            lost: Mutex::new(None),
            retired: Mutex::default(),
            sealers: Mutex::new(LruCache::new(SEALERS)),
            cache: Mutex::new(SegmentCache::new(CACHE_BYTES)),
            buffers: Arc::default(),
            decoders: Mutex::default(),
        }
    }

    /// Another one over the same vault that can be stopped by itself.
    pub(super) fn stoppable(&self) -> Self {
        Self {
            vault: self.vault.clone(),
            manifest: self.manifest.clone(),
            runtime: self.runtime.clone(),
            cancel: self.cancel.child_token(),
            salvage: self.salvage,
            chunks: self.chunks.clone(),
            lost: Mutex::new(None),
            retired: Mutex::new(lock(&self.retired).clone()),
            sealers: Mutex::new(LruCache::new(SEALERS)),
            cache: Mutex::new(SegmentCache::new(CACHE_BYTES)),
            buffers: Arc::default(),
            decoders: Mutex::default(),
        }
    }

    /// The manifest object's name.
    pub(super) fn manifest_name(&self) -> String {
        ManifestRef {
            backup_id: self.manifest.backup_id.clone(),
            attempt: self.manifest.attempt,
            digest: None,
        }
        .name()
    }

    /// The manifest, or what it refers to, contradicts itself.
    pub(super) fn malformed(&self, what: impl Into<String>) -> VaultError {
        VaultError::corrupt(self.manifest_name(), what)
    }

    pub(super) fn check_cancel(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(VaultError::Canceled);
        }
        Ok(())
    }

    /// Waits for a future, unless canceled. Blocks.
    pub(super) fn wait<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(VaultError::Canceled),
                done = future => done,
            }
        })
    }

    /// Where a chunk lies, if it does.
    pub(super) fn look_up(&self, id: &ChunkId) -> Option<Place> {
        let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let (number, at) = chunks.find(id)?;
        let segment = *chunks.segments.get(at.segment as usize)?;
        // A segment that is still being written has no pack yet.
        let pack = *chunks.packs.get(segment.pack as usize)?;
        Some(Place {
            number,
            at,
            segment,
            pack,
        })
    }

    /// Where a chunk lies; an error says what is missing. Blocks.
    pub(super) fn place(&self, id: &ChunkId) -> Result<Place> {
        if let Some(place) = self.look_up(id) {
            return Ok(place);
        }
        if self.look_into_retired()?
            && let Some(place) = self.look_up(id)
        {
            return Ok(place);
        }
        Err(self.explain_lost(id))
    }

    /// Takes in the packs that wait for their removal. A compaction that lost its
    /// lease, and did not know, may have retired what a newer backup needs; the
    /// next compaction copies it, until then it is read from there. Whether there
    /// were any. Blocks.
    fn look_into_retired(&self) -> Result<bool> {
        let mut retired = lock(&self.retired);
        if retired.is_empty() {
            return Ok(false);
        }
        self.wait(async {
            let packs = self.vault.read_retired(&retired).await?;
            let mut chunks = self.chunks.write().unwrap_or_else(PoisonError::into_inner);
            for (pack, toc) in &packs {
                chunks.add_pack(*pack, toc);
            }
            Ok(())
        })?;
        retired.clear();
        Ok(true)
    }

    /// A chunk's bytes, checked. Blocks.
    pub(super) fn chunk(&self, id: &ChunkId) -> Result<Bytes> {
        self.check_cancel()?;
        let place = self.place(id)?;
        self.chunk_at(&place, id)
            .or_else(|error| self.chunk_elsewhere(id, error))
    }

    /// A chunk from another of its places, where what is damaged is gone around;
    /// without one, the error that the first place gave. Blocks.
    pub(super) fn chunk_elsewhere(&self, id: &ChunkId, error: VaultError) -> Result<Bytes> {
        if !self.salvage || !error.is_fault() {
            return Err(error);
        }
        let places: Vec<Place> = {
            let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
            let Some((number, _)) = chunks.find(id) else {
                return Err(error);
            };
            let place = |at: &Location| {
                let segment = *chunks.segments.get(at.segment as usize)?;
                let pack = *chunks.packs.get(segment.pack as usize)?;
                Some(Place {
                    number,
                    at: *at,
                    segment,
                    pack,
                })
            };
            chunks.further(id).iter().filter_map(place).collect()
        };
        for place in places {
            match self.chunk_at(&place, id) {
                Err(other) if other.is_fault() => {}
                found => return found,
            }
        }
        Err(error)
    }

    fn chunk_at(&self, place: &Place, id: &ChunkId) -> Result<Bytes> {
        let cached = lock(&self.cache).get(place.at.segment);
        let segment = if let Some(segment) = cached {
            segment
        } else {
            let sealed = self.wait(read_pack(
                self.vault.clone(),
                place.pack,
                place.segment.offset,
                u64::from(place.segment.stored_bytes),
            ))?;
            let mut decoder = lock(&self.decoders).pop().map_or_else(Decoder::new, Ok)?;
            let decoded = self.decode(&mut decoder, &place.segment, &place.pack, &sealed);
            lock(&self.decoders).push(decoder);
            let decoded = decoded?;
            lock(&self.cache).put(place.at.segment, decoded.clone());
            decoded
        };
        self.check_chunk(place, &segment, id)?;
        Ok(segment.slice(place.range()))
    }

    /// Compares a chunk in its decoded segment with its whole id.
    pub(super) fn check_chunk(&self, place: &Place, segment: &[u8], id: &ChunkId) -> Result<()> {
        let name = pack_name(&place.pack.id);
        let key = self.vault.keys.by_id(&place.pack.key_id, &name)?;
        let same = segment
            .get(place.range())
            .is_some_and(|chunk| key.chunk_id(chunk) == *id);
        if same {
            return Ok(());
        }
        Err(VaultError::corrupt(
            name,
            format!(
                "chunk {} in segment {} is not what its id says",
                hex::encode(&id[..8]),
                place.segment.position
            ),
        ))
    }

    /// Opens and decompresses a segment.
    pub(super) fn decode(
        &self,
        decoder: &mut Decoder,
        segment: &SegmentAt,
        pack: &PackAt,
        sealed: &[u8],
    ) -> Result<Bytes> {
        let sealer = self.sealer(segment.pack, pack)?;
        let position = u64::from(segment.position);
        let raw_bytes = segment.raw_bytes as usize;
        let mut out = self.buffers.take(raw_bytes);
        if segment.compressed {
            decoder.scratch.clear();
            decoder.scratch.extend_from_slice(sealed);
            let plain = sealer.open(&mut decoder.scratch, position, false)?;
            decoder
                .zstd
                .decompress_to_buffer(plain, &mut out)
                .map_err(|_| self.bad_segment(pack, segment, "does not decompress"))?;
        } else {
            out.extend_from_slice(sealed);
            let plain_bytes = sealer.open(&mut out, position, false)?.len();
            out.truncate(plain_bytes);
        }
        if out.len() != raw_bytes {
            return Err(self.bad_segment(pack, segment, "has another length than its pack says"));
        }
        Ok(share(out, &self.buffers))
    }

    #[allow(clippy::unused_self)] // reads better where it is called
    fn bad_segment(&self, pack: &PackAt, segment: &SegmentAt, what: &str) -> VaultError {
        VaultError::corrupt(
            pack_name(&pack.id),
            format!("segment {} {what}", segment.position),
        )
    }

    fn sealer(&self, number: u32, pack: &PackAt) -> Result<Arc<Sealer>> {
        if let Some(sealer) = lock(&self.sealers).get(&number) {
            return Ok(sealer.clone());
        }
        let name = pack_name(&pack.id);
        let key = self.vault.keys.by_id(&pack.key_id, &name)?;
        let header = Header {
            kind: Kind::Pack,
            key_id: pack.key_id,
            salt: pack.id,
        };
        let sealer = Arc::new(Sealer::new(key, &header, &name));
        lock(&self.sealers).put(number, sealer.clone());
        Ok(sealer)
    }
}

/// Reads a part of a pack, all of it.
pub(super) async fn read_pack(
    vault: Vault,
    pack: PackAt,
    offset: u64,
    length: u64,
) -> Result<Bytes> {
    let name = pack_name(&pack.id);
    let full = format!("{}{name}", vault.root);
    match vault.store.get_range(&full, offset, length).await {
        Ok(bytes) if bytes.len() as u64 == length => Ok(bytes),
        Ok(_) => Err(VaultError::corrupt(name, "cut short")),
        Err(e) if e.kind == StoreErrorKind::NotFound => Err(VaultError::Missing { object: name }),
        Err(e) => Err(e.into()),
    }
}

/// Chunks that were checked already, so that repeated ones are hashed once.
#[derive(Default)]
pub(super) struct Checked(HashMap<u32, ChunkId>);

impl Checked {
    pub(super) fn check(
        &mut self,
        fetcher: &Fetcher,
        place: &Place,
        segment: &[u8],
        id: &ChunkId,
    ) -> Result<()> {
        if self.0.get(&place.number) == Some(id) {
            return Ok(());
        }
        fetcher.check_chunk(place, segment, id)?;
        self.0.insert(place.number, *id);
        Ok(())
    }
}
