//! The planner: what must be read, in which order, a bounded way ahead.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use lru::LruCache;
use proto::vault::v1::{Content, Entry, EntryType};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::{
        entries::{EntryIter, Scope},
        fetch::{Fetcher, Place, read_pack},
        ids::IdStream,
        layout::{Layout, Placer, split_at_runs},
    },
    batch::{Batch, Done, Load, Planned, Slot},
};
use crate::{
    error::{Result, VaultError},
    index::PackAt,
};

/// Decoded segments at once: on their way to the caller, and kept for reuse.
const BUDGET_BYTES: usize = 32 * 1024 * 1024;
/// Unit in which the budget is counted.
const BUDGET_UNIT: usize = 1024;
/// A batch needs segments of this length together, or of one segment. With half of it a restore
/// from S3 took 1.4 times as long: a service has work with each request beyond what it sends.
const BATCH_SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// A batch has this many items at most.
const BATCH_ITEMS: usize = 1024;
/// A batch is closed once its entries take this much memory.
const BATCH_ENTRY_BYTES: usize = 256 * 1024;
/// Longest single read of the destination.
const READ_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Runs on a thread of its own until the end, an error, or nobody wants more.
pub(super) struct Planner {
    fetcher: Arc<Fetcher>,
    scope: Scope,
    order: Sender<Receiver<Done>>,
    jobs: Sender<Batch>,
    budget: Arc<Semaphore>,
    /// Segments that may be needed again, by number.
    recent: LruCache<u32, Arc<Slot>>,
    open: Open,
}

/// The batch being filled.
#[derive(Default)]
struct Open {
    planned: Vec<Planned>,
    entry_bytes: usize,
    /// The segments it needs, by number.
    slots: Vec<(u32, Arc<Slot>)>,
    segment_bytes: usize,
    /// Those of them that no batch before needed.
    to_load: Vec<(Arc<Slot>, PackAt)>,
}

impl Planner {
    pub(super) fn new(
        fetcher: Arc<Fetcher>,
        scope: Scope,
        order: Sender<Receiver<Done>>,
        jobs: Sender<Batch>,
    ) -> Self {
        Self {
            fetcher,
            scope,
            order,
            jobs,
            budget: Arc::new(Semaphore::new(BUDGET_BYTES / BUDGET_UNIT)),
            recent: LruCache::unbounded(),
            open: Open::default(),
        }
    }

    pub(super) fn run(mut self) {
        let planned = self.plan_all();
        // Nobody listens any more when this fails.
        let _ = self.send_off(planned.err(), true);
    }

