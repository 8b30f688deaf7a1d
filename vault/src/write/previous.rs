//! The previous backup, read along while the next one is written: what has not changed
//! since need not be read again from the source.

use proto::vault::v1::{Content, Entry};

use super::writer::{BackupWriter, read_lock};
use crate::{
    error::{Result, VaultError},
    id::{ChunkId, compare_paths},
    limits::CHUNK_ID_BYTES,
    read::{BackupReader, EntryIter},
};

/// The previous backup's entries, read along in path order.
pub(super) struct Previous {
    reader: BackupReader,
    entries: EntryIter,
    next: Option<Entry>,
}

impl Previous {
    pub(super) fn new(reader: BackupReader, entries: EntryIter) -> Self {
        Self {
            reader,
            entries,
            next: None,
        }
    }
}

impl BackupWriter {
    /// The previous backup's entry with this path. Paths must be asked for in
    /// ascending order. A previous backup that can't be read has no entries.
    pub fn previous_entry(&mut self, path: &[u8]) -> Result<Option<Entry>> {
        let Some(previous) = &mut self.previous else {
            return Ok(None);
        };
        loop {
            if previous.next.is_none() {
                match previous.entries.next() {
                    Some(Ok(entry)) => previous.next = Some(entry),
                    Some(Err(
                        error @ (VaultError::Corrupt { .. } | VaultError::Missing { .. }),
                    )) => {
                        tracing::warn!(agent_id = %self.vault.agent_id, %error, "previous backup is not readable");
                        self.previous = None;
                        return Ok(None);
                    }
                    Some(Err(error)) => return Err(error),
                    None => {
                        self.previous = None;
                        return Ok(None);
                    }
                }
            }
            let at = previous.next.as_ref().map_or(&[][..], |entry| &entry.path);
            match compare_paths(at, path) {
                std::cmp::Ordering::Less => previous.next = None,
                std::cmp::Ordering::Equal => return Ok(previous.next.take()),
                std::cmp::Ordering::Greater => return Ok(None),
            }
        }
    }

    /// Whether everything that a content of the previous backup refers to is
    /// still in the vault, so that an entry may take it over without its file
    /// being read.
    pub fn reusable(&mut self, content: &Content) -> Result<bool> {
        let mut segments = Vec::new();
        let mut all_there = true;
        let chunks = read_lock(&self.contents.chunks);
        let mut look = |id: &ChunkId| match chunks.find(id) {
            Some((_, at)) => segments.push(at.segment),
            None => all_there = false,
        };
        if content.depth == 0 {
            content
                .chunk_ids
                .chunks_exact(CHUNK_ID_BYTES)
                .for_each(|id| look(id.try_into().expect("chunks_exact")));
        } else {
            drop(chunks);
            let Some(previous) = &self.previous else {
                return Ok(false);
            };
            let ids = previous.reader.all_chunk_ids(content);
            let ids = match ids {
                Ok(ids) => ids,
                Err(VaultError::Corrupt { .. } | VaultError::Missing { .. }) => return Ok(false),
                Err(error) => return Err(error),
            };
            let chunks = read_lock(&self.contents.chunks);
            for id in &ids {
                match chunks.find(id) {
                    Some((_, at)) => segments.push(at.segment),
                    None => all_there = false,
                }
            }
        }
        if all_there {
            for segment in segments {
                self.used_segments.insert(segment);
            }
        }
        Ok(all_there)
    }
}
