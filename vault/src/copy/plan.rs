//! Which packs have to be copied: those that hold what the backup needs and the target
//! lacks.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    error::Result,
    index::{BitSet, ChunkIndex, PackAt},
    meter::Meter,
    read::{BackupReader, blocking},
};

/// What has to be done. Chunks and packs are named by their numbers in the source's index.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// All chunks that the backup needs.
    pub needed: BitSet,
    /// Of these, what describes contents.
    pub meta: BitSet,
    /// The packs to copy, with the chunks that the target lacks.
    pub packs: BTreeMap<u32, Part>,
}

/// What a pack holds of what is lacking.
#[derive(Debug)]
pub(super) struct Part {
    pub pack: PackAt,
    /// In the order of their numbers, which is mostly that of the pack.
    pub chunks: Vec<u32>,
}

impl Plan {
    /// Looks at all that the backup needs.
    pub(super) async fn make(
        reader: &BackupReader,
        there: Arc<RwLock<ChunkIndex>>,
        meter: &Arc<Meter>,
    ) -> Result<Self> {
        let (reader, meter) = (reader.clone(), meter.clone());
        blocking(move || {
            let mut plan = Self::default();
            reader.each_need(&meter, |need| {
                plan.needed.insert(need.number);
                if need.is_meta {
                    plan.meta.insert(need.number);
                }
            })?;
            let there = there.read().unwrap_or_else(PoisonError::into_inner);
            let index = reader.chunk_index();
            for number in plan.needed.iter() {
                if there.find(&index.id(number)).is_some() {
                    continue;
                }
                let pack = index.segments[index.location(number).segment as usize].pack;
                let part = plan.packs.entry(pack).or_insert_with(|| Part {
                    pack: index.packs[pack as usize],
                    chunks: Vec::new(),
                });
                part.chunks.push(number);
            }
            Ok(plan)
        })
        .await
    }
}
