//! Lists of chunk ids, however long, one id at a time.

use std::sync::Arc;

use bytes::Bytes;
use proto::vault::v1::Content;

use super::fetch::Fetcher;
use crate::{
    error::Result,
    id::ChunkId,
    limits::{CHUNK_ID_BYTES, LIST_DEPTH_MAX},
};

/// The ids of a content's data chunks in order. Holds one list of each level.
pub(super) struct IdStream {
    fetcher: Arc<Fetcher>,
    /// What is left of the list of each level, the topmost first.
    levels: Vec<Bytes>,
    depth: usize,
    /// Called with the id of every list before it is read.
    lists: Option<Vec<ChunkId>>,
}

impl IdStream {
    pub(super) fn new(fetcher: Arc<Fetcher>, content: &Content) -> Result<Self> {
        if content.depth > LIST_DEPTH_MAX || !content.chunk_ids.len().is_multiple_of(CHUNK_ID_BYTES)
        {
            return Err(fetcher.malformed("a list of chunk ids is malformed"));
        }
        Ok(Self {
            fetcher,
            levels: vec![Bytes::copy_from_slice(&content.chunk_ids)],
            depth: content.depth as usize,
            lists: None,
        })
    }

    /// Notes the ids of the lists that are read on the way.
    pub(super) fn note_lists(&mut self) {
        self.lists = Some(Vec::new());
    }

    /// The lists that were read since this was asked last.
    pub(super) fn take_lists(&mut self) -> Vec<ChunkId> {
        self.lists.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The next data chunk's id. Blocks.
    pub(super) fn next(&mut self) -> Result<Option<ChunkId>> {
        loop {
            let Some(list) = self.levels.last_mut() else {
                return Ok(None);
            };
            if list.is_empty() {
                self.levels.pop();
                continue;
            }
            let id: ChunkId = list.split_to(CHUNK_ID_BYTES)[..]
                .try_into()
                .expect("lists are whole numbers of ids");
            if self.levels.len() > self.depth {
                return Ok(Some(id));
            }
            if let Some(lists) = &mut self.lists {
                lists.push(id);
            }
            let below = self.fetcher.chunk(&id)?;
            if below.is_empty() || !below.len().is_multiple_of(CHUNK_ID_BYTES) {
                return Err(self.fetcher.malformed("a list of chunk ids is malformed"));
            }
            self.levels.push(below);
        }
    }
}
