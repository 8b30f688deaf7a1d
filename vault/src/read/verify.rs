//! What is wrong with a backup.
//!
//! First everything that describes it is read: manifest, entries, lists of ids.
//! Every chunk must have a place, every pack its length. Then, where every byte is
//! asked for, the segments are read in the order they lie in their packs, each
//! once, and every chunk that the backup needs is compared with its id.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use proto::vault::v1::{Content, Entry, EntryType};

use super::{
    VerifyDepth, VerifyReport,
    buffers::lock,
    entries::{EntryIter, Scope},
    fetch::{Decoder, Fetcher, Place, read_pack},
    ids::IdStream,
    layout::Layout,
};
use crate::{
    error::{Result, VaultError},
    id::ChunkId,
    index::{BitSet, PackAt},
    meter::{Meter, Phase},
    pack::pack_name,
};

/// Faults that are listed.
const FAULTS_MAX: usize = 100;
/// Longest single read of the destination.
const READ_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Threads that wait for the destination while others decode.
const THREADS_WAITING: usize = 2;

pub(super) fn verify(
    fetcher: &Arc<Fetcher>,
    depth: VerifyDepth,
    meter: &Meter,
) -> Result<VerifyReport> {
    meter.set_phase(Phase::Transferring);
    if let Some(statistics) = &fetcher.manifest.statistics {
        meter.entries_total.fetch_max(statistics.entries, Relaxed);
    }
    let mut needs = Needs {
        fetcher,
        faults: Faults::default(),
        entries: 0,
        inline_bytes: 0,
        chunk_bytes: 0,
        seen: BitSet::default(),
        chunks: Vec::new(),
        packs: BTreeMap::new(),
    };
    needs.collect(meter)?;
    needs.check_packs()?;
    let mut report = VerifyReport {
        entries: needs.entries,
        ..VerifyReport::default()
    };
    let mut faults = std::mem::take(&mut needs.faults);
    if depth == VerifyDepth::Full {
        let total = needs.inline_bytes + needs.chunk_bytes;
        meter.bytes_total.fetch_max(total, Relaxed);
        meter.add_bytes(needs.inline_bytes);
        report.bytes = needs.inline_bytes + needs.read_all(&mut faults, meter)?;
    }
    report.faults = faults.listed;
    report.missing = faults.missing;
    Ok(report)
}

/// What was found wrong, each thing once.
#[derive(Default)]
struct Faults {
    listed: Vec<String>,
    seen: HashSet<String>,
    missing: bool,
}

impl Faults {
    /// Lists a fault of the backup; any other error ends the verification.
    fn note(&mut self, error: VaultError) -> Result<()> {
        match error {
            VaultError::Missing { .. } => self.missing = true,
            VaultError::Corrupt { .. } | VaultError::Version { .. } => {}
            other => return Err(other),
        }
        if self.listed.len() < FAULTS_MAX && self.seen.insert(error.to_string()) {
            self.listed.push(error.to_string());
        }
        Ok(())
    }
}

/// What the backup needs of the vault.
struct Needs<'a> {
    fetcher: &'a Arc<Fetcher>,
    faults: Faults,
    entries: u64,
    inline_bytes: u64,
    /// Bytes of `chunks` together.
    chunk_bytes: u64,
    /// Which chunks are in `chunks`, by number.
    seen: BitSet,
    /// Chunks of contents, each once, with the number of their segment.
    chunks: Vec<(u32, ChunkId)>,
    /// By number.
    packs: BTreeMap<u32, PackAt>,
}

