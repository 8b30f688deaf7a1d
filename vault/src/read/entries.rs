//! The entry stream: records cut out of chunks, in path order.

use std::{fmt, sync::Arc};

use prost::Message as _;
use proto::vault::v1::{Content, Entry, EntryType};

use super::{fetch::Fetcher, ids::IdStream, layout::Layout, resync};
use crate::{
    error::{Result, VaultError},
    id::{check_path, compare_paths},
    limits::ENTRY_BYTES_MAX,
};

/// Where a listing begins and ends.
#[derive(Debug, Clone, Default)]
pub(super) enum Scope {
    /// Everything.
    #[default]
    All,
    /// What comes after this path.
    After(Vec<u8>),
    /// This path and what lies under it.
    Under(Vec<u8>),
}

impl Scope {
    /// This path and what lies under it; an empty one means everything.
    pub(super) fn under(prefix: &[u8]) -> Self {
        if prefix.is_empty() {
            Self::All
        } else {
            Self::Under(prefix.to_vec())
        }
    }

    /// Whether a path comes before all that is wanted.
    fn is_before(&self, path: &[u8]) -> bool {
        match self {
            Self::All => false,
            Self::After(after) => compare_paths(path, after).is_le(),
            Self::Under(prefix) => compare_paths(path, prefix).is_lt(),
        }
    }

    /// Whether a path that is not before lies beyond all that is wanted.
    fn is_beyond(&self, path: &[u8]) -> bool {
        match self {
            Self::All | Self::After(_) => false,
            Self::Under(prefix) => !lies_under(path, prefix),
        }
    }
}

/// Whether a path is `prefix` or lies under it.
pub(super) fn lies_under(path: &[u8], prefix: &[u8]) -> bool {
    prefix.is_empty()
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Entries in path order; fuses after an error, unless what is damaged is passed
/// over: then errors stand where entries are lost.
pub struct EntryIter {
    fetcher: Arc<Fetcher>,
    scope: Scope,
    ids: IdStream,
    /// Bytes of the stream that are read and not taken, from `taken` on.
    buffer: Vec<u8>,
    taken: usize,
    bytes_left: u64,
    last_path: Option<Vec<u8>>,
    ended: bool,
    /// Something of the stream was lost: its length tells nothing any more.
    torn: bool,
    /// Where the next record begins is not known.
    adrift: bool,
}

impl EntryIter {
    pub(super) fn new(fetcher: Arc<Fetcher>, scope: Scope) -> Result<Self> {
        let none = Content::default();
        let content = fetcher.manifest.entries.as_ref().unwrap_or(&none);
        let layout = Layout::of(content)
            .ok()
            .filter(|_| content.data_runs.is_empty())
            .ok_or_else(|| fetcher.malformed("its entry stream is malformed"))?;
        let (ids, buffer) = (
            IdStream::new(fetcher.clone(), content)?,
            content.inline.clone(),
        );
        Ok(Self {
            bytes_left: layout.data_bytes - buffer.len() as u64,
            fetcher,
            scope,
            ids,
            buffer,
            taken: 0,
            last_path: None,
            ended: false,
            torn: false,
            adrift: false,
        })
    }

    /// Reads one more chunk of the stream; false at its end.
    fn fill(&mut self) -> Result<bool> {
        let filled = self.fill_once();
        if filled.is_err() {
            // What began before can't be completed.
            self.taken = self.buffer.len();
        }
        filled
    }

    fn fill_once(&mut self) -> Result<bool> {
        let Some(id) = self.ids.next()? else {
            if self.bytes_left > 0 && !self.torn {
                return Err(self.malformed("ends early"));
            }
            return Ok(false);
        };
        let chunk = self.fetcher.chunk(&id)?;
        self.bytes_left = match self.bytes_left.checked_sub(chunk.len() as u64) {
            None if !self.torn => return Err(self.malformed("is longer than its size says")),
            left => left.unwrap_or(0),
        };
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(&chunk);
        Ok(true)
    }

    fn malformed(&self, what: &str) -> VaultError {
        self.fetcher.malformed(format!("its entry stream {what}"))
    }

    /// Cuts the next record off; returns where it lies in the buffer.
    fn next_record(&mut self) -> Result<Option<std::ops::Range<usize>>> {
        if self.adrift && !self.find_record()? {
            return Ok(None);
        }
        loop {
            let pending = &self.buffer[self.taken..];
            if let Some((length, prefix)) = read_length(pending) {
                if length > ENTRY_BYTES_MAX as u64 || prefix == 0 {
                    self.taken += 1;
                    return Err(self.malformed("holds a record that is too long"));
                }
                let (start, length) = (self.taken + prefix, length as usize);
                if self.buffer.len() - start >= length {
                    self.taken = start + length;
                    return Ok(Some(start..start + length));
                }
            }
            if !self.fill()? {
                return if self.taken == self.buffer.len() {
                    Ok(None)
                } else {
                    Err(self.malformed("ends inside a record"))
                };
            }
        }
    }

    /// After a loss: looks for where records begin again. False at the end.
    fn find_record(&mut self) -> Result<bool> {
        let mut is_end = false;
        loop {
            let pending = &self.buffer[self.taken..];
            if let Some(offset) = resync::find(pending, self.last_path.as_deref(), is_end) {
                self.taken += offset;
                self.adrift = false;
                return Ok(true);
            }
            if is_end {
                return Ok(false);
            }
            let kept = self.buffer.len().saturating_sub(resync::KEPT_BYTES);
            self.taken = self.taken.max(kept);
            is_end = !self.fill()?;
        }
    }

    /// An error that the listing goes on after, where it may: the next record is
    /// looked for.
    fn note_loss(&mut self, error: &VaultError) {
        if self.fetcher.salvage && error.is_fault() {
            (self.torn, self.adrift, self.ended) = (true, true, false);
        } else {
            self.ended = true;
        }
    }

    fn next_entry(&mut self) -> Result<Option<Entry>> {
        while let Some(record) = self.next_record()? {
            let record = &self.buffer[record];
            // What is passed over needs its path only.
            let path = peek_path(record).ok_or_else(|| self.malformed("holds no entry"))?;
            let in_order = match &self.last_path {
                Some(last) => compare_paths(last, path).is_lt(),
                None => true,
            };
            if !in_order {
                return Err(self.malformed("is not in path order"));
            }
            check_path(path).map_err(|what| self.bad_entry(path, what))?;
            let skip = self.scope.is_before(path);
            let beyond = !skip && self.scope.is_beyond(path);
            let path = path.to_vec();
            if skip || beyond {
                self.last_path = Some(path);
                if beyond {
                    return Ok(None);
                }
                continue;
            }
            let entry = Entry::decode(record).map_err(|_| self.malformed("holds no entry"))?;
            if entry.path != path {
                return Err(self.malformed("holds an entry with two paths"));
            }
            check_entry(&entry).map_err(|what| self.bad_entry(&path, what))?;
            self.last_path = Some(path);
            return Ok(Some(entry));
        }
        Ok(None)
    }

    fn bad_entry(&self, path: &[u8], what: &str) -> VaultError {
        self.fetcher
            .malformed(format!("entry {:?}: {what}", String::from_utf8_lossy(path)))
    }
}

pub(super) fn check_entry(entry: &Entry) -> Result<(), &'static str> {
    match entry.r#type() {
        EntryType::Unspecified => Err("its type is not known"),
        EntryType::Regular => {
            let content = entry.content.as_ref().ok_or("it has no content")?;
            Layout::of(content).map(drop)
        }
        EntryType::HardLink => {
            check_path(&entry.link_target).map_err(|_| "what it links to is not a path")?;
            if compare_paths(&entry.link_target, &entry.path).is_lt() {
                Ok(())
            } else {
                Err("what it links to does not come before it")
            }
        }
        _ => Ok(()),
    }
}

