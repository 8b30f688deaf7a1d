//! Everything of a backup in order, read ahead and decoded on all cores.
//!
//! ```text
//!  planner (1)             store               decoders (n)          caller's thread
//!  entries, ids, places ─► ranged reads ─────► open, decompress, ──► entries and data
//!  in batches               (async, ahead)     check every chunk     in order
//! ```
//!
//! A batch is a stretch of entries and pieces of data that needs a few segments.
//! Batches are handed to the decoders and to the caller in the same order, so the
//! channel to the caller bounds how far the planner runs ahead, and a budget
//! bounds the bytes of decoded segments, with those kept for reuse.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};
use proto::vault::v1::{Entry, EntryType};

use self::{
    batch::{Done, Item},
    planner::Planner,
};
use super::{entries::Scope, fetch::Fetcher};
use crate::{
    error::{Result, VaultError},
    meter::Meter,
};

mod batch;
mod planner;

/// Batches on their way to the caller, decoded or not.
const BATCHES_AHEAD: usize = 3;

/// Everything of a backup in order, prefetched and decoded on all cores.
///
/// The pieces of data are slices of whole segments: a caller that keeps many of
/// them keeps their segments (about 1 MiB each) in memory.
pub struct Walk {
    fetcher: Arc<Fetcher>,
    meter: Arc<Meter>,
    order: Option<Receiver<Receiver<Done>>>,
    current: Option<Done>,
    items: VecDeque<Item>,
    threads: Vec<JoinHandle<()>>,
    /// Bytes of the current entry that are not counted yet.
    uncounted: u64,
    ended: bool,
    failure: Option<VaultError>,
}

impl Walk {
    pub(super) fn start(fetcher: &Fetcher, scope: Scope, meter: Arc<Meter>) -> Result<Self> {
        let fetcher = Arc::new(fetcher.stoppable());
        if let Some(statistics) = &fetcher.manifest.statistics {
            let raise = |total: &AtomicU64, to| total.fetch_max(to, Relaxed);
            raise(&meter.entries_total, statistics.entries);
            raise(&meter.bytes_total, statistics.size_bytes);
        }
        let (send_order, order) = bounded(BATCHES_AHEAD);
        let (send_jobs, jobs) = bounded(BATCHES_AHEAD + 1);
        let mut this = Self {
            fetcher: fetcher.clone(),
            meter,
            order: Some(order),
            current: None,
            items: VecDeque::new(),
            threads: Vec::new(),
            uncounted: 0,
            ended: false,
            failure: None,
        };
        // The planner first: the decoders end when it does.
        let planner = Planner::new(fetcher.clone(), scope, send_order, send_jobs);
        this.threads
            .push(spawn("plan-read".to_owned(), move || planner.run())?);
        for number in 0..fetcher.vault.settings.threads() {
            let (fetcher, jobs) = (fetcher.clone(), jobs.clone());
            let work = move || batch::decode_all(&fetcher, &jobs);
            this.threads.push(spawn(format!("decode-{number}"), work)?);
        }
        Ok(this)
    }

    /// The next entry; what is left of the data of the one before is passed over.
    /// An error ends the walk, unless what is damaged is passed over: then it may
    /// stand for entries that are lost ([`Walk::is_over`] tells).
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.meter.add_bytes(std::mem::take(&mut self.uncounted));
        while self.more()? {
            match self.items.pop_front() {
                Some(Item::Entry(entry)) => {
                    self.meter.add_entry();
                    if entry.r#type() == EntryType::Regular {
                        self.uncounted = entry.content.as_ref().map_or(0, |c| c.size_bytes);
                    }
                    return Ok(Some(*entry));
                }
                Some(Item::Gap(error)) => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Whether nothing comes after an error: it was not about one entry only.
    pub fn is_over(&self) -> bool {
        self.failure.is_some()
    }

    /// The next piece of the current entry's data with its offset in the file;
    /// `None` at its end. Holes are left out. An error ends the walk or, where what
    /// is damaged is passed over, this entry's data.
    pub fn next_data(&mut self) -> Result<Option<(Bytes, u64)>> {
        if self.more()?
            && let Some(Item::Fault(_)) = self.items.front()
            && let Some(Item::Fault(error)) = self.items.pop_front()
        {
            return Err(error);
        }
        if !self.more()? || !matches!(self.items.front(), Some(Item::Data { .. })) {
            return Ok(None);
        }
        let Some(Item::Data { bytes, offset }) = self.items.pop_front() else {
            return Ok(None);
        };
        let counted = self.uncounted.min(bytes.len() as u64);
        self.uncounted -= counted;
        self.meter.add_bytes(counted);
        Ok(Some((bytes, offset)))
    }

    /// Waits until there is an item; false at the end.
    fn more(&mut self) -> Result<bool> {
        if let Some(error) = &self.failure {
            return Err(error.again());
        }
        if let Err(error) = self.fetcher.check_cancel() {
            return self.fail(error);
        }
        while self.items.is_empty() {
            if let Some(error) = self.current.take().and_then(|done| done.error) {
                return self.fail(error);
            }
            if self.ended {
                return Ok(false);
            }
            let next = self.order.as_ref().and_then(|order| order.recv().ok());
            let Some(mut done) = next.and_then(|done| done.recv().ok()) else {
                let error = match self.fetcher.check_cancel() {
                    Err(canceled) => canceled,
                    Ok(()) => VaultError::Internal("a reading thread ended early".to_owned()),
                };
                return self.fail(error);
            };
            self.ended = done.is_last;
            self.items = std::mem::take(&mut done.items);
            self.current = Some(done);
        }
        Ok(true)
    }

    fn fail(&mut self, error: VaultError) -> Result<bool> {
        self.items.clear();
        self.failure = Some(error.again());
        Err(error)
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        // Whatever a thread waits for ends with one of these.
        self.fetcher.cancel.cancel();
        self.order = None;
        self.current = None;
        for thread in self.threads.drain(..) {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name)
        .spawn(work)
        .map_err(|e| VaultError::Internal(format!("start a thread: {e}")))
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Walk({})", self.fetcher.manifest_name())
    }
}
