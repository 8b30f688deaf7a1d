//! What reading and making trees of files have in common: everything relative to open folders,
//! never through a path that someone else could redirect.
//!
//! - [`roots`]: which folders may be touched at all
//! - [`descent`]: going down and up through folders of any depth
//! - [`listing`]: the names in a folder, in order
//! - [`xattrs`]: extended attributes
//! - [`remove`]: removing a tree

pub(crate) mod descent;
pub(crate) mod listing;
pub(crate) mod remove;
pub(crate) mod roots;
pub(crate) mod xattrs;

use std::{os::unix::ffi::OsStrExt as _, path::Path};

use rustix::fs::{Mode, OFlags};

/// How folders are opened: never through a symbolic link.
pub(crate) const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// No permission bits.
pub(crate) const NO_MODE: Mode = Mode::empty();

/// A path as people see it in messages: in quotes, with control characters escaped.
pub(crate) fn show(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// The same for a path of this machine.
pub(crate) fn show_path(path: &Path) -> String {
    show(path.as_os_str().as_bytes())
}

/// What the operating system says, without the number.
pub(crate) fn cause(error: rustix::io::Errno) -> String {
    let text = std::io::Error::from(error).to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text.to_lowercase(),
    }
}
