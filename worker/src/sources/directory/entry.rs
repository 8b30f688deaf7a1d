//! From what the file system says to an entry.

use proto::vault::v1::{Entry, EntryType, Fingerprint};
use rustix::fs::{FileType, Stat, major, minor};

use super::owners::Owners;

/// The lower bits of `st_mode` that are kept: permissions, setuid, setgid, sticky.
const MODE_BITS: u32 = 0o7777;

/// The type of an entry; `None` for what a backup does not hold (sockets).
pub(super) fn entry_type(stat: &Stat) -> Option<EntryType> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(EntryType::Regular),
        FileType::Directory => Some(EntryType::Directory),
        FileType::Symlink => Some(EntryType::Symlink),
        FileType::Fifo => Some(EntryType::Fifo),
        FileType::CharacterDevice => Some(EntryType::CharacterDevice),
        FileType::BlockDevice => Some(EntryType::BlockDevice),
        FileType::Socket | FileType::Unknown => None,
    }
}

/// An entry with everything that `stat` tells.
pub(super) fn entry(path: &[u8], entry_type: EntryType, stat: &Stat, owners: &Owners) -> Entry {
    let is_device = matches!(
        entry_type,
        EntryType::CharacterDevice | EntryType::BlockDevice
    );
    Entry {
        path: path.to_vec(),
        r#type: entry_type.into(),
        mode: stat.st_mode & MODE_BITS,
        uid: stat.st_uid,
        gid: stat.st_gid,
        user_name: owners.user(stat.st_uid).to_owned(),
        group_name: owners.group(stat.st_gid).to_owned(),
        mtime_seconds: stat.st_mtime,
        mtime_nanos: stat.st_mtime_nsec as u32,
        device_major: if is_device { major(stat.st_rdev) } else { 0 },
        device_minor: if is_device { minor(stat.st_rdev) } else { 0 },
        ..Entry::default()
    }
}

/// What tells whether a file was written since.
pub(super) fn fingerprint(stat: &Stat) -> Fingerprint {
    Fingerprint {
        device: stat.st_dev,
        inode: stat.st_ino,
        ctime_seconds: stat.st_ctime,
        ctime_nanos: stat.st_ctime_nsec as u32,
    }
}

/// Whether a file is in the state in which the previous backup has it.
pub(super) fn is_unchanged(previous: &Entry, stat: &Stat) -> bool {
    previous.r#type() == EntryType::Regular
        && previous.fingerprint.as_ref() == Some(&fingerprint(stat))
        && previous.mtime_seconds == stat.st_mtime
        && previous.mtime_nanos == stat.st_mtime_nsec as u32
        && previous
            .content
            .as_ref()
            .is_some_and(|content| content.size_bytes == stat.st_size as u64)
}

/// Whether nothing was written between two looks at a file.
pub(super) fn is_same_state(before: &Stat, after: &Stat) -> bool {
    fingerprint(before) == fingerprint(after)
        && before.st_size == after.st_size
        && (before.st_mtime, before.st_mtime_nsec) == (after.st_mtime, after.st_mtime_nsec)
}
