//! From full segments to stored packs: compressors, the packer, uploads.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use proto::vault::v1::{Compression, IndexedPack};
use tokio::{runtime::Handle, task};

use super::segment::{Compressor, RawSegment};
use crate::{
    error::{Result, VaultError},
    index::{ChunkIndex, PackAt, SegmentAt},
    keyring::DataKey,
    limits::UPLOADS_MAX,
    meter::Meter,
    pack::{CompressedSegment, FinishedPack, PackBuilder, pack_name},
    vault::Vault,
};

/// The running stages. Dropped unfinished, it stops them and waits for them.
pub(super) struct Pipeline {
    submit: Option<Sender<(u64, RawSegment)>>,
    next: u64,
    spare: Receiver<Vec<u8>>,
    threads: Vec<JoinHandle<()>>,
    packer: Option<JoinHandle<Result<Packed>>>,
    shared: Arc<Shared>,
}

/// What the stages leave: packs that are stored and in no index yet.
pub(super) struct Packed {
    pub packs: Vec<IndexedPack>,
    /// Index objects that were written on the way.
    pub index_ids: Vec<[u8; 32]>,
    pub stored_bytes: u64,
}

/// What the stages share.
struct Shared {
    failure: OnceLock<VaultError>,
    abandoned: AtomicBool,
}

impl Shared {
    fn fail(&self, error: VaultError) {
        // The first failure is the cause; later ones follow from it.
        let _ = self.failure.set(error);
        self.abandoned.store(true, Relaxed);
    }

    fn failure(&self) -> VaultError {
        let ended = || VaultError::Internal("a stage of the write pipeline ended early".to_owned());
        self.failure.get().map_or_else(ended, VaultError::again)
    }
}

/// A compressed segment on its way to the packer.
struct ToPack {
    sequence: u64,
    number: u32,
    segment: CompressedSegment,
}

impl Pipeline {
    /// Packs are sealed under `key`, which also keys the ids of the chunks to come.
    pub(super) fn start(
        vault: &Vault,
        key: &DataKey,
        chunks: &Arc<RwLock<ChunkIndex>>,
        runtime: &Handle,
        meter: Arc<Meter>,
    ) -> Result<Self> {
        let compressors = vault.settings.threads();
        let shared = Arc::new(Shared {
            failure: OnceLock::new(),
            abandoned: AtomicBool::new(false),
        });
        let (submit, submitted) = bounded::<(u64, RawSegment)>(compressors);
        let (pack, to_pack) = bounded::<ToPack>(compressors);
        let (give_back, spare) = bounded::<Vec<u8>>(2 * compressors + 2);
        let mut threads = Vec::new();
        for number in 0..compressors {
            let mut compressor = Compressor::new(vault.settings.compression_level)?;
            let (submitted, pack, give_back) = (submitted.clone(), pack.clone(), give_back.clone());
            let shared = shared.clone();
            let work = move || {
                for (sequence, segment) in submitted {
                    let number = segment.number;
                    match compressor.compress(segment) {
                        Ok((segment, buffer)) => {
                            if buffer.capacity() > 0 {
                                // A full channel means spares enough.
                                let _ = give_back.try_send(buffer);
                            }
                            if pack
                                .send(ToPack {
                                    sequence,
                                    number,
                                    segment,
                                })
                                .is_err()
                            {
                                return;
                            }
                        }
                        Err(error) => return shared.fail(error),
                    }
                }
            };
            threads.push(spawn(format!("compress-{number}"), work)?);
        }
        drop((submitted, pack, give_back));
        let packer = Packer {
            vault: vault.clone(),
            key: key.clone(),
            chunks: chunks.clone(),
            runtime: runtime.clone(),
            meter,
            shared: shared.clone(),
            open: None,
            uploads: VecDeque::new(),
            stored: Packed {
                packs: Vec::new(),
                index_ids: Vec::new(),
                stored_bytes: 0,
            },
            chunks_unindexed: 0,
        };
        let packer = spawn("pack".to_owned(), move || packer.run(to_pack))?;
        Ok(Self {
            submit: Some(submit),
            next: 0,
            spare,
            threads,
            packer: Some(packer),
            shared,
        })
    }

    /// A buffer for the next segment, used before or new.
    pub(super) fn spare_buffer(&self) -> Vec<u8> {
        self.spare.try_recv().unwrap_or_default()
    }

    /// Hands over a full segment; waits while the stages are busy.
    pub(super) fn submit(&mut self, segment: RawSegment) -> Result<()> {
        let sequence = self.next;
        self.next += 1;
        let sent = self
            .submit
            .as_ref()
            .is_some_and(|submit| submit.send((sequence, segment)).is_ok());
        if sent && self.shared.failure.get().is_none() {
            Ok(())
        } else {
            Err(self.shared.failure())
        }
    }

    /// Waits until everything is stored.
    pub(super) fn finish(mut self) -> Result<Packed> {
        self.submit = None;
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| VaultError::Internal("a compressor panicked".to_owned()))?;
        }
        let packer = self.packer.take().expect("finish is called once");
        let packed = packer
            .join()
            .map_err(|_| VaultError::Internal("the packer panicked".to_owned()))?;
        match self.shared.failure.get() {
            Some(error) => Err(error.again()),
            None => packed,
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Relaxed);
        self.submit = None;
        for thread in self.threads.drain(..) {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
        if let Some(packer) = self.packer.take() {
            let _ = packer.join();
        }
    }
}

