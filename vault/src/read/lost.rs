//! What is said when a chunk is nowhere: which object is missing or damaged.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError},
};

use super::{buffers::lock, fetch::Fetcher};
use crate::{
    error::{Result, VaultError},
    id::ChunkId,
    limits::CHUNK_ID_BYTES,
    pack::{pack_name, read_toc},
};

/// Packs that can't be read from, and what they held as far as indexes tell.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// The number of a chunk's pack in `packs`.
    chunks: HashMap<ChunkId, usize>,
    packs: Vec<VaultError>,
    /// A pack that the manifest names and that can't be read, whatever it held.
    named: Option<VaultError>,
}

impl Fetcher {
    /// The error for a chunk that the index does not know. Blocks.
    pub(super) fn explain_lost(&self, id: &ChunkId) -> VaultError {
        let known = lock(&self.lost).clone();
        let lost = match known {
            Some(lost) => lost,
            None => match self.wait(self.find_lost()) {
                Ok(lost) => {
                    let lost = Arc::new(lost);
                    *lock(&self.lost) = Some(lost.clone());
                    lost
                }
                Err(error) => return error,
            },
        };
        let pack = lost.chunks.get(id).map(|pack| &lost.packs[*pack]);
        match pack.or(lost.named.as_ref()) {
            Some(error) => error.again(),
            None => self.malformed(format!(
                "it needs chunk {}, which is in no pack of the vault",
                hex::encode(&id[..8])
            )),
        }
    }

    /// Looks for packs that indexes or the manifest name and that are not there.
    async fn find_lost(&self) -> Result<Lost> {
        let readable: HashSet<[u8; 32]> = self
            .chunks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .packs
            .iter()
            .map(|pack| pack.id)
            .collect();
        let mut lost = Lost::default();
        for (index_id, _) in self.vault.list_ids("indexes/").await? {
            let index = match self.vault.read_index(&index_id).await {
                Ok(index) => index,
                Err(error @ VaultError::Store(_)) if !error.is_fault() => return Err(error),
                // A damaged index tells nothing; the manifest may.
                Err(_) => continue,
            };
            for pack in index.packs {
                let Ok(id) = <[u8; 32]>::try_from(&pack.pack_id[..]) else {
                    continue;
                };
                if readable.contains(&id) {
                    continue;
                }
                let number = lost.packs.len();
                lost.packs.push(self.what_is_wrong(&id).await?);
                for segment in pack.table_of_contents.iter().flat_map(|t| &t.segments) {
                    for chunk in segment.chunk_ids.chunks_exact(CHUNK_ID_BYTES) {
                        let chunk = chunk.try_into().expect("chunks_exact");
                        lost.chunks.insert(chunk, number);
                    }
                }
            }
        }
        for id in self.manifest.pack_ids.chunks_exact(32) {
            let id: [u8; 32] = id.try_into().expect("chunks_exact");
            if !readable.contains(&id) {
                lost.named = Some(self.what_is_wrong(&id).await?);
                break;
            }
        }
        Ok(lost)
    }

    async fn what_is_wrong(&self, id: &[u8; 32]) -> Result<VaultError> {
        let object = pack_name(id);
        let full = format!("{}{object}", self.vault.root);
        let Some(bytes) = self.vault.store.stat(&full).await? else {
            return Ok(VaultError::Missing { object });
        };
        let store = &*self.vault.store;
        let read = read_toc(store, &self.vault.root, &self.vault.keys, id, bytes).await;
        match read {
            Err(error) if error.is_fault() => Ok(error),
            Err(error) => Err(error),
            Ok(_) => Ok(VaultError::corrupt(
                object,
                "it was replaced while the backup was open",
            )),
        }
    }
}
