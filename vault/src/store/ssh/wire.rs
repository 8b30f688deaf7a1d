//! SFTP version 3 on the wire (draft-ietf-secsh-filexfer-02, with the extensions
//! of OpenSSH's PROTOCOL file): requests as bytes, replies taken apart. What a
//! server sends is checked, never believed.

use std::collections::VecDeque;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// The version that is spoken.
const VERSION: u32 = 3;
/// Longest packet that is accepted: as OpenSSH's own client, and some room.
const PACKET_BYTES_MAX: usize = 256 * 1024 + 1024;

/// What a file is opened for.
pub(super) mod flag {
    pub(in super::super) const READ: u32 = 1;
    pub(in super::super) const WRITE: u32 = 2;
    pub(in super::super) const CREATE: u32 = 8;
    pub(in super::super) const EXCLUSIVE: u32 = 32;
}

/// What a server answers.
pub(super) mod status {
    pub(in super::super) const OK: u32 = 0;
    pub(in super::super) const EOF: u32 = 1;
    pub(in super::super) const NO_SUCH_FILE: u32 = 2;
    pub(in super::super) const PERMISSION_DENIED: u32 = 3;
    pub(in super::super) const FAILURE: u32 = 4;
    pub(in super::super) const OP_UNSUPPORTED: u32 = 8;
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request<'a> {
    Open {
        path: &'a str,
        flags: u32,
        mode: u32,
    },
    Close(&'a [u8]),
    Read {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    Write {
        handle: &'a [u8],
        offset: u64,
        data: &'a Bytes,
    },
    Fstat(&'a [u8]),
    Stat(&'a str),
    OpenFolder(&'a str),
    ReadFolder(&'a [u8]),
    Remove(&'a str),
    MakeFolder {
        path: &'a str,
        mode: u32,
    },
    Rename {
        from: &'a str,
        to: &'a str,
    },
    PosixRename {
        from: &'a str,
        to: &'a str,
    },
    Fsync(&'a [u8]),
    FileSystem(&'a str),
    Limits,
}

/// A request as it is sent: what it carries is not copied.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) head: Bytes,
    pub(super) body: Bytes,
}

/// The first packet of a session.
pub(super) fn hello() -> Frame {
    let mut head = BytesMut::new();
    head.put_u32(5);
    head.put_u8(1);
    head.put_u32(VERSION);
    Frame {
        head: head.freeze(),
        body: Bytes::new(),
    }
}

impl Request<'_> {
    pub(super) fn encode(&self, id: u32) -> Frame {
        let mut head = BytesMut::with_capacity(256);
        head.put_u32(0);
        head.put_u8(self.kind());
        head.put_u32(id);
        let mut body = Bytes::new();
        match *self {
            Self::Open { path, flags, mode } => {
                put_string(&mut head, path.as_bytes());
                head.put_u32(flags);
                put_mode(&mut head, mode);
            }
            Self::Close(handle) | Self::Fstat(handle) | Self::ReadFolder(handle) => {
                put_string(&mut head, handle);
            }
            Self::Read {
                handle,
                offset,
                length,
            } => {
                put_string(&mut head, handle);
                head.put_u64(offset);
                head.put_u32(length);
            }
            Self::Write {
                handle,
                offset,
                data,
            } => {
                put_string(&mut head, handle);
                head.put_u64(offset);
                head.put_u32(data.len() as u32);
                body = data.clone();
            }
            Self::Stat(path) | Self::OpenFolder(path) | Self::Remove(path) => {
                put_string(&mut head, path.as_bytes());
            }
            Self::MakeFolder { path, mode } => {
                put_string(&mut head, path.as_bytes());
                put_mode(&mut head, mode);
            }
            Self::Rename { from, to } => {
                put_string(&mut head, from.as_bytes());
                put_string(&mut head, to.as_bytes());
            }
            Self::PosixRename { from, to } => {
                put_string(&mut head, b"posix-rename@openssh.com");
                put_string(&mut head, from.as_bytes());
                put_string(&mut head, to.as_bytes());
            }
            Self::Fsync(handle) => {
                put_string(&mut head, b"fsync@openssh.com");
                put_string(&mut head, handle);
            }
            Self::FileSystem(path) => {
                put_string(&mut head, b"statvfs@openssh.com");
                put_string(&mut head, path.as_bytes());
            }
            Self::Limits => put_string(&mut head, b"limits@openssh.com"),
        }
        let length = (head.len() - 4 + body.len()) as u32;
        head[..4].copy_from_slice(&length.to_be_bytes());
        Frame {
            head: head.freeze(),
            body,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Open { .. } => 3,
            Self::Close(_) => 4,
            Self::Read { .. } => 5,
            Self::Write { .. } => 6,
            Self::Fstat(_) => 8,
            Self::OpenFolder(_) => 11,
            Self::ReadFolder(_) => 12,
            Self::Remove(_) => 13,
            Self::MakeFolder { .. } => 14,
            Self::Stat(_) => 17,
            Self::Rename { .. } => 18,
            Self::PosixRename { .. } | Self::Fsync(_) | Self::FileSystem(_) | Self::Limits => 200,
        }
    }
}

fn put_string(to: &mut BytesMut, string: &[u8]) {
    to.put_u32(string.len() as u32);
    to.put_slice(string);
}

/// Attributes that say nothing but the permissions.
fn put_mode(to: &mut BytesMut, mode: u32) {
    to.put_u32(attribute::PERMISSIONS);
    to.put_u32(mode);
}

mod attribute {
    pub(super) const SIZE: u32 = 1;
    pub(super) const OWNER: u32 = 2;
    pub(super) const PERMISSIONS: u32 = 4;
    pub(super) const TIMES: u32 = 8;
    pub(super) const EXTENDED: u32 = 0x8000_0000;
}

/// What a server sent back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Status(Status),
    Handle(Bytes),
    /// In the pieces in which it arrived.
    Data(Vec<Bytes>),
    Names(Vec<Name>),
    Attributes(Attributes),
    Extended(Bytes),
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: u32,
    pub(super) message: String,
}

/// One name of a folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) name: Vec<u8>,
    pub(super) attributes: Attributes,
}

/// What is known of a file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) bytes: Option<u64>,
    pub(super) mode: Option<u32>,
    pub(super) modify_time_s: Option<u32>,
}

impl Attributes {
    /// The type bits of the mode, where the server tells them.
    fn kind(&self) -> Option<u32> {
        self.mode.map(|mode| mode & 0o170_000)
    }

    pub(super) fn is_folder(&self) -> bool {
        self.kind() == Some(0o040_000)
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind() == Some(0o100_000)
    }
}

/// What a server says of itself at first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) extensions: Vec<String>,
}

/// The room of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileSystem {
    pub(super) available_bytes: u64,
    pub(super) available_files: u64,
    pub(super) files: u64,
    pub(super) read_only: bool,
}

/// What a server takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) read_bytes: u64,
    pub(super) write_bytes: u64,
}

/// What arrived is not SFTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbled;

/// Bytes as they arrive, until they make a packet.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    pieces: VecDeque<Bytes>,
    length: usize,
}

