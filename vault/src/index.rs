//! What the vault holds: which chunk lies where.
//!
//! In memory a chunk costs 28 bytes and its share of a hash table of 4-byte
//! numbers: under 40 bytes together.

use hashbrown::{HashMap, HashTable};
use proto::vault::v1::{Compression, TableOfContents};

use crate::{id::ChunkId, limits::CHUNK_ID_BYTES};

/// Chunks are kept in slabs of this many, so that growing never copies.
const SLAB: usize = 8192;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// Number of the segment in the index.
    pub segment: u32,
    /// Offset in the decompressed segment.
    pub offset: u32,
    /// Length of the chunk.
    pub bytes: u32,
}

#[derive(Clone, Copy)]
struct Slot {
    id: ChunkId,
    at: Location,
}

/// A segment as readers need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentAt {
    /// Number of the pack in the index; `u32::MAX` while the segment is being written.
    pub pack: u32,
    /// Number of the segment within its pack.
    pub position: u32,
    pub offset: u64,
    pub stored_bytes: u32,
    pub raw_bytes: u32,
    pub compressed: bool,
}

/// A pack as readers need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackAt {
    pub id: [u8; 32],
    pub key_id: [u8; 16],
    pub bytes: u64,
}

/// Which chunk lies where.
#[derive(Default)]
pub(crate) struct ChunkIndex {
    slabs: Vec<Vec<Slot>>,
    table: HashTable<u32>,
    /// Further places of chunks that are stored more than once, where they are kept.
    further: Option<HashMap<ChunkId, Vec<Location>>>,
    pub segments: Vec<SegmentAt>,
    pub packs: Vec<PackAt>,
}

fn hash(id: &ChunkId) -> u64 {
    // Chunk ids are uniformly distributed already.
    u64::from_le_bytes(id[..8].try_into().expect("8 bytes"))
}

impl ChunkIndex {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    fn slot(slabs: &[Vec<Slot>], number: u32) -> &Slot {
        &slabs[number as usize / SLAB][number as usize % SLAB]
    }

    /// The chunk's number, by which bit sets name it, and its place.
    pub(crate) fn find(&self, id: &ChunkId) -> Option<(u32, Location)> {
        let slabs = &self.slabs;
        let number = *self
            .table
            .find(hash(id), |n| Self::slot(slabs, *n).id == *id)?;
        Some((number, Self::slot(slabs, number).at))
    }

    /// A chunk's id by its number.
    pub(crate) fn id(&self, number: u32) -> ChunkId {
        Self::slot(&self.slabs, number).id
    }

    /// A chunk's place by its number.
    pub(crate) fn location(&self, number: u32) -> Location {
        Self::slot(&self.slabs, number).at
    }

    /// An empty index that keeps every place of a chunk, for when the first is damaged.
    pub(crate) fn of_all_places() -> Self {
        Self {
            further: Some(HashMap::new()),
            ..Self::default()
        }
    }

    /// The places of a chunk besides the first.
    pub(crate) fn further(&self, id: &ChunkId) -> &[Location] {
        let further = self.further.as_ref().and_then(|further| further.get(id));
        further.map_or(&[], Vec::as_slice)
    }

    /// Adds a chunk; the first place of a chunk stays. Returns whether it was new.
    pub(crate) fn insert(&mut self, id: &ChunkId, at: Location) -> bool {
        let number = self.table.len() as u32;
        let Self { slabs, table, .. } = self;
        let entry = table.entry(
            hash(id),
            |n| Self::slot(slabs, *n).id == *id,
            |n| hash(&Self::slot(slabs, *n).id),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(_) => {
                if let Some(further) = &mut self.further {
                    further.entry(*id).or_default().push(at);
                }
                false
            }
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                vacant.insert(number);
                if (number as usize).is_multiple_of(SLAB) {
                    // The first slab grows by itself: small vaults stay small.
                    slabs.push(if number == 0 {
                        Vec::new()
                    } else {
                        Vec::with_capacity(SLAB)
                    });
                }
                slabs
                    .last_mut()
                    .expect("a slab was pushed")
                    .push(Slot { id: *id, at });
                true
            }
        }
    }

    /// Takes over a pack's table of contents.
    pub(crate) fn add_pack(&mut self, pack: PackAt, toc: &TableOfContents) {
        let pack_number = self.packs.len() as u32;
        self.packs.push(pack);
        for (position, segment) in toc.segments.iter().enumerate() {
            let number = self.segments.len() as u32;
            self.segments.push(SegmentAt {
                pack: pack_number,
                position: position as u32,
                offset: segment.offset_bytes,
                stored_bytes: segment.stored_bytes,
                raw_bytes: segment.raw_bytes,
                compressed: segment.compression() == Compression::Zstd,
            });
            let mut offset = 0;
            for (id, bytes) in segment
                .chunk_ids
                .chunks_exact(CHUNK_ID_BYTES)
                .zip(&segment.chunk_bytes)
            {
                let id: &ChunkId = id.try_into().expect("chunks_exact");
                self.insert(
                    id,
                    Location {
                        segment: number,
                        offset,
                        bytes: *bytes,
                    },
                );
                offset += bytes;
            }
        }
    }

    /// Begins a segment that is still to be written.
    pub(crate) fn open_segment(&mut self) -> u32 {
        self.segments.push(SegmentAt {
            pack: u32::MAX,
            position: 0,
            offset: 0,
            stored_bytes: 0,
            raw_bytes: 0,
            compressed: false,
        });
        (self.segments.len() - 1) as u32
    }
}

impl std::fmt::Debug for ChunkIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ChunkIndex({} chunks, {} packs)",
            self.len(),
            self.packs.len()
        )
    }
}

/// A set of small numbers, one bit each.
#[derive(Debug, Default, Clone)]
pub(crate) struct BitSet(Vec<u64>);

impl BitSet {
    /// Adds a number; whether it was new.
    pub(crate) fn insert(&mut self, number: u32) -> bool {
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if word >= self.0.len() {
            self.0.resize((word + 1).max(self.0.len() * 2), 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// The numbers in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().enumerate().flat_map(|(word, bits)| {
            (0..64)
                .filter(move |bit| bits & (1 << bit) != 0)
                .map(move |bit| word as u32 * 64 + bit)
        })
    }

    pub(crate) fn contains(&self, number: u32) -> bool {
        self.0
            .get(number as usize / 64)
            .is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> ChunkId {
        blake3::hash(&n.to_le_bytes()).as_bytes()[..CHUNK_ID_BYTES]
            .try_into()
            .unwrap()
    }

    #[test]
    fn what_was_put_in_is_found_and_nothing_else() {
        let mut index = ChunkIndex::default();
        for n in 0..20_000 {
            assert!(index.insert(
                &id(n),
                Location {
                    segment: n,
                    offset: n,
                    bytes: 1
                }
            ));
        }
        assert!(!index.insert(
            &id(7),
            Location {
                segment: 0,
                offset: 0,
                bytes: 0
            }
        ));
        for n in 0..20_000 {
            assert_eq!(
                index.find(&id(n)).unwrap(),
                (
                    n,
                    Location {
                        segment: n,
                        offset: n,
                        bytes: 1
                    }
                )
            );
        }
        assert!(index.find(&id(20_000)).is_none());
    }

    #[test]
    fn a_slot_is_as_small_as_the_documentation_says() {
        assert_eq!(size_of::<Slot>(), 28);
    }
}