    fn plan_all(&mut self) -> Result<()> {
        let scope = std::mem::take(&mut self.scope);
        for entry in EntryIter::new(self.fetcher.clone(), scope)? {
            self.fetcher.check_cancel()?;
            let entry = match entry {
                Err(error) if self.passes_over(&error) => {
                    self.add(Planned::Gap(error))?;
                    continue;
                }
                entry => entry?,
            };
            let content = match entry.r#type() {
                EntryType::Regular => entry.content.clone(),
                _ => None,
            };
            self.add_entry(entry)?;
            if let Some(content) = content {
                match self.add_content(&content) {
                    Err(error) if self.passes_over(&error) => self.add(Planned::Fault(error))?,
                    added => added?,
                }
            }
        }
        Ok(())
    }

    /// Whether the walk goes on after an error.
    fn passes_over(&self, error: &VaultError) -> bool {
        self.fetcher.salvage && error.is_fault()
    }

    fn add_entry(&mut self, entry: Entry) -> Result<()> {
        let content = entry.content.as_ref();
        let xattrs: usize = entry
            .xattrs
            .iter()
            .map(|x| x.name.len() + x.value.len())
            .sum();
        self.open.entry_bytes += size_of::<Entry>()
            + entry.path.len()
            + entry.link_target.len()
            + xattrs
            + content.map_or(0, |c| {
                c.chunk_ids.len() + c.inline.len() + c.data_runs.len() * 16
            });
        self.add(Planned::Entry(Box::new(entry)))
    }

    fn add_content(&mut self, content: &Content) -> Result<()> {
        let layout = Layout::of(content).map_err(|what| self.fetcher.malformed(what))?;
        let mut placer = Placer::new(layout);
        if content.chunk_ids.is_empty() {
            let mut inline = Vec::new();
            let bytes = Bytes::copy_from_slice(&content.inline);
            // Layout::of compared the lengths.
            split_at_runs(&mut placer, bytes, |bytes, offset| {
                inline.push(Planned::Inline { bytes, offset });
            });
            return inline.into_iter().try_for_each(|piece| self.add(piece));
        }
        let mut ids = IdStream::new(self.fetcher.clone(), content)?;
        while let Some(id) = ids.next()? {
            self.fetcher.check_cancel()?;
            let place = self.fetcher.place(&id)?;
            let chunk_bytes = place.at.bytes as usize;
            let mut skip = 0;
            while skip < chunk_bytes {
                let slot = self.slot(&place)?;
                let Some((offset, bytes)) = placer.next(chunk_bytes - skip) else {
                    return Err(self.wrong_length());
                };
                self.add(Planned::Piece {
                    slot,
                    place,
                    id,
                    skip,
                    bytes,
                    offset,
                })?;
                skip += bytes;
            }
        }
        if placer.is_full() {
            Ok(())
        } else {
            Err(self.wrong_length())
        }
    }

    fn wrong_length(&self) -> VaultError {
        self.fetcher
            .malformed("the chunks of a content have another length than its size says")
    }

    fn add(&mut self, planned: Planned) -> Result<()> {
        self.open.planned.push(planned);
        if self.open.planned.len() >= BATCH_ITEMS || self.open.entry_bytes >= BATCH_ENTRY_BYTES {
            self.send_off(None, false)?;
        }
        Ok(())
    }

    /// The segment that holds a chunk, as a part of the open batch.
    fn slot(&mut self, place: &Place) -> Result<Arc<Slot>> {
        let number = place.at.segment;
        // Chunks of one segment mostly follow one another.
        let own = self.open.slots.iter().rev().find(|(n, _)| *n == number);
        if let Some((_, slot)) = own {
            return Ok(slot.clone());
        }
        let bytes = place.segment.raw_bytes as usize;
        if self.open.segment_bytes > 0 && self.open.segment_bytes + bytes > BATCH_SEGMENT_BYTES {
            self.send_off(None, false)?;
        }
        let slot = if let Some(slot) = self.recent.get(&number) {
            slot.clone()
        } else {
            let budget = self.spend(bytes)?;
            let slot = Arc::new(Slot::new(place.segment, budget));
            self.recent.put(number, slot.clone());
            self.open.to_load.push((slot.clone(), place.pack));
            slot
        };
        self.open.segment_bytes += bytes;
        self.open.slots.push((number, slot.clone()));
        Ok(slot)
    }

    /// Takes from the budget: first from what is only kept for reuse, then waits
    /// for the caller to be done with what is on its way. The open batch never
    /// needs the whole budget, so what is waited for has been sent off.
    fn spend(&mut self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let units = bytes.div_ceil(BUDGET_UNIT).max(1) as u32;
        loop {
            if let Ok(permit) = self.budget.clone().try_acquire_many_owned(units) {
                return Ok(permit);
            }
            if self.recent.pop_lru().is_none() {
                break;
            }
        }
        let acquire = self.budget.clone().acquire_many_owned(units);
        self.fetcher.wait(async {
            acquire
                .await
                .map_err(|_| VaultError::Internal("the budget was closed".to_owned()))
        })
    }

    /// Sends the open batch to the decoders and, in order, to the caller.
    fn send_off(&mut self, error: Option<VaultError>, is_last: bool) -> Result<()> {
        let open = std::mem::take(&mut self.open);
        let (done, receive) = bounded(1);
        self.order.send(receive).map_err(|_| VaultError::Canceled)?;
        let batch = Batch {
            planned: open.planned,
            loads: self.start_loads(open.to_load),
            slots: open.slots.into_iter().map(|(_, slot)| slot).collect(),
            error,
            is_last,
            done,
        };
        self.jobs.send(batch).map_err(|_| VaultError::Canceled)
    }

    /// Starts reading segments, neighbours in one go.
    fn start_loads(&self, mut segments: Vec<(Arc<Slot>, PackAt)>) -> Vec<Load> {
        segments.sort_by_key(|(slot, _)| (slot.segment.pack, slot.segment.offset));
        let mut ranges: Vec<(PackAt, Vec<Arc<Slot>>, u64)> = Vec::new();
        for (slot, pack) in segments {
            let stored = u64::from(slot.segment.stored_bytes);
            match ranges.last_mut() {
                Some((_, slots, length))
                    if slots.last().is_some_and(|before| {
                        before.segment.pack == slot.segment.pack
                            && before.segment.offset + u64::from(before.segment.stored_bytes)
                                == slot.segment.offset
                    }) && *length + stored <= READ_BYTES_MAX =>
                {
                    slots.push(slot);
                    *length += stored;
                }
                _ => ranges.push((pack, vec![slot], stored)),
            }
        }
        let load = |(pack, slots, length): (PackAt, Vec<Arc<Slot>>, u64)| {
            let read = read_pack(
                self.fetcher.vault.clone(),
                pack,
                slots[0].segment.offset,
                length,
            );
            Load {
                pack,
                slots,
                sealed: AbortOnDropHandle::new(self.fetcher.runtime.spawn(read)),
            }
        };
        ranges.into_iter().map(load).collect()
    }
}