fn spawn<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    thread::Builder::new()
        .name(name)
        .spawn(work)
        .map_err(|e| VaultError::Internal(format!("start a thread: {e}")))
}

/// Puts segments in order, seals them into packs, and sends these off.
struct Packer {
    vault: Vault,
    key: DataKey,
    chunks: Arc<RwLock<ChunkIndex>>,
    runtime: Handle,
    meter: Arc<Meter>,
    shared: Arc<Shared>,
    open: Option<(PackBuilder, Vec<u32>)>,
    uploads: VecDeque<Upload>,
    stored: Packed,
    chunks_unindexed: usize,
}

/// A pack on its way.
struct Upload {
    put: AbortOnDrop,
    pack: IndexedPack,
    /// The numbers of its segments, in its order.
    numbers: Vec<u32>,
}

struct AbortOnDrop(task::JoinHandle<Result<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Packer {
    fn run(mut self, to_pack: Receiver<ToPack>) -> Result<Packed> {
        let done = self.pack_all(to_pack);
        if let Err(error) = &done {
            self.shared.fail(error.again());
        }
        done.map(|()| self.stored)
    }

    fn pack_all(&mut self, to_pack: Receiver<ToPack>) -> Result<()> {
        let mut early: BTreeMap<u64, ToPack> = BTreeMap::new();
        let mut next = 0;
        for arrived in to_pack {
            early.insert(arrived.sequence, arrived);
            while let Some(segment) = early.remove(&next) {
                next += 1;
                self.pack_segment(segment)?;
            }
            if self.shared.abandoned.load(Relaxed) {
                return Err(VaultError::Canceled);
            }
        }
        if self.shared.abandoned.load(Relaxed) {
            return Err(VaultError::Canceled);
        }
        self.send_off()?;
        while !self.uploads.is_empty() {
            self.settle_oldest()?;
        }
        Ok(())
    }

    fn pack_segment(&mut self, arrived: ToPack) -> Result<()> {
        let key = &self.key;
        let (pack, numbers) = self
            .open
            .get_or_insert_with(|| (PackBuilder::new(key), Vec::new()));
        pack.push(arrived.segment)?;
        numbers.push(arrived.number);
        if pack.is_full() {
            self.send_off()
        } else {
            Ok(())
        }
    }

    /// Finishes the open pack and starts its upload.
    fn send_off(&mut self) -> Result<()> {
        let Some((pack, numbers)) = self.open.take() else {
            return Ok(());
        };
        while self.uploads.len() >= UPLOADS_MAX {
            self.settle_oldest()?;
        }
        let FinishedPack {
            id,
            key_id,
            bytes,
            toc,
        } = pack.finish()?;
        let pack = IndexedPack {
            pack_id: id.to_vec(),
            pack_bytes: bytes.len() as u64,
            table_of_contents: Some(toc),
            key_id: key_id.to_vec(),
        };
        let store = self.vault.store.clone();
        let name = format!("{}{}", self.vault.root, pack_name(&id));
        let put = self
            .runtime
            .spawn(async move { Ok(store.put(&name, Bytes::from(bytes)).await?) });
        self.uploads.push_back(Upload {
            put: AbortOnDrop(put),
            pack,
            numbers,
        });
        Ok(())
    }

    /// Waits for the oldest upload and enters its pack in the index.
    fn settle_oldest(&mut self) -> Result<()> {
        let Some(mut upload) = self.uploads.pop_front() else {
            return Ok(());
        };
        self.runtime
            .block_on(&mut upload.put.0)
            .map_err(|e| VaultError::Internal(format!("upload a pack: {e}")))??;
        // On this thread, not in the upload: a pause must not hold up the runtime.
        fail::fail_point!("vault-pack-stored");
        let toc = upload
            .pack
            .table_of_contents
            .as_ref()
            .expect("send_off sets it");
        self.stored.stored_bytes += upload.pack.pack_bytes;
        self.meter
            .stored_bytes
            .fetch_add(upload.pack.pack_bytes, Relaxed);
        {
            let mut chunks = self
                .chunks
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let pack_number = chunks.packs.len() as u32;
            chunks.packs.push(PackAt {
                id: upload.pack.pack_id[..].try_into().expect("32 bytes"),
                key_id: upload.pack.key_id[..].try_into().expect("16 bytes"),
                bytes: upload.pack.pack_bytes,
            });
            for (position, (number, segment)) in
                upload.numbers.iter().zip(&toc.segments).enumerate()
            {
                chunks.segments[*number as usize] = SegmentAt {
                    pack: pack_number,
                    position: position as u32,
                    offset: segment.offset_bytes,
                    stored_bytes: segment.stored_bytes,
                    raw_bytes: segment.raw_bytes,
                    compressed: segment.compression() == Compression::Zstd,
                };
            }
        }
        self.chunks_unindexed += toc
            .segments
            .iter()
            .map(|s| s.chunk_bytes.len())
            .sum::<usize>();
        self.stored.packs.push(upload.pack);
        if self.chunks_unindexed >= self.vault.settings.index_chunks_max {
            // Long jobs index as they go: memory stays bounded, and an
            // interrupted attempt's packs need not be read to be known.
            let packs = std::mem::take(&mut self.stored.packs);
            let (ids, bytes) =
                self.runtime
                    .block_on(self.vault.write_indexes(packs, Vec::new(), Vec::new()))?;
            self.stored.index_ids.extend(ids);
            self.stored.stored_bytes += bytes;
            self.chunks_unindexed = 0;
        }
        Ok(())
    }
}