/// A varint at the front: its value and length. `None` while it is incomplete;
/// length 0 when it is none.
pub(super) fn read_length(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (n, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((value, n + 1));
        }
    }
    (bytes.len() >= 5).then_some((0, 0))
}

/// An entry's path, without decoding the rest: field 1 comes first, and is left
/// out where it is empty.
fn peek_path(record: &[u8]) -> Option<&[u8]> {
    const PATH_TAG: u8 = 1 << 3 | 2;
    let Some((&PATH_TAG, rest)) = record.split_first() else {
        return Some(&[]);
    };
    let (length, prefix) = read_length(rest).filter(|(_, prefix)| *prefix > 0)?;
    rest.get(prefix..)?.get(..usize::try_from(length).ok()?)
}

impl Iterator for EntryIter {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_entry();
        match &next {
            Ok(entry) => self.ended = entry.is_none(),
            Err(error) => self.note_loss(error),
        }
        next.transpose()
    }
}

impl fmt::Debug for EntryIter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryIter({:?})", self.scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_without_decoding() {
        for path in [&b""[..], b"a", b"a/b", &[b'x'; 300]] {
            let entry = Entry {
                path: path.to_vec(),
                mode: 0o644,
                ..Entry::default()
            };
            assert_eq!(peek_path(&entry.encode_to_vec()), Some(path));
        }
        assert_eq!(peek_path(&[0x0a, 5, 1]), None);
        assert_eq!(peek_path(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn lengths_are_never_believed_before_they_are_whole() {
        assert_eq!(read_length(&[]), None);
        assert_eq!(read_length(&[0x80]), None);
        assert_eq!(read_length(&[0x80, 1]), Some((128, 2)));
        assert_eq!(read_length(&[0xff; 5]), Some((0, 0)));
    }

    #[test]
    fn a_prefix_is_whole_components() {
        assert!(lies_under(b"a/b", b"a"));
        assert!(lies_under(b"a", b"a"));
        assert!(!lies_under(b"ab", b"a"));
        assert!(lies_under(b"ab", b""));
    }
}
