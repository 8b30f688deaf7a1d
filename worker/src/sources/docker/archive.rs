//! Takes an archive apart as it comes: headers become entries, contents are read in between.
//!
//! What the engine makes is a pax archive. Only what such archives hold is understood; anything
//! else is refused, never guessed.

use std::io::{self, Read};

use proto::vault::v1::{Entry, EntryType, Xattr};

use super::pax::Extended;

const BLOCK: usize = 512;
/// Longest extended header: paths, and the attributes of one file.
const EXTENDED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// One member: an entry without path and content.
pub(super) struct Member {
    /// Its name in the archive.
    pub(super) name: Vec<u8>,
    /// Everything but path, link target and content.
    pub(super) entry: Entry,
    /// Where a link points to.
    pub(super) link: Vec<u8>,
    /// Length of the content that follows.
    pub(super) size: u64,
}

/// What went wrong with an archive.
#[derive(Debug)]
pub(super) enum ArchiveError {
    /// Reading it failed.
    Read(io::Error),
    /// It ends in the middle.
    CutShort,
    /// It is not understood.
    Malformed(&'static str),
}

/// An archive that is read once, from its beginning to its end.
pub(super) struct Archive<R> {
    source: R,
    /// Bytes of the current member's content that are not read yet.
    content: u64,
    /// Zeros after it.
    padding: u64,
    ended: bool,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            content: 0,
            padding: 0,
            ended: false,
        }
    }

    /// The stream itself.
    pub(super) fn source(&mut self) -> &mut R {
        &mut self.source
    }

    /// The next member; what is left of the one before is passed over. `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut extended = Extended::default();
        loop {
            self.skip(self.content + self.padding)?;
            (self.content, self.padding) = (0, 0);
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let malformed = |_| ArchiveError::Malformed("a header's number is none");
            let size = header.entry_size().map_err(malformed)?;
            match header.entry_type().as_byte() {
                b'x' => extended.read_pax(&self.text(size)?)?,
                b'L' => extended.path = Some(until_nul(self.text(size)?)),
                b'K' => extended.link = Some(until_nul(self.text(size)?)),
                b'g' => drop(self.text(size)?),
                kind => {
                    let member = member(&header, kind, extended)?;
                    self.content = member.size;
                    self.padding = padding(member.size);
                    return Ok(Some(member));
                }
            }
        }
    }

    /// The current member's content, to be read to its end.
    pub(super) fn content(&mut self) -> Content<'_, R> {
        Content(self)
    }

    /// Reads what is left of a stream that has ended, so that its connection is used again.
    pub(super) fn drain(&mut self) {
        let mut buffer = [0; BLOCK];
        while self.ended && matches!(self.source.read(&mut buffer), Ok(1..)) {}
    }

    /// The next header; `None` at the archive's end.
    fn header(&mut self) -> Result<Option<tar::Header>, ArchiveError> {
        let mut header = tar::Header::new_old();
        let block = header.as_mut_bytes();
        self.read_exact(block)?;
        if block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        let sum: u32 = block[..148]
            .iter()
            .chain(&block[156..])
            .map(|byte| u32::from(*byte))
            .sum();
        let told = header.cksum().ok();
        if told != Some(sum + 8 * u32::from(b' ')) {
            return Err(ArchiveError::Malformed("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn text(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > EXTENDED_BYTES_MAX {
            return Err(ArchiveError::Malformed("an extended header is too long"));
        }
        let mut text = vec![0; size as usize];
        self.read_exact(&mut text)?;
        self.padding = padding(size);
        Ok(text)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        let mut rest = self.source.by_ref().take(bytes);
        let skipped = io::copy(&mut rest, &mut io::sink()).map_err(ArchiveError::Read)?;
        if skipped < bytes {
            return Err(ArchiveError::CutShort);
        }
        Ok(())
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        self.source
            .read_exact(buffer)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ArchiveError::CutShort,
                _ => ArchiveError::Read(error),
            })
    }
}

/// The content of a member.
pub(super) struct Content<'a, R>(&'a mut Archive<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let archive = &mut *self.0;
        let length = archive.content.min(buffer.len() as u64) as usize;
        if length == 0 {
            return Ok(0);
        }
        match archive.source.read(&mut buffer[..length])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                archive.content -= read as u64;
                Ok(read)
            }
        }
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == 0);
    text.truncate(end.unwrap_or(text.len()));
    text
}

fn member(header: &tar::Header, kind: u8, extended: Extended) -> Result<Member, ArchiveError> {
    let malformed = |_| ArchiveError::Malformed("a header's number is none");
    let entry_type = match kind {
        b'0' | b'\0' | b'7' => EntryType::Regular,
        b'1' => EntryType::HardLink,
        b'2' => EntryType::Symlink,
        b'3' => EntryType::CharacterDevice,
        b'4' => EntryType::BlockDevice,
        b'5' => EntryType::Directory,
        b'6' => EntryType::Fifo,
        _ => return Err(ArchiveError::Malformed("a member is of an unknown type")),
    };
    if extended.is_sparse {
        return Err(ArchiveError::Malformed("a member is sparse"));
    }
    let size = match entry_type {
        EntryType::Regular => match extended.size {
            Some(size) => size,
            None => header.entry_size().map_err(malformed)?,
        },
        _ => 0,
    };
    if i64::try_from(size).is_err() {
        return Err(ArchiveError::Malformed("a member is larger than any file"));
    }
    let id = |told: Option<u64>, field: io::Result<u64>| match told {
        Some(id) => Ok(id),
        None => field.map_err(malformed),
    };
    let uid = id(extended.uid, header.uid())?;
    let gid = id(extended.gid, header.gid())?;
    let (Ok(uid), Ok(gid)) = (u32::try_from(uid), u32::try_from(gid)) else {
        return Err(ArchiveError::Malformed("an owner's number is too large"));
    };
    let (mtime_seconds, mtime_nanos) = match extended.mtime {
        Some(time) => time,
        None => (header.mtime().map_err(malformed)? as i64, 0),
    };
    let device = |field: io::Result<Option<u32>>| match entry_type {
        EntryType::CharacterDevice | EntryType::BlockDevice => {
            field.map(Option::unwrap_or_default).map_err(malformed)
        }
        _ => Ok(0),
    };
    let mut xattrs: Vec<Xattr> = extended.xattrs;
    xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    xattrs.dedup_by(|a, b| a.name == b.name);
    Ok(Member {
        name: extended
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned()),
        entry: Entry {
            r#type: entry_type.into(),
            mode: header.mode().map_err(malformed)? & 0o7777,
            uid,
            gid,
            mtime_seconds,
            mtime_nanos,
            device_major: device(header.device_major())?,
            device_minor: device(header.device_minor())?,
            xattrs,
            ..Entry::default()
        },
        link: extended
            .link
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default(),
        size,
    })
}

#[cfg(test)]
mod tests;
