//! The names in a folder, sorted bytewise, in one piece of memory.

use std::{mem::MaybeUninit, os::fd::BorrowedFd};

use rustix::{
    fs::{FileType, RawDir, SeekFrom, seek},
    io::{Errno, Result},
};

/// Bytes read from a folder at once.
const BUFFER_BYTES: usize = 32 * 1024;

/// What [`Listing::read`] reads into; kept from folder to folder.
pub(crate) struct Buffer(Box<[MaybeUninit<u8>]>);

impl Buffer {
    /// A buffer to be used again and again.
    pub(crate) fn new() -> Self {
        Self(Box::new_uninit_slice(BUFFER_BYTES))
    }
}

/// The names in a folder, without `.` and `..`.
#[derive(Default)]
pub(crate) struct Listing {
    bytes: Vec<u8>,
    names: Vec<Name>,
}

struct Name {
    start: usize,
    length: u16,
    file_type: FileType,
}

impl Listing {
    /// Reads all names of an open folder.
    pub(crate) fn read(folder: BorrowedFd<'_>, buffer: &mut Buffer) -> Result<Self> {
        let mut listing = Self::default();
        seek(folder, SeekFrom::Start(0))?;
        let mut entries = RawDir::new(folder, &mut buffer.0);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            listing.names.push(Name {
                start: listing.bytes.len(),
                length: name.len() as u16,
                file_type: entry.file_type(),
            });
            listing.bytes.extend_from_slice(name);
        }
        let bytes = &listing.bytes;
        listing
            .names
            .sort_unstable_by(|one, other| one.slice(bytes).cmp(other.slice(bytes)));
        Ok(listing)
    }

    /// The name at a position, and its type where the file system told.
    pub(crate) fn get(&self, position: usize) -> Option<(&[u8], FileType)> {
        self.names
            .get(position)
            .map(|name| (name.slice(&self.bytes), name.file_type))
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

impl Name {
    fn slice<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start..self.start + usize::from(self.length)]
    }
}