impl Incoming {
    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// The next reply and the number of its request.
    pub(super) fn next_reply(&mut self) -> Result<Option<(u32, Reply)>, Garbled> {
        let Some((kind, mut packet)) = self.next_packet()? else {
            return Ok(None);
        };
        let mut id = packet.take(4).ok_or(Garbled)?;
        let id = id.get_u32();
        let reply = if kind == 103 {
            let length = packet.take(4).ok_or(Garbled)?.get_u32();
            if packet.length != length as usize {
                return Err(Garbled);
            }
            Reply::Data(packet.pieces.into())
        } else {
            let length = packet.length;
            let mut fields = Fields(packet.take(length).ok_or(Garbled)?);
            match kind {
                101 => Reply::Status(fields.status()?),
                102 => Reply::Handle(fields.string()?),
                104 => Reply::Names(fields.names()?),
                105 => Reply::Attributes(fields.attributes()?),
                201 => Reply::Extended(fields.0),
                _ => return Err(Garbled),
            }
        };
        Ok(Some((id, reply)))
    }

    /// The answer to [`hello`].
    pub(super) fn next_hello(&mut self) -> Result<Option<Hello>, Garbled> {
        let Some((kind, mut packet)) = self.next_packet()? else {
            return Ok(None);
        };
        let length = packet.length;
        let mut fields = Fields(packet.take(length).ok_or(Garbled)?);
        if kind != 2 || fields.u32()? < VERSION {
            return Err(Garbled);
        }
        let mut hello = Hello::default();
        while !fields.0.is_empty() {
            let name = fields.string()?;
            fields.string()?;
            hello
                .extensions
                .push(String::from_utf8_lossy(&name).into_owned());
        }
        Ok(Some(hello))
    }

