//! Extended attributes, read and written through an open file, or through its folder for what
//! can't be opened (symbolic links, pipes, devices).

use std::os::fd::{AsRawFd, BorrowedFd};

use proto::vault::v1::Xattr;
use rustix::{
    fs::{
        XattrFlags, fgetxattr, flistxattr, fsetxattr, lgetxattr, listxattr, llistxattr, lsetxattr,
    },
    io::{Errno, Result},
};

/// What holds the attributes.
#[derive(Clone, Copy)]
pub(crate) enum Holder<'a> {
    /// An open file or folder.
    Open(BorrowedFd<'a>),
    /// A name in an open folder; a symbolic link is not followed.
    Named(BorrowedFd<'a>, &'a [u8]),
}

impl Holder<'_> {
    /// There are no calls that take a folder and a name; /proc names the folder instead.
    fn path(folder: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        path
    }

    fn list(self, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Open(file) => flistxattr(file, buffer),
            Self::Named(folder, name) => llistxattr(Self::path(folder, name), buffer),
        }
    }

    fn get(self, name: &[u8], buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Open(file) => fgetxattr(file, name, buffer),
            Self::Named(folder, file) => lgetxattr(Self::path(folder, file), name, buffer),
        }
    }

    fn set(self, xattr: &Xattr) -> Result<()> {
        let (name, value) = (xattr.name.as_slice(), xattr.value.as_slice());
        match self {
            Self::Open(file) => fsetxattr(file, name, value, XattrFlags::empty()),
            Self::Named(folder, file) => {
                lsetxattr(Self::path(folder, file), name, value, XattrFlags::empty())
            }
        }
    }
}

/// The largest list of names and the largest value that Linux has.
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// Reads all attributes, ordered by name. What can't be read is left out, and named in the error
/// list; a file system without attributes has none.
pub(crate) fn read(holder: Holder<'_>) -> (Vec<Xattr>, Vec<(Vec<u8>, Errno)>) {
    // Nearly no file has any: this must cost one call and no allocation.
    let mut small = [0; 256];
    match holder.list(&mut small) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOENT | Errno::NODATA | Errno::NOSYS) => {
            (Vec::new(), Vec::new())
        }
        Ok(length) => read_named(holder, &small[..length]),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_BYTES_MAX];
            match holder.list(&mut large) {
                Ok(length) => read_named(holder, &large[..length]),
                Err(error) => (Vec::new(), vec![(Vec::new(), error)]),
            }
        }
        Err(error) => (Vec::new(), vec![(Vec::new(), error)]),
    }
}

fn read_named(holder: Holder<'_>, names: &[u8]) -> (Vec<Xattr>, Vec<(Vec<u8>, Errno)>) {
    let mut xattrs = Vec::new();
    let mut errors = Vec::new();
    let mut buffer = vec![0; 1024];
    for name in names.split(|byte| *byte == 0).filter(|n| !n.is_empty()) {
        let mut got = holder.get(name, &mut buffer);
        if got == Err(Errno::RANGE) {
            buffer.resize(XATTR_BYTES_MAX, 0);
            got = holder.get(name, &mut buffer);
        }
        match got {
            Ok(length) => xattrs.push(Xattr {
                name: name.to_vec(),
                value: buffer[..length].to_vec(),
            }),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(error) => errors.push((name.to_vec(), error)),
        }
    }
    xattrs.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    (xattrs, errors)
}

/// Sets attributes; returns those that could not be set.
pub(crate) fn write<'x>(holder: Holder<'_>, xattrs: &'x [Xattr]) -> Vec<(&'x Xattr, Errno)> {
    xattrs
        .iter()
        .filter_map(|xattr| holder.set(xattr).err().map(|error| (xattr, error)))
        .collect()
}

/// Whether /proc is there, without which attributes of symbolic links and pipes stay unseen.
pub(crate) fn names_work() -> bool {
    !matches!(
        listxattr("/proc/self/fd", &mut [0; 256][..]),
        Err(Errno::NOENT)
    )
}
