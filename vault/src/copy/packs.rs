//! Packs on their way from one destination to another; and what of them can't go as it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use proto::vault::v1::IndexedPack;
use tokio::runtime::Handle;
use tracing::warn;

use super::{Copying, plan::Part, there};
use crate::{
    error::{Result, StoreErrorKind, VaultError},
    index::BitSet,
    limits::{PACK_BYTES_MAX, TRANSFERS_MAX},
    meter::Meter,
    pack::{check_whole, pack_name},
    read::{BackupReader, blocking},
    vault::Vault,
    write::{Repacked, Repacker},
};

/// How often a pack is read before it counts as damaged: a fault on the way is none of it.
const READS_MAX: u32 = 2;

/// What became of a pack.
enum Transferred {
    /// It is stored at the target.
    Stored(IndexedPack),
    /// It is not what was written.
    Damaged(Part),
}

impl Copying {
    /// Brings to the target what it lacks.
    pub(super) async fn copy_packs(&mut self) -> Result<()> {
        let parts = std::mem::take(&mut self.plan.packs).into_values();
        let is_retired = |part: &Part| self.retired_ids.contains(&part.pack.id);
        let (mut again, whole): (Vec<_>, Vec<_>) = parts.partition(is_retired);
        let total: u64 = whole.iter().map(|part| part.pack.bytes).sum();
        let total = total + self.bytes_of(&again);
        self.meter.bytes_total.fetch_max(total, Relaxed);
        let (source, target) = (self.source.clone(), self.target.clone());
        let mut transfers = stream::iter(whole)
            .map(move |part| transfer(source.clone(), target.clone(), part))
            .buffer_unordered(TRANSFERS_MAX);
        while let Some(done) = transfers.next().await {
            match done? {
                Transferred::Stored(pack) => {
                    self.report.packs += 1;
                    self.meter.add_bytes(pack.pack_bytes);
                    self.count_stored(pack.pack_bytes);
                    self.list_pack(pack).await?;
                }
                Transferred::Damaged(part) => {
                    self.meter.add_bytes(part.pack.bytes);
                    let bytes = self.bytes_of(std::slice::from_ref(&part));
                    self.meter.bytes_total.fetch_add(bytes, Relaxed);
                    again.push(part);
                }
            }
        }
        if again.is_empty() {
            return Ok(());
        }
        self.report.repacked_packs = again.len() as u64;
        self.repack(again).await
    }

    /// Length of what is lacking of these packs.
    fn bytes_of(&self, parts: &[Part]) -> u64 {
        let index = self.reader.chunk_index();
        let chunks = parts.iter().flat_map(|part| &part.chunks);
        chunks.map(|n| u64::from(index.location(*n).bytes)).sum()
    }

    /// Reads what the backup needs of these packs, and puts it into new ones.
    async fn repack(&mut self, parts: Vec<Part>) -> Result<()> {
        let repacking = Repacking {
            target: self.target.clone(),
            reader: self.reader.clone(),
            meta: self.plan.meta.clone(),
            meter: self.meter.clone(),
        };
        let repacked = blocking(move || repacking.run(parts, &Handle::current())).await?;
        // The meter has counted it.
        self.report.stored_bytes += repacked.stored_bytes;
        for pack in repacked.packs {
            self.list_pack(pack).await?;
        }
        Ok(())
    }

    /// Notes a pack for the index. Long copies index as they go: memory stays bounded, and
    /// packs of an interrupted copy need not be read to be known.
    async fn list_pack(&mut self, pack: IndexedPack) -> Result<()> {
        let toc = pack.table_of_contents.as_ref();
        self.unindexed_chunks +=
            toc.map_or(0, |t| t.segments.iter().map(|s| s.chunk_bytes.len()).sum());
        self.unindexed.push(pack);
        if self.unindexed_chunks >= self.target.settings.index_chunks_max {
            self.write_index().await?;
        }
        Ok(())
    }
}

/// Copies a pack as it is, if it is what was written.
fn transfer(source: Vault, target: Vault, part: Part) -> BoxFuture<'static, Result<Transferred>> {
    async move {
        let mut tries = 0;
        let (bytes, pack) = loop {
            tries += 1;
            match read_whole(&source, &part.pack.id).await {
                Ok(read) => break read,
                Err(VaultError::Missing { .. } | VaultError::Corrupt { .. })
                    if tries < READS_MAX => {}
                Err(error @ (VaultError::Missing { .. } | VaultError::Corrupt { .. })) => {
                    warn!(agent_id = %source.agent_id, %error, "pack is not readable as it should be; what the backup needs of it is copied by itself");
                    return Ok(Transferred::Damaged(part));
                }
                Err(error) => return Err(error),
            }
        };
        let full = format!("{}{}", target.root, pack_name(&part.pack.id));
        let put = target.store.put(&full, bytes).await;
        put.map_err(|error| there(error.into()))?;
        fail::fail_point!("vault-copy-pack-stored");
        Ok(Transferred::Stored(pack))
    }
    .boxed()
}

/// Reads a pack and opens all of it.
async fn read_whole(source: &Vault, id: &[u8; 32]) -> Result<(Bytes, IndexedPack)> {
    let object = pack_name(id);
    let full = format!("{}{object}", source.root);
    let bytes = match source.store.get(&full, PACK_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind == StoreErrorKind::NotFound => {
            return Err(VaultError::Missing { object });
        }
        Err(error) => return Err(error.into()),
    };
    let (keys, id) = (source.keys.clone(), *id);
    blocking(move || {
        let (toc, key_id) = check_whole(&keys, &id, &bytes)?;
        let pack = IndexedPack {
            pack_id: id.to_vec(),
            pack_bytes: bytes.len() as u64,
            table_of_contents: Some(toc),
            key_id: key_id.to_vec(),
        };
        Ok((bytes, pack))
    })
    .await
}

/// The work of putting chunks into new packs, on a thread of its own.
struct Repacking {
    target: Vault,
    reader: BackupReader,
    meta: BitSet,
    meter: Arc<Meter>,
}

impl Repacking {
    fn run(self, parts: Vec<Part>, runtime: &Handle) -> Result<Repacked> {
        // New packs are sealed under the key that keys the ids of their chunks.
        let mut by_key: BTreeMap<[u8; 16], Vec<u32>> = BTreeMap::new();
        for part in parts {
            let chunks = by_key.entry(part.pack.key_id).or_default();
            chunks.extend(part.chunks);
        }
        let mut all = Repacked::default();
        for (key_id, chunks) in by_key {
            let key = self.target.keys.by_id(&key_id, "packs/").map_err(there)?;
            let repacker = Repacker::start(&self.target, key, runtime, self.meter.clone());
            let mut repacker = repacker.map_err(there)?;
            for number in chunks {
                let id = self.reader.chunk_index().id(number);
                let chunk = self.reader.chunk(&id)?;
                let pushed = repacker.push(&id, &chunk, self.meta.contains(number));
                pushed.map_err(there)?;
                self.meter.add_bytes(chunk.len() as u64);
            }
            let repacked = repacker.finish().map_err(there)?;
            all.packs.extend(repacked.packs);
            all.stored_bytes += repacked.stored_bytes;
        }
        Ok(all)
    }
}