impl Needs<'_> {
    /// Reads all that describes the backup.
    fn collect(&mut self, meter: &Meter) -> Result<()> {
        if let Some(stream) = self.fetcher.manifest.entries.clone() {
            self.collect_stream(&stream)?;
        }
        let entries = match EntryIter::new(self.fetcher.clone(), Scope::All) {
            Ok(entries) => entries,
            Err(error) => return self.faults.note(error),
        };
        for entry in entries {
            match entry {
                Ok(entry) => {
                    self.entries += 1;
                    meter.add_entry();
                    if let Err(error) = self.collect_entry(&entry) {
                        self.faults.note(error)?;
                    }
                }
                // What comes after in the stream can't be told.
                Err(error) => return self.faults.note(error),
            }
        }
        let counted = self.fetcher.manifest.statistics.map(|s| s.entries);
        if counted.is_some_and(|counted| counted != self.entries) {
            let what = format!("{} entries instead of {counted:?}", self.entries);
            self.faults.note(self.fetcher.malformed(what))?;
        }
        Ok(())
    }

    /// The chunks of the entry stream are read with the entries: here it is only
    /// noted where they lie.
    fn collect_stream(&mut self, stream: &Content) -> Result<()> {
        let noted = self.each_chunk(stream, |this, place, _| this.note_pack(place));
        noted.map(drop).or_else(|error| self.faults.note(error))
    }

    fn collect_entry(&mut self, entry: &Entry) -> Result<()> {
        let (EntryType::Regular, Some(content)) = (entry.r#type(), &entry.content) else {
            return Ok(());
        };
        let layout = Layout::of(content).map_err(|what| self.fetcher.malformed(what))?;
        self.inline_bytes += content.inline.len() as u64;
        let found = self.each_chunk(content, |this, place, id| {
            this.note_pack(place);
            if this.seen.insert(place.number) {
                this.chunks.push((place.at.segment, *id));
                this.chunk_bytes += u64::from(place.at.bytes);
            }
        })?;
        match found {
            Some(bytes) if !content.chunk_ids.is_empty() && bytes != layout.data_bytes => {
                Err(self.fetcher.malformed(format!(
                    "the chunks of {:?} have another length than its size says",
                    String::from_utf8_lossy(&entry.path)
                )))
            }
            _ => Ok(()),
        }
    }

    /// Calls `note` for every chunk that has a place; the others are faults.
    /// Returns the length of the data, if all of it has a place.
    fn each_chunk(
        &mut self,
        content: &Content,
        mut note: impl FnMut(&mut Self, &Place, &ChunkId),
    ) -> Result<Option<u64>> {
        let mut ids = IdStream::new(self.fetcher.clone(), content)?;
        ids.note_lists();
        let mut bytes = Some(0u64);
        loop {
            self.fetcher.check_cancel()?;
            let next = ids.next();
            for list in ids.take_lists() {
                if let Some(place) = self.fetcher.look_up(&list) {
                    self.note_pack(&place);
                }
            }
            let Some(id) = next? else {
                return Ok(bytes);
            };
            match self.fetcher.place(&id) {
                Ok(place) => {
                    bytes = bytes.map(|bytes| bytes + u64::from(place.at.bytes));
                    note(self, &place, &id);
                }
                Err(error) => {
                    bytes = None;
                    self.faults.note(error)?;
                }
            }
        }
    }

    fn note_pack(&mut self, place: &Place) {
        self.packs.insert(place.segment.pack, place.pack);
    }

    /// Every pack must be there, with its length.
    fn check_packs(&mut self) -> Result<()> {
        for pack in self.packs.values() {
            let object = pack_name(&pack.id);
            let full = format!("{}{object}", self.fetcher.vault.root);
            let store = &self.fetcher.vault.store;
            let bytes = self.fetcher.wait(async { Ok(store.stat(&full).await?) })?;
            match bytes {
                None => self.faults.note(VaultError::Missing { object })?,
                Some(bytes) if bytes != pack.bytes => {
                    let what = format!("{bytes} bytes long instead of {}", pack.bytes);
                    self.faults.note(VaultError::corrupt(object, what))?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Reads every segment that is needed, and compares every chunk with its id.
    /// Returns the bytes of the chunks that are right.
    fn read_all(&mut self, faults: &mut Faults, meter: &Meter) -> Result<u64> {
        // Segments are numbered in the order they lie in their packs.
        let mut chunks = std::mem::take(&mut self.chunks);
        chunks.sort_unstable();
        let segments: Vec<&[(u32, ChunkId)]> = chunks.chunk_by(|a, b| a.0 == b.0).collect();
        let groups = self.group(segments);
        let work = Work {
            fetcher: self.fetcher,
            groups: &groups,
            next: AtomicUsize::new(0),
            faults: Mutex::new(std::mem::take(faults)),
            meter,
        };
        let threads = self.fetcher.vault.settings.threads() + THREADS_WAITING;
        let bytes = std::thread::scope(|scope| {
            let started: Vec<_> = (0..threads.min(groups.len()))
                .map(|_| scope.spawn(|| work.run()))
                .collect();
            started.into_iter().try_fold(0, |sum, thread| {
                let bytes = thread
                    .join()
                    .map_err(|_| VaultError::Internal("a verifying thread panicked".to_owned()))?;
                Ok::<u64, VaultError>(sum + bytes?)
            })
        });
        *faults = work.faults.into_inner().unwrap_or_default();
        bytes
    }

    /// Puts segments that lie one after another together, to be read in one go.
    fn group<'c>(&self, segments: Vec<&'c [(u32, ChunkId)]>) -> Vec<Group<'c>> {
        let mut groups: Vec<Group> = Vec::new();
        for chunks in segments {
            let Some(place) = self.fetcher.look_up(&chunks[0].1) else {
                continue;
            };
            let stored = u64::from(place.segment.stored_bytes);
            match groups.last_mut() {
                Some(group)
                    if group.place.segment.pack == place.segment.pack
                        && group.place.segment.offset + group.bytes == place.segment.offset
                        && group.bytes + stored <= READ_BYTES_MAX =>
                {
                    group.segments.push(chunks);
                    group.bytes += stored;
                }
                _ => groups.push(Group {
                    place,
                    bytes: stored,
                    segments: vec![chunks],
                }),
            }
        }
        groups
    }
}

/// Segments that lie one after another, with what is needed of them.
struct Group<'c> {
    /// Of a chunk in the first segment.
    place: Place,
    /// Length of the segments as stored.
    bytes: u64,
    segments: Vec<&'c [(u32, ChunkId)]>,
}

