//! Which chunks a backup needs.

use std::sync::{Arc, PoisonError, RwLockReadGuard, atomic::Ordering::Relaxed};

use proto::vault::v1::Content;

use super::{
    BackupReader,
    entries::{EntryIter, Scope},
    fetch::Fetcher,
    ids::IdStream,
};
use crate::{error::Result, index::ChunkIndex, meter::Meter};

/// A chunk that a backup needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// Its number in the reader's index.
    pub number: u32,
    /// Whether it describes contents: a part of the entry stream or a list of ids.
    pub is_meta: bool,
}

impl BackupReader {
    /// Calls `note` with every chunk that the backup needs, some more than once. What
    /// describes contents is read and checked on the way; of the rest only the place is
    /// looked up. An error says which object is missing or damaged. Blocks.
    pub(crate) fn each_need(&self, meter: &Meter, mut note: impl FnMut(Need)) -> Result<()> {
        let fetcher = &self.fetcher;
        if let Some(statistics) = &fetcher.manifest.statistics {
            meter.entries_total.fetch_max(statistics.entries, Relaxed);
        }
        if let Some(stream) = &fetcher.manifest.entries {
            each_of(fetcher, stream, true, &mut note)?;
        }
        for entry in EntryIter::new(fetcher.clone(), Scope::All)? {
            if let Some(content) = &entry?.content {
                each_of(fetcher, content, false, &mut note)?;
            }
            meter.add_entry();
        }
        Ok(())
    }

    /// The index that says where chunks lie.
    pub(crate) fn chunk_index(&self) -> RwLockReadGuard<'_, ChunkIndex> {
        let chunks = &self.fetcher.chunks;
        chunks.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn each_of(
    fetcher: &Arc<Fetcher>,
    content: &Content,
    is_meta: bool,
    note: &mut impl FnMut(Need),
) -> Result<()> {
    let mut ids = IdStream::new(fetcher.clone(), content)?;
    ids.note_lists();
    loop {
        fetcher.check_cancel()?;
        let next = ids.next()?;
        for list in ids.take_lists() {
            let number = fetcher.place(&list)?.number;
            note(Need {
                number,
                is_meta: true,
            });
        }
        let Some(id) = next else {
            return Ok(());
        };
        let number = fetcher.place(&id)?.number;
        note(Need { number, is_meta });
    }
}
