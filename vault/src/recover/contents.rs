//! Every place of every chunk, the likely good ones first.

use std::collections::{HashMap, HashSet};

use proto::vault::v1::{Index, TableOfContents};

use crate::{
    error::{Result, VaultError},
    index::{ChunkIndex, PackAt},
    pack::{pack_name, read_toc},
    vault::Vault,
};

/// A pack as some list of contents knows it.
struct Known {
    at: PackAt,
    toc: TableOfContents,
}

/// Where chunks lie, and which lists of contents can't be read. Unlike other
/// readers, this takes in indexes that were replaced, packs that wait for their
/// removal, and packs of another length than was written: what of them can't be
/// read shows when it is read.
pub(super) async fn every_place(vault: &Vault) -> Result<(ChunkIndex, Vec<VaultError>)> {
    let mut damage = Vec::new();
    let stored: HashMap<[u8; 32], u64> = vault.list_ids("packs/").await?.into_iter().collect();
    let (current, replaced) = indexes(vault, &mut damage).await?;
    let mut retired: HashSet<[u8; 32]> = HashSet::new();
    for pack in current.iter().flat_map(|index| &index.retired_packs) {
        retired.extend(<[u8; 32]>::try_from(&pack.pack_id[..]).ok());
    }
    let mut known: HashMap<[u8; 32], Known> = HashMap::new();
    for index in current.into_iter().chain(replaced) {
        for pack in index.packs {
            if let Some(pack) = of_index(pack) {
                known.entry(pack.at.id).or_insert(pack);
            }
        }
    }
    let (mut whole, mut doubtful) = (Vec::new(), Vec::new());
    for (id, bytes) in &stored {
        let pack = match known.remove(id) {
            Some(pack) => pack,
            None => match own_contents(vault, id, *bytes).await {
                Ok(pack) => pack,
                Err(error) if error.is_fault() => {
                    damage.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        if pack.at.bytes == *bytes && !retired.contains(id) {
            whole.push(pack);
        } else {
            if pack.at.bytes != *bytes {
                let what = format!("{bytes} bytes long instead of {}", pack.at.bytes);
                damage.push(VaultError::corrupt(pack_name(id), what));
            }
            doubtful.push(pack);
        }
    }
    let mut chunks = ChunkIndex::of_all_places();
    // The order does not depend on how a listing comes.
    for packs in [&mut whole, &mut doubtful] {
        packs.sort_by_key(|pack| pack.at.id);
        for pack in packs.iter() {
            chunks.add_pack(pack.at, &pack.toc);
        }
    }
    Ok((chunks, damage))
}

/// All indexes that can be read: those that count, and those that others replace.
async fn indexes(vault: &Vault, damage: &mut Vec<VaultError>) -> Result<(Vec<Index>, Vec<Index>)> {
    let mut read = Vec::new();
    for (id, _) in vault.list_ids("indexes/").await? {
        match vault.read_index(&id).await {
            Ok(index) => read.push((id, index)),
            Err(error) if error.is_fault() => damage.push(error),
            Err(error) => return Err(error),
        }
    }
    let replaced: HashSet<Vec<u8>> = read
        .iter()
        .flat_map(|(_, index)| index.replaces.iter().cloned())
        .collect();
    let (old, current): (Vec<_>, Vec<_>) = read
        .into_iter()
        .partition(|(id, _)| replaced.contains(&id[..]));
    let indexes = |list: Vec<([u8; 32], Index)>| list.into_iter().map(|(_, index)| index).collect();
    Ok((indexes(current), indexes(old)))
}

fn of_index(pack: proto::vault::v1::IndexedPack) -> Option<Known> {
    Some(Known {
        at: PackAt {
            id: pack.pack_id.try_into().ok()?,
            key_id: pack.key_id.try_into().ok()?,
            bytes: pack.pack_bytes,
        },
        toc: pack.table_of_contents?,
    })
}

/// A pack as the table at its own end tells.
async fn own_contents(vault: &Vault, id: &[u8; 32], bytes: u64) -> Result<Known> {
    let (toc, key_id) = read_toc(&*vault.store, &vault.root, &vault.keys, id, bytes).await?;
    let id = *id;
    Ok(Known {
        at: PackAt { id, key_id, bytes },
        toc,
    })
}
