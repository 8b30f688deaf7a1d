//! Batches: what is decoded together, and the threads that do it.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use proto::vault::v1::Entry;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::AbortOnDropHandle;

use super::super::fetch::{Checked, Decoder, Fetcher, Place, read_pack};
use crate::{
    error::{Result, VaultError},
    id::ChunkId,
    index::{PackAt, SegmentAt},
};

/// A segment that is decoded once for all batches that need it.
pub(super) struct Slot {
    pub segment: SegmentAt,
    decoded: OnceLock<Result<Bytes>>,
    _budget: OwnedSemaphorePermit,
}

impl Slot {
    pub(super) fn new(segment: SegmentAt, budget: OwnedSemaphorePermit) -> Self {
        Self {
            segment,
            decoded: OnceLock::new(),
            _budget: budget,
        }
    }

    /// The decoded segment; waits for the decoder that works on it.
    fn wait(&self) -> Result<&Bytes> {
        self.decoded.wait().as_ref().map_err(VaultError::again)
    }
}

/// Segments that lie one after another in a pack, being read.
pub(super) struct Load {
    pub pack: PackAt,
    pub slots: Vec<Arc<Slot>>,
    pub sealed: AbortOnDropHandle<Result<Bytes>>,
}

impl Load {
    fn run(&mut self, fetcher: &Fetcher, decoder: &mut Decoder) {
        let sealed = fetcher.wait(async {
            (&mut self.sealed)
                .await
                .map_err(|e| VaultError::Internal(format!("read a pack: {e}")))?
        });
        let start = self.slots.first().map_or(0, |slot| slot.segment.offset);
        let one_by_one = fetcher.salvage && self.slots.len() > 1;
        for slot in &self.slots {
            let decoded = match &sealed {
                // A part of what was read in one go may be there.
                Err(error) if one_by_one && error.is_fault() => {
                    let (offset, bytes) = (slot.segment.offset, slot.segment.stored_bytes);
                    let read =
                        read_pack(fetcher.vault.clone(), self.pack, offset, u64::from(bytes));
                    fetcher.wait(read).and_then(|sealed| {
                        fetcher.decode(decoder, &slot.segment, &self.pack, &sealed)
                    })
                }
                Ok(sealed) => {
                    let from = (slot.segment.offset - start) as usize;
                    let sealed = &sealed[from..from + slot.segment.stored_bytes as usize];
                    fetcher.decode(decoder, &slot.segment, &self.pack, sealed)
                }
                Err(error) => Err(error.again()),
            };
            let _ = slot.decoded.set(decoded);
        }
    }
}

impl Drop for Load {
    /// Nobody may wait for ever for a load that was given up.
    fn drop(&mut self) {
        for slot in &self.slots {
            let _ = slot.decoded.set(Err(VaultError::Canceled));
        }
    }
}

/// What the planner wants to reach the caller.
pub(super) enum Planned {
    Entry(Box<Entry>),
    /// Entries that are lost, and why.
    Gap(VaultError),
    /// The rest of an entry's data is lost, and why.
    Fault(VaultError),
    /// Data that stood in its entry.
    Inline {
        bytes: Bytes,
        offset: u64,
    },
    /// A part of a chunk.
    Piece {
        slot: Arc<Slot>,
        place: Place,
        id: ChunkId,
        /// Where the part begins in the chunk.
        skip: usize,
        bytes: usize,
        offset: u64,
    },
}

/// What reaches the caller.
pub(super) enum Item {
    Entry(Box<Entry>),
    Data {
        bytes: Bytes,
        offset: u64,
    },
    /// Only where what is damaged is passed over: entries are lost here.
    Gap(VaultError),
    /// The same: a piece of the entry's data is lost.
    Fault(VaultError),
}

/// A stretch of the backup, and what must be read for it.
pub(super) struct Batch {
    pub planned: Vec<Planned>,
    pub loads: Vec<Load>,
    /// All segments it needs: they stay within the budget until the caller is done.
    pub slots: Vec<Arc<Slot>>,
    /// What ended the planning.
    pub error: Option<VaultError>,
    pub is_last: bool,
    pub done: Sender<Done>,
}

/// A batch, decoded; `error` comes after `items`.
pub(super) struct Done {
    pub items: VecDeque<Item>,
    pub error: Option<VaultError>,
    pub is_last: bool,
    _slots: Vec<Arc<Slot>>,
}

/// Decodes batches until there are no more.
pub(super) fn decode_all(fetcher: &Fetcher, batches: &Receiver<Batch>) {
    let mut decoder = Decoder::new();
    for mut batch in batches {
        let mut done = Done {
            items: VecDeque::with_capacity(batch.planned.len()),
            error: None,
            is_last: batch.is_last,
            _slots: std::mem::take(&mut batch.slots),
        };
        let decoded = match &mut decoder {
            Ok(decoder) => decode(fetcher, decoder, &mut batch, &mut done.items),
            Err(error) => Err(error.again()),
        };
        done.error = decoded.err().or(batch.error.take());
        // Nobody waits any more when the walk was dropped.
        let _ = batch.done.send(done);
    }
}

fn decode(
    fetcher: &Fetcher,
    decoder: &mut Decoder,
    batch: &mut Batch,
    items: &mut VecDeque<Item>,
) -> Result<()> {
    fail::fail_point!("vault-batch-decoding");
    // Own loads first, all of them: only then wait for those of others.
    for mut load in batch.loads.drain(..) {
        load.run(fetcher, decoder);
    }
    let mut checked = Checked::default();
    for planned in batch.planned.drain(..) {
        items.push_back(match planned {
            Planned::Entry(entry) => Item::Entry(entry),
            Planned::Gap(error) => Item::Gap(error),
            Planned::Fault(error) => Item::Fault(error),
            Planned::Inline { bytes, offset } => Item::Data { bytes, offset },
            Planned::Piece {
                slot,
                place,
                id,
                skip,
                bytes,
                offset,
            } => {
                let piece = slot.wait().and_then(|segment| {
                    checked.check(fetcher, &place, segment, &id)?;
                    let start = place.range().start + skip;
                    Ok(segment.slice(start..start + bytes))
                });
                let piece = piece.or_else(|error| {
                    let chunk = fetcher.chunk_elsewhere(&id, error)?;
                    if chunk.len() == place.at.bytes as usize {
                        return Ok(chunk.slice(skip..skip + bytes));
                    }
                    Err(fetcher.malformed("one chunk has two lengths"))
                });
                match piece {
                    Ok(bytes) => Item::Data { bytes, offset },
                    Err(error) if fetcher.salvage && error.is_fault() => Item::Fault(error),
                    Err(error) => return Err(error),
                }
            }
        });
    }
    Ok(())
}
