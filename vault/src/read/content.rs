//! One content as bytes.

use std::{
    fmt,
    io::{self, Read},
    sync::Arc,
};

use bytes::Bytes;
use proto::vault::v1::Content;

use super::{fetch::Fetcher, ids::IdStream, layout::Layout};
use crate::{
    error::{Result, VaultError},
    id::ChunkId,
};

/// One content as bytes; holes read as zeros.
pub struct ContentReader {
    fetcher: Arc<Fetcher>,
    layout: Layout,
    ids: IdStream,
    /// Where the next byte lies in the file.
    position: u64,
    /// The run that holds `position` or comes next.
    run: usize,
    /// Data that is read and not taken.
    current: Bytes,
}

impl ContentReader {
    pub(super) fn new(fetcher: Arc<Fetcher>, content: &Content, offset: u64) -> Result<Self> {
        let layout = Layout::of(content).map_err(|what| fetcher.malformed(what))?;
        let ids = IdStream::new(fetcher.clone(), content)?;
        let offset = offset.min(layout.size_bytes);
        let (skip, run) = layout.data_before(offset);
        let mut this = Self {
            fetcher,
            layout,
            ids,
            position: offset,
            run,
            current: Bytes::copy_from_slice(&content.inline),
        };
        this.skip_data(skip)?;
        Ok(this)
    }

    /// Passes over data without reading what lies in chunks of its own.
    fn skip_data(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            if self.current.is_empty() {
                let id = self.next_id()?;
                let length = u64::from(self.fetcher.place(&id)?.at.bytes);
                if length <= bytes {
                    bytes -= length;
                    continue;
                }
                self.current = self.fetcher.chunk(&id)?;
            }
            let skipped = bytes.min(self.current.len() as u64);
            self.current = self.current.slice(skipped as usize..);
            bytes -= skipped;
        }
        Ok(())
    }

    fn next_id(&mut self) -> Result<ChunkId> {
        self.ids.next()?.ok_or_else(|| self.wrong_length())
    }

    fn wrong_length(&self) -> VaultError {
        self.fetcher
            .malformed("the chunks of a content have another length than its size says")
    }

    /// The bytes that can be had at once: data or zeros.
    fn next_piece(&mut self, wanted: usize) -> Result<Piece> {
        let Some(run) = self.layout.runs.get(self.run) else {
            if !self.current.is_empty() || self.ids.next()?.is_some() {
                return Err(self.wrong_length());
            }
            return Ok(Piece::Zeros(self.layout.size_bytes - self.position));
        };
        if self.position < run.offset_bytes {
            return Ok(Piece::Zeros(run.offset_bytes - self.position));
        }
        let left = run.offset_bytes + run.length_bytes - self.position;
        if self.current.is_empty() {
            let id = self.next_id()?;
            self.current = self.fetcher.chunk(&id)?;
        }
        let taken = left.min(self.current.len() as u64).min(wanted as u64);
        if taken == left {
            self.run += 1;
        }
        Ok(Piece::Data(self.current.split_to(taken as usize)))
    }
}

impl ContentReader {
    /// The next data, holes left out; `None` at the end. Blocks.
    pub(super) fn next_data(&mut self) -> Result<Option<Bytes>> {
        while self.position < self.layout.size_bytes {
            match self.next_piece(usize::MAX)? {
                Piece::Data(data) => {
                    self.position += data.len() as u64;
                    return Ok(Some(data));
                }
                Piece::Zeros(bytes) => self.position += bytes,
            }
        }
        Ok(None)
    }
}

enum Piece {
    Data(Bytes),
    Zeros(u64),
}

impl Read for ContentReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let bytes = match self.next_piece(buf.len())? {
            Piece::Data(data) => {
                buf[..data.len()].copy_from_slice(&data);
                data.len()
            }
            Piece::Zeros(bytes) => {
                let bytes = bytes.min(buf.len() as u64) as usize;
                buf[..bytes].fill(0);
                bytes
            }
        };
        self.position += bytes as u64;
        Ok(bytes)
    }
}

impl fmt::Debug for ContentReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ContentReader({} of {} bytes)",
            self.position, self.layout.size_bytes
        )
    }
}
