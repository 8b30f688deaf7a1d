//! The write path less reading and cutting: chunks that the vault has already
//! are put into new packs.

use std::sync::{Arc, PoisonError, RwLock};

use proto::vault::v1::IndexedPack;
use tokio::runtime::Handle;

use super::{pipeline::Pipeline, segment::SegmentBuilder};
use crate::{
    error::Result, id::ChunkId, index::ChunkIndex, keyring::DataKey, meter::Meter, vault::Vault,
};

/// Puts chunks into new packs. Blocks.
pub(crate) struct Repacker {
    pipeline: Pipeline,
    /// Numbers for the segments; nobody looks chunks up here.
    numbers: Arc<RwLock<ChunkIndex>>,
    data: SegmentBuilder,
    meta: SegmentBuilder,
}

/// What was put where.
#[derive(Debug, Default)]
pub(crate) struct Repacked {
    /// Packs that are stored and in no index yet.
    pub packs: Vec<IndexedPack>,
    /// Index objects that were written on the way, over further packs.
    pub index_ids: Vec<[u8; 32]>,
    /// Bytes of all of these.
    pub stored_bytes: u64,
}

impl Repacker {
    /// `key` is the data key that keys the chunks' ids.
    pub(crate) fn start(
        vault: &Vault,
        key: &DataKey,
        runtime: &Handle,
        meter: Arc<Meter>,
    ) -> Result<Self> {
        let numbers: Arc<RwLock<ChunkIndex>> = Arc::default();
        Ok(Self {
            pipeline: Pipeline::start(vault, key, &numbers, runtime, meter)?,
            numbers,
            data: SegmentBuilder::default(),
            meta: SegmentBuilder::default(),
        })
    }

    /// Adds a chunk. What describes contents is kept apart from them.
    pub(crate) fn push(&mut self, id: &ChunkId, chunk: &[u8], is_meta: bool) -> Result<()> {
        let builder = if is_meta {
            &mut self.meta
        } else {
            &mut self.data
        };
        if builder.number.is_none() {
            let mut numbers = self.numbers.write().unwrap_or_else(PoisonError::into_inner);
            builder.number = Some(numbers.open_segment());
        }
        builder.push(id, chunk);
        if builder.is_full()
            && let Some(segment) = builder.take(self.pipeline.spare_buffer())
        {
            self.pipeline.submit(segment)?;
        }
        Ok(())
    }

    /// Waits until everything is stored.
    pub(crate) fn finish(mut self) -> Result<Repacked> {
        for builder in [&mut self.data, &mut self.meta] {
            if let Some(segment) = builder.take(Vec::new()) {
                self.pipeline.submit(segment)?;
            }
        }
        let packed = self.pipeline.finish()?;
        Ok(Repacked {
            packs: packed.packs,
            index_ids: packed.index_ids,
            stored_bytes: packed.stored_bytes,
        })
    }
}
