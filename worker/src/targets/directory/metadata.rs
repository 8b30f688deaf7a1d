//! Owners, attributes, modes and times of what a restore makes; always in this order, because
//! each can undo what comes after it: a new owner clears setuid, attributes can change the mode,
//! and everything but the times changes the times.

use std::os::fd::BorrowedFd;

use proto::vault::v1::{Entry, EntryType};
use rustix::{
    fs::{
        AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat, chownat, fchmod,
        fchown, futimens, utimensat,
    },
    io::{Errno, Result},
    process::{getegid, geteuid},
};

use crate::files::{
    cause,
    xattrs::{self, Holder},
};
use crate::targets::warnings::Warnings;

const NOT_ROOT: &str = "belong to the worker's user, because the worker does not run as root \
                        (without setuid and setgid)";
const NOT_OWNED: &str = "belong to the worker's user, because the system did not let the worker \
                         give them away (without setuid and setgid)";
const SET_ID_BITS: u32 = 0o6000;

/// As whom the worker makes files.
pub(super) struct Maker {
    uid: u32,
    gid: u32,
    umask: u32,
}

impl Maker {
    /// Asks the system.
    pub(super) fn new() -> Self {
        Self {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            umask: umask(),
        }
    }

    /// Whether the worker may do what only root may.
    pub(super) fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// A folder of which only the path is known: the worker's own, and closed to others.
    pub(super) fn unknown_folder(path: &[u8]) -> Entry {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Entry {
            path: path.to_vec(),
            r#type: EntryType::Directory.into(),
            mode: 0o700,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            mtime_seconds: now.map_or(0, |now| now.as_secs() as i64),
            ..Entry::default()
        }
    }

    /// The mode with which a file is made, so that mostly nothing is left to do about it.
    pub(super) fn new_file_mode(entry: &Entry) -> Mode {
        // Attributes can only be set where the owner may write.
        let writable = if entry.xattrs.is_empty() { 0 } else { 0o200 };
        Mode::from_raw_mode((entry.mode & 0o777) | writable)
    }

    /// Finishes an open file that was made with [`Self::new_file_mode`].
    pub(super) fn finish_file(
        &self,
        file: BorrowedFd<'_>,
        entry: &Entry,
        warnings: &mut Warnings,
    ) -> Result<()> {
        let made = Self::new_file_mode(entry).as_raw_mode() & !self.umask;
        self.finish_open(file, entry, made, warnings)
    }

    /// Finishes an open folder that was made with mode 0700.
    pub(super) fn finish_folder(
        &self,
        folder: BorrowedFd<'_>,
        entry: &Entry,
        warnings: &mut Warnings,
    ) -> Result<()> {
        self.finish_open(folder, entry, 0o700, warnings)
    }

    fn finish_open(
        &self,
        open: BorrowedFd<'_>,
        entry: &Entry,
        made: u32,
        warnings: &mut Warnings,
    ) -> Result<()> {
        let mode = self.give_away(entry, warnings, |uid, gid| fchown(open, uid, gid))?;
        set_xattrs(Holder::Open(open), entry, warnings);
        if mode != made || !entry.xattrs.is_empty() {
            fchmod(open, Mode::from_raw_mode(mode))?;
        }
        futimens(open, &times(entry)).or_else(|error| no_time(entry, error, warnings))
    }

    /// Finishes what can't be opened: a link, a pipe, a device.
    pub(super) fn finish_named(
        &self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        warnings: &mut Warnings,
    ) -> Result<()> {
        let mode = self.give_away(entry, warnings, |uid, gid| {
            chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        })?;
        set_xattrs(Holder::Named(folder, name), entry, warnings);
        if entry.r#type() != EntryType::Symlink {
            chmodat(folder, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        utimensat(folder, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .or_else(|error| no_time(entry, error, warnings))
    }

    /// Gives an entry to its owner; returns the mode it may have then.
    fn give_away(
        &self,
        entry: &Entry,
        warnings: &mut Warnings,
        chown: impl FnOnce(Option<Uid>, Option<Gid>) -> Result<()>,
    ) -> Result<u32> {
        let mode = entry.mode & 0o7777;
        if (entry.uid, entry.gid) == (self.uid, self.gid) {
            return Ok(mode);
        }
        // Numbers that no file can have are nobody's.
        let is_possible = entry.uid != u32::MAX && entry.gid != u32::MAX;
        let given = if self.is_root() && is_possible {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            match chown(Some(uid), Some(gid)) {
                Ok(()) => true,
                Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP | Errno::ACCESS) => false,
                Err(error) => return Err(error),
            }
        } else {
            false
        };
        if given {
            return Ok(mode);
        }
        let message = if self.is_root() { NOT_OWNED } else { NOT_ROOT };
        warnings.add_common(&entry.path, message);
        Ok(mode & !SET_ID_BITS)
    }
}

fn set_xattrs(holder: Holder<'_>, entry: &Entry, warnings: &mut Warnings) {
    for (xattr, error) in xattrs::write(holder, &entry.xattrs) {
        let name = String::from_utf8_lossy(&xattr.name);
        warnings.add_about(
            &entry.path,
            &format!("has no attribute {name} ({})", cause(error)),
        );
    }
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: entry.mtime_seconds,
            tv_nsec: entry.mtime_nanos.min(999_999_999).into(),
        },
    }
}

/// A time that the file system can't hold is no reason to do without the file.
fn no_time(entry: &Entry, error: Errno, warnings: &mut Warnings) -> Result<()> {
    match error {
        Errno::INVAL | Errno::OVERFLOW | Errno::PERM => {
            warnings.add_about(
                &entry.path,
                &format!("has another modification time ({})", cause(error)),
            );
            Ok(())
        }
        error => Err(error),
    }
}

/// The bits that the system takes away from new files. Without /proc: all that it could take.
fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o777)
}
