//! What is live in the packs that go, into new packs.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
};

use proto::vault::v1::{Manifest, TableOfContents};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Compaction, Survey, mark::Marked, plan::Plan};
use crate::{
    error::{Result, VaultError},
    id::ChunkId,
    index::{ChunkIndex, Location},
    limits::CHUNK_ID_BYTES,
    pack::{pack_name, read_toc},
    read::{BackupReader, blocking},
    vault::Vault,
    write::{Repacked, Repacker},
};

/// What was copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// The new packs.
    pub repacked: Repacked,
    /// Numbers of packs that can't be read as they should; they stay.
    pub damaged: HashSet<usize>,
}

/// The work of copying, on a thread of its own.
struct Copier {
    vault: Vault,
    reader: BackupReader,
    marked: Marked,
    chunks: Arc<std::sync::RwLock<ChunkIndex>>,
    cancel: CancellationToken,
    meter: Arc<crate::meter::Meter>,
    copied: Copied,
}

impl Compaction {
    /// Copies the live chunks of the packs that go.
    pub(super) async fn copy(
        &mut self,
        survey: &Survey,
        plan: &Plan,
        marked: Marked,
    ) -> Result<Copied> {
        let mut by_key: BTreeMap<[u8; 16], Vec<usize>> = BTreeMap::new();
        let mut bytes = 0;
        for number in plan.to_copy() {
            let used = &plan.uses[number];
            by_key.entry(used.key_id).or_default().push(number);
            bytes += used.live_bytes;
        }
        if by_key.is_empty() {
            return Ok(Copied::default());
        }
        self.meter.bytes_total.fetch_max(bytes, Relaxed);
        let copier = Copier {
            vault: self.vault.clone(),
            reader: BackupReader::new(
                self.vault.clone(),
                Manifest::default(),
                survey.contents.chunks.clone(),
                self.cancel.clone(),
            ),
            marked,
            chunks: survey.contents.chunks.clone(),
            cancel: self.cancel.clone(),
            meter: self.meter.clone(),
            copied: Copied::default(),
        };
        let copied = blocking(move || copier.run(by_key, &Handle::current())).await?;
        let done = plan.to_copy().count() - copied.damaged.len();
        self.report.rewritten_packs = done as u64;
        Ok(copied)
    }
}

impl Copier {
    fn run(mut self, by_key: BTreeMap<[u8; 16], Vec<usize>>, runtime: &Handle) -> Result<Copied> {
        // New packs are sealed under the key that keys the ids of their chunks.
        for (key_id, numbers) in by_key {
            let key = self.vault.keys.by_id(&key_id, "packs/")?.clone();
            let mut repacker = Repacker::start(&self.vault, &key, runtime, self.meter.clone())?;
            for number in numbers {
                let copied = self.copy_pack(number, runtime, &mut repacker)?;
                if let Err(error) = copied {
                    warn!(agent_id = %self.vault.agent_id, %error, "pack is not readable as it should be; it stays");
                    self.copied.damaged.insert(number);
                }
            }
            let repacked = repacker.finish()?;
            self.copied.repacked.packs.extend(repacked.packs);
            self.copied.repacked.index_ids.extend(repacked.index_ids);
        }
        Ok(self.copied)
    }

    /// Copies what is live in one pack. The inner error is damage of that pack.
    fn copy_pack(
        &self,
        number: usize,
        runtime: &Handle,
        repacker: &mut Repacker,
    ) -> Result<Result<()>> {
        let pack = self.read_lock().packs[number];
        let (vault, store) = (&self.vault, &*self.vault.store);
        let toc = read_toc(store, &vault.root, &vault.keys, &pack.id, pack.bytes);
        let toc = match runtime.block_on(toc) {
            Ok((toc, _)) => toc,
            Err(error) => return damage_or_error(error),
        };
        for (id, is_meta) in self.live_chunks(number, &toc) {
            if self.cancel.is_cancelled() {
                return Err(VaultError::Canceled);
            }
            match self.reader.chunk(&id) {
                Ok(chunk) => {
                    repacker.push(&id, &chunk, is_meta)?;
                    self.meter.add_bytes(chunk.len() as u64);
                }
                Err(error) => return damage_or_error(error),
            }
        }
        tracing::debug!(pack = pack_name(&pack.id), "pack copied");
        Ok(Ok(()))
    }

    /// The live chunks whose place is in this pack, in its order; whether each
    /// describes contents.
    fn live_chunks(&self, number: usize, toc: &TableOfContents) -> Vec<(ChunkId, bool)> {
        let chunks = self.read_lock();
        let mut live = Vec::new();
        for (position, segment) in toc.segments.iter().enumerate() {
            let ids = segment.chunk_ids.chunks_exact(CHUNK_ID_BYTES);
            let mut offset = 0;
            for (id, bytes) in ids.zip(&segment.chunk_bytes) {
                let id: ChunkId = id.try_into().expect("chunks_exact");
                let found = chunks.find(&id).filter(|(chunk, at)| {
                    let is_here = is_place(&chunks, at, number, position) && at.offset == offset;
                    is_here && self.marked.live.contains(*chunk)
                });
                if let Some((chunk, _)) = found {
                    live.push((id, self.marked.meta.contains(chunk)));
                }
                offset += bytes;
            }
        }
        live
    }

    fn read_lock(&self) -> std::sync::RwLockReadGuard<'_, ChunkIndex> {
        self.chunks.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_place(chunks: &ChunkIndex, at: &Location, pack: usize, position: usize) -> bool {
    let segment = &chunks.segments[at.segment as usize];
    segment.pack as usize == pack && segment.position as usize == position
}

/// What is wrong with the pack, or with the work.
fn damage_or_error(error: VaultError) -> Result<Result<()>> {
    match error {
        VaultError::Corrupt { .. } | VaultError::Missing { .. } => Ok(Err(error)),
        error => Err(error),
    }
}