    fn next_packet(&mut self) -> Result<Option<(u8, Self)>, Garbled> {
        let Some(length) = self.peek_u32() else {
            return Ok(None);
        };
        let length = length as usize;
        if !(5..=PACKET_BYTES_MAX).contains(&length) {
            return Err(Garbled);
        }
        if self.length < 4 + length {
            return Ok(None);
        }
        self.take(4);
        let kind = self.take(1).ok_or(Garbled)?.get_u8();
        Ok(Some((kind, self.split(length - 1))))
    }

    fn peek_u32(&self) -> Option<u32> {
        let mut bytes = self.pieces.iter().flat_map(|piece| piece.iter().copied());
        let mut next = || bytes.next();
        Some(u32::from_be_bytes([next()?, next()?, next()?, next()?]))
    }

    /// The first bytes, apart from the rest; there are as many.
    fn split(&mut self, length: usize) -> Self {
        let mut first = Self::default();
        while first.length < length {
            let Some(mut piece) = self.pieces.pop_front() else {
                break;
            };
            let wanted = length - first.length;
            if piece.len() > wanted {
                let rest = piece.split_off(wanted);
                self.pieces.push_front(rest);
            }
            self.length -= piece.len();
            first.push(piece);
        }
        first
    }

    /// The first bytes in one piece, where there are as many.
    fn take(&mut self, length: usize) -> Option<Bytes> {
        if self.length < length {
            return None;
        }
        if let Some(piece) = self.pieces.front_mut()
            && piece.len() > length
        {
            self.length -= length;
            return Some(piece.split_to(length));
        }
        let mut whole = BytesMut::with_capacity(length);
        for piece in self.split(length).pieces {
            whole.put_slice(&piece);
        }
        Some(whole.freeze())
    }
}

/// The fields of one packet.
struct Fields(Bytes);

impl Fields {
    fn u32(&mut self) -> Result<u32, Garbled> {
        self.0.try_get_u32().map_err(|_| Garbled)
    }

    fn u64(&mut self) -> Result<u64, Garbled> {
        self.0.try_get_u64().map_err(|_| Garbled)
    }

    fn string(&mut self) -> Result<Bytes, Garbled> {
        let length = self.u32()? as usize;
        if length > self.0.len() {
            return Err(Garbled);
        }
        Ok(self.0.split_to(length))
    }

    fn status(&mut self) -> Result<Status, Garbled> {
        let code = self.u32()?;
        // Early servers say no more.
        let message = self.string().unwrap_or_default();
        Ok(Status {
            code,
            message: String::from_utf8_lossy(&message).into_owned(),
        })
    }

    fn names(&mut self) -> Result<Vec<Name>, Garbled> {
        let count = self.u32()?;
        let mut names = Vec::new();
        for _ in 0..count {
            let name = self.string()?.to_vec();
            // A line for people.
            self.string()?;
            let attributes = self.attributes()?;
            names.push(Name { name, attributes });
        }
        Ok(names)
    }

    fn attributes(&mut self) -> Result<Attributes, Garbled> {
        let flags = self.u32()?;
        let mut attributes = Attributes::default();
        if flags & attribute::SIZE != 0 {
            attributes.bytes = Some(self.u64()?);
        }
        if flags & attribute::OWNER != 0 {
            self.u64()?;
        }
        if flags & attribute::PERMISSIONS != 0 {
            attributes.mode = Some(self.u32()?);
        }
        if flags & attribute::TIMES != 0 {
            self.u32()?;
            attributes.modify_time_s = Some(self.u32()?);
        }
        if flags & attribute::EXTENDED != 0 {
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Ok(attributes)
    }
}

impl FileSystem {
    pub(super) fn parse(reply: Bytes) -> Result<Self, Garbled> {
        let mut fields = Fields(reply);
        fields.u64()?;
        let fragment = fields.u64()?;
        fields.u64()?;
        fields.u64()?;
        let available = fields.u64()?;
        let files = fields.u64()?;
        fields.u64()?;
        let available_files = fields.u64()?;
        fields.u64()?;
        Ok(Self {
            available_bytes: available.saturating_mul(fragment),
            available_files,
            files,
            read_only: fields.u64()? & 1 != 0,
        })
    }
}

impl Limits {
    pub(super) fn parse(reply: Bytes) -> Result<Self, Garbled> {
        let mut fields = Fields(reply);
        fields.u64()?;
        Ok(Self {
            read_bytes: fields.u64()?,
            write_bytes: fields.u64()?,
        })
    }
}

#[cfg(test)]
mod tests;