/// What the threads share.
struct Work<'a> {
    fetcher: &'a Fetcher,
    groups: &'a [Group<'a>],
    next: AtomicUsize,
    faults: Mutex<Faults>,
    meter: &'a Meter,
}

impl Work<'_> {
    fn run(&self) -> Result<u64> {
        let done = self.check_groups();
        if done.is_err() {
            // The others end with their group.
            self.next.store(self.groups.len(), Relaxed);
        }
        done
    }

    fn check_groups(&self) -> Result<u64> {
        let mut decoder = Decoder::new()?;
        let mut right = 0;
        while let Some(group) = self.groups.get(self.next.fetch_add(1, Relaxed)) {
            let start = group.place.segment.offset;
            let read = read_pack(
                self.fetcher.vault.clone(),
                group.place.pack,
                start,
                group.bytes,
            );
            let sealed = match self.fetcher.wait(read) {
                Ok(sealed) => sealed,
                Err(error) => {
                    lock(&self.faults).note(error)?;
                    continue;
                }
            };
            for chunks in &group.segments {
                right += self.check_segment(&mut decoder, chunks, start, &sealed)?;
            }
        }
        Ok(right)
    }

    fn check_segment(
        &self,
        decoder: &mut Decoder,
        chunks: &[(u32, ChunkId)],
        start: u64,
        sealed: &[u8],
    ) -> Result<u64> {
        let Some((_, first)) = chunks.first() else {
            return Ok(0);
        };
        let Place { segment, pack, .. } = self.fetcher.place(first)?;
        let from = (segment.offset - start) as usize;
        let sealed = &sealed[from..from + segment.stored_bytes as usize];
        let decoded = match self.fetcher.decode(decoder, &segment, &pack, sealed) {
            Ok(decoded) => decoded,
            Err(error) => {
                lock(&self.faults).note(error)?;
                return Ok(0);
            }
        };
        let mut right = 0;
        for (_, id) in chunks {
            let place = self.fetcher.place(id)?;
            match self.fetcher.check_chunk(&place, &decoded, id) {
                Ok(()) => {
                    right += u64::from(place.at.bytes);
                    self.meter.add_bytes(u64::from(place.at.bytes));
                }
                Err(error) => lock(&self.faults).note(error)?,
            }
        }
        Ok(right)
    }
}
