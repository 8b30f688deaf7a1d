//! Moves the bytes of one file, with many requests under way at once.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{
    limits::UNDER_WAY_BYTES,
    line::Failure,
    sftp::{Pending, Sftp},
    wire::{Attributes, Reply, Request, Status, status},
};

/// An open file or folder; closed when dropped, whatever happened.
#[derive(Debug)]
pub(super) struct OpenFile<'a> {
    sftp: &'a Sftp,
    handle: Bytes,
    open: bool,
}

impl Drop for OpenFile<'_> {
    fn drop(&mut self) {
        if self.open {
            self.sftp.post(Request::Close(&self.handle));
        }
    }
}

impl<'a> OpenFile<'a> {
    pub(super) async fn open(
        sftp: &'a Sftp,
        path: &str,
        flags: u32,
    ) -> Result<OpenFile<'a>, Failure> {
        let mode = 0o600;
        let handle = sftp.handle(Request::Open { path, flags, mode }).await?;
        Ok(Self {
            sftp,
            handle,
            open: true,
        })
    }

    pub(super) async fn open_folder(sftp: &'a Sftp, path: &str) -> Result<OpenFile<'a>, Failure> {
        let handle = sftp.handle(Request::OpenFolder(path)).await?;
        Ok(Self {
            sftp,
            handle,
            open: true,
        })
    }

    /// Closes it and waits for what the server says to that: some tell only then
    /// that a write came to nothing.
    pub(super) async fn close(mut self) -> Result<(), Failure> {
        self.open = false;
        self.sftp.done(Request::Close(&self.handle)).await
    }

    pub(super) async fn attributes(&self) -> Result<Attributes, Failure> {
        self.sftp.attributes(Request::Fstat(&self.handle)).await
    }

    /// The next names of a folder, asked for.
    pub(super) fn read_folder(&self) -> Pending<'a> {
        self.sftp.send(Request::ReadFolder(&self.handle))
    }

    /// Asks for what was written to be made durable.
    pub(super) fn sync(&self) -> Pending<'a> {
        self.sftp.send(Request::Fsync(&self.handle))
    }

    /// Writes all of it, from the start.
    pub(super) async fn write(&self, bytes: &Bytes) -> Result<(), Failure> {
        let mut under_way = VecDeque::new();
        let mut under_way_bytes = 0;
        let mut offset = 0;
        loop {
            while offset < bytes.len() && under_way_bytes < UNDER_WAY_BYTES {
                let end = bytes.len().min(offset + self.sftp.block_bytes);
                let pending = self.sftp.send(Request::Write {
                    handle: &self.handle,
                    offset: offset as u64,
                    data: &bytes.slice(offset..end),
                });
                under_way.push_back((pending, end - offset));
                under_way_bytes += end - offset;
                offset = end;
            }
            let Some((pending, length)) = under_way.pop_front() else {
                return Ok(());
            };
            pending.done().await?;
            under_way_bytes -= length;
        }
    }

    /// Whether the file holds exactly this.
    pub(super) async fn holds(&self, bytes: &Bytes) -> Result<bool, Failure> {
        let mut parts = Parts::new(self, 0, bytes.len() as u64);
        let mut at = 0;
        while let Some(pieces) = parts.next().await? {
            for piece in pieces {
                if bytes.get(at..at + piece.len()) != Some(&piece[..]) {
                    return Ok(false);
                }
                at += piece.len();
            }
        }
        Ok(at == bytes.len() && self.attributes().await?.bytes == Some(at as u64))
    }

    /// Reads a part; shorter only where the file ends.
    pub(super) async fn read(&self, offset: u64, length: u64) -> Result<Bytes, Failure> {
        let mut parts = Parts::new(self, offset, length);
        let mut first = None;
        let mut all = BytesMut::new();
        while let Some(pieces) = parts.next().await? {
            for piece in pieces {
                // A part in one piece needs no copy.
                match first.take() {
                    None if all.is_empty() => first = Some(piece),
                    None => all.extend_from_slice(&piece),
                    Some(one) => {
                        all.reserve(length.min(UNDER_WAY_BYTES as u64) as usize);
                        all.extend_from_slice(&one);
                        all.extend_from_slice(&piece);
                    }
                }
            }
        }
        Ok(first.unwrap_or_else(|| all.freeze()))
    }

    fn ask(&self, offset: u64, length: u32) -> Pending<'a> {
        self.sftp.send(Request::Read {
            handle: &self.handle,
            offset,
            length,
        })
    }
}

/// The parts of a range, in order, asked for ahead.
struct Parts<'f, 'a> {
    file: &'f OpenFile<'a>,
    /// What is under way: where it begins and how long it is.
    under_way: VecDeque<(Pending<'a>, u64, u32)>,
    under_way_bytes: usize,
    offset: u64,
    end: u64,
}

impl<'f, 'a> Parts<'f, 'a> {
    fn new(file: &'f OpenFile<'a>, offset: u64, length: u64) -> Self {
        Self {
            file,
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            offset,
            end: offset.saturating_add(length),
        }
    }

    /// `None` at the end of the range or of the file.
    async fn next(&mut self) -> Result<Option<Vec<Bytes>>, Failure> {
        while self.offset < self.end && self.under_way_bytes < UNDER_WAY_BYTES {
            let length = (self.end - self.offset).min(self.file.sftp.block_bytes as u64) as u32;
            let pending = self.file.ask(self.offset, length);
            self.under_way.push_back((pending, self.offset, length));
            self.under_way_bytes += length as usize;
            self.offset += u64::from(length);
        }
        let Some((pending, offset, length)) = self.under_way.pop_front() else {
            return Ok(None);
        };
        self.under_way_bytes -= length as usize;
        let pieces = match pending.reply().await? {
            Reply::Data(pieces) => pieces,
            Reply::Status(Status {
                code: status::EOF, ..
            }) => {
                self.end = 0;
                self.under_way.clear();
                return Ok(None);
            }
            other => return Err(self.file.sftp.unexpected(other)),
        };
        let got = pieces.iter().map(Bytes::len).sum::<usize>() as u64;
        if got == 0 || got > u64::from(length) {
            return Err(self.file.sftp.unexpected(Reply::Data(pieces)));
        }
        if got < u64::from(length) {
            // A server may give less than it has: the rest, before what follows.
            let rest = length - got as u32;
            let pending = self.file.ask(offset + got, rest);
            self.under_way.push_front((pending, offset + got, rest));
            self.under_way_bytes += rest as usize;
        }
        Ok(Some(pieces))
    }
}
