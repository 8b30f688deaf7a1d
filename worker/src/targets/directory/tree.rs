//! Makes the entries of a backup below an open folder, in the order in which they come.
//!
//! Every entry is made in the folder at which the walk is, and that was made by this same walk:
//! no path of a backup is ever followed through a link. A folder gets its owner, mode and times
//! when the walk leaves it, so only the folders on the way down are kept in memory.

use std::{
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use proto::vault::v1::{Entry, EntryType};
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, ftruncate, linkat, makedev, mkdirat, mknodat, openat,
        statat, symlinkat, unlinkat,
    },
    io::Errno,
};
use vault::{BackupReader, Phase, VaultError, Walk, check_path};

use super::{super::warnings::Warnings, flusher::Flusher, metadata::Maker, salvage::LossLog};
use crate::{
    files::{FOLDER, NO_MODE, cause, descent::Descent, show},
    targets::{RestoreContext, TargetError},
};

/// Said of a further name of a file that is not there.
const LINKED_FILE_LOST: &str = "the file of which it is another name is lost";
/// The largest size that a file can have.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Makes a backup's entries below `folder`, durable when this returns.
pub(super) fn make(
    folder: OwnedFd,
    reader: &BackupReader,
    context: &RestoreContext,
    may_make_devices: bool,
    lost: Option<&LossLog>,
) -> Result<Vec<String>, TargetError> {
    let whole = folder.try_clone().map_err(|error| {
        TargetError::Unwritable(format!("open one more file: {}", error.kind()))
    })?;
    let mut tree = Tree {
        context,
        maker: Maker::new(),
        may_make_devices,
        lost,
        descent: Descent::new(folder),
        path: Vec::new(),
        last: Vec::new(),
        folders: Vec::new(),
        linked_from: None,
        flusher: Flusher::start(&whole),
        warnings: Warnings::default(),
    };
    context.meter.set_phase(Phase::Transferring);
    let mut walk = reader.walk(context.meter.clone())?;
    loop {
        tree.check_cancel()?;
        match walk.next_entry() {
            Ok(Some(entry)) => tree.add_or_lose(entry, &mut walk)?,
            Ok(None) => break,
            Err(error) => tree.lose_entries(error, &walk)?,
        }
    }
    tree.leave_to(&[], true)?;
    context.meter.set_phase(Phase::Committing);
    tree.flusher
        .finish(&whole)
        .map_err(|error| not_made(b"", error))?;
    Ok(tree.warnings.into_messages())
}

struct Tree<'a> {
    context: &'a RestoreContext,
    maker: Maker,
    may_make_devices: bool,
    /// Where it is noted what can't be brought back, when the rest shall be.
    lost: Option<&'a LossLog>,
    descent: Descent,
    /// Path of the folder at which the descent is.
    path: Vec<u8>,
    /// The last entry's path, kept where losses are noted.
    last: Vec<u8>,
    /// The folders on the way down, the root first: finished when they are left.
    folders: Vec<Entry>,
    /// The folder in which the last hard link's first name is.
    linked_from: Option<(Vec<u8>, OwnedFd)>,
    flusher: Flusher,
    warnings: Warnings,
}

fn refused(path: &[u8], why: &str) -> TargetError {
    TargetError::EntryRefused(format!("entry {} is refused: {why}", show(path)))
}

fn not_made(path: &[u8], error: Errno) -> TargetError {
    TargetError::Unwritable(match error {
        Errno::NOSPC | Errno::DQUOT => format!(
            "there is no room left for entry {}: make room on the target's file system",
            show(path)
        ),
        error => format!(
            "entry {} can't be made in the target ({}): choose a folder on another file system",
            show(path),
            cause(error)
        ),
    })
}

impl Tree<'_> {
    fn check_cancel(&self) -> Result<(), TargetError> {
        if self.context.cancel.is_cancelled() {
            return Err(TargetError::Canceled);
        }
        Ok(())
    }

    /// Adds an entry; one that can't be brought back is noted where that is wanted.
    fn add_or_lose(&mut self, entry: Entry, walk: &mut Walk) -> Result<(), TargetError> {
        let Some(lost) = self.lost else {
            return self.add(entry, walk);
        };
        let path = entry.path.clone();
        match self.add(entry, walk) {
            Err(TargetError::EntryRefused(why)) => lost.note(&path, &why),
            Err(TargetError::Vault(error)) if !walk.is_over() => {
                lost.note(&path, &error.to_string());
            }
            added => return added,
        }
        Ok(())
    }

    /// Entries after the last one are not known any more.
    fn lose_entries(&self, error: VaultError, walk: &Walk) -> Result<(), TargetError> {
        match self.lost {
            Some(lost) if !walk.is_over() => {
                lost.note_entries(&self.last, &error.to_string());
                Ok(())
            }
            _ => Err(error.into()),
        }
    }

    fn add(&mut self, entry: Entry, walk: &mut Walk) -> Result<(), TargetError> {
        check_path(&entry.path).map_err(|why| refused(&entry.path, why))?;
        if self.lost.is_some() {
            self.last.clone_from(&entry.path);
        }
        if entry.path.is_empty() {
            if entry.r#type() != EntryType::Directory || !self.folders.is_empty() {
                return Err(refused(b"", "the root must be a folder, and come first"));
            }
            self.folders.push(entry);
            return Ok(());
        }
        let (folder, name) = split(&entry.path);
        if self.path != folder || self.folders.is_empty() {
            self.leave_to(folder, false)?;
        }
        match entry.r#type() {
            EntryType::Directory => {
                let name = name.to_vec();
                self.enter(entry, &name)
            }
            EntryType::Regular => self.file(&entry, name, walk),
            EntryType::HardLink => self.link(&entry, name),
            EntryType::Symlink => self.symlink(&entry, name),
            EntryType::Fifo => self.node(&entry, name, FileType::Fifo),
            EntryType::CharacterDevice => self.device(&entry, name, FileType::CharacterDevice),
            EntryType::BlockDevice => self.device(&entry, name, FileType::BlockDevice),
            EntryType::Unspecified => Err(refused(&entry.path, "its type is not known")),
        }
    }

    /// Leaves folders until the walk is at `path`, also the root when `whole`.
    fn leave_to(&mut self, path: &[u8], whole: bool) -> Result<(), TargetError> {
        while !lies_under(path, &self.path) {
            let Some(entry) = self.folders.pop() else {
                break;
            };
            let left = self
                .descent
                .leave()
                .map_err(|error| not_made(&entry.path, error))?;
            if let Some(left) = left {
                self.maker
                    .finish_folder(left.as_fd(), &entry, &mut self.warnings)
                    .map_err(|error| not_made(&entry.path, error))?;
            }
            self.path.truncate(split(&entry.path).0.len());
        }
        if self.path != path || self.folders.is_empty() {
            self.make_missing(path)?;
        }
        if whole && let Some(root) = self.folders.pop() {
            self.maker
                .finish_folder(self.descent.root(), &root, &mut self.warnings)
                .map_err(|error| not_made(b"", error))?;
        }
        Ok(())
    }

    /// Makes folders of which nothing is known, for what lies in them.
    fn make_missing(&mut self, path: &[u8]) -> Result<(), TargetError> {
        let Some(lost) = self.lost else {
            return Err(refused(path, "no folder of this path comes before it"));
        };
        if self.folders.is_empty() {
            self.folders.push(Maker::unknown_folder(b""));
        }
        while self.path != path {
            let begin = match self.path.len() {
                0 => 0,
                parent => parent + 1,
            };
            let rest = &path[begin..];
            let name = rest.split(|byte| *byte == b'/').next().unwrap_or(rest);
            let made = Maker::unknown_folder(&path[..begin + name.len()]);
            lost.note(
                &made.path,
                "its owner, mode and times are lost: the folder was made for what lies in it",
            );
            self.enter(made, name)?;
        }
        Ok(())
    }

    fn enter(&mut self, entry: Entry, name: &[u8]) -> Result<(), TargetError> {
        mkdirat(self.descent.here(), name, Mode::RWXU)
            .and_then(|()| self.descent.enter(name))
            .map_err(|error| not_made(&entry.path, error))?;
        self.path.clone_from(&entry.path);
        self.folders.push(entry);
        Ok(())
    }

    fn file(&mut self, entry: &Entry, name: &[u8], walk: &mut Walk) -> Result<(), TargetError> {
        let size = entry.content.as_ref().map_or(0, |c| c.size_bytes);
        if size > FILE_BYTES_MAX {
            return Err(refused(&entry.path, "no file can be that large"));
        }
        let failed = |error| not_made(&entry.path, error);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Maker::new_file_mode(entry);
        let file = File::from(openat(self.descent.here(), name, flags, mode).map_err(failed)?);
        let written = self.write_data(&file, entry, size, walk);
        if written.is_err() && self.lost.is_some() {
            // A file is whole, or it is not there.
            unlinkat(self.descent.here(), name, AtFlags::empty()).map_err(failed)?;
        }
        written?;
        self.maker
            .finish_file(file.as_fd(), entry, &mut self.warnings)
            .map_err(failed)
    }

    fn write_data(
        &mut self,
        file: &File,
        entry: &Entry,
        size: u64,
        walk: &mut Walk,
    ) -> Result<(), TargetError> {
        let failed = |error| not_made(&entry.path, error);
        let mut end = 0;
        while let Some((data, offset)) = walk.next_data()? {
            self.check_cancel()?;
            self.flusher.wrote(data.len() as u64);
            end = offset.saturating_add(data.len() as u64);
            if end > size {
                return Err(refused(&entry.path, "its data reaches beyond its size"));
            }
            file.write_all_at(&data, offset)
                .map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        }
        if end < size {
            // It ends with a hole.
            ftruncate(file, size).map_err(failed)?;
        }
        Ok(())
    }

    fn link(&mut self, entry: &Entry, name: &[u8]) -> Result<(), TargetError> {
        let target = &entry.link_target;
        if target.is_empty() || check_path(target).is_err() {
            return Err(refused(&entry.path, "it links to a path that is not safe"));
        }
        let (folder_path, first) = split(target);
        let failed = |error| not_made(&entry.path, error);
        if folder_path != self.path
            && self
                .linked_from
                .as_ref()
                .is_none_or(|(path, _)| path != folder_path)
        {
            let folder = match open_folder(self.descent.root(), folder_path) {
                Err(Errno::NOENT) if self.lost.is_some() => {
                    return Err(refused(&entry.path, LINKED_FILE_LOST));
                }
                folder => folder.map_err(failed)?,
            };
            self.linked_from = Some((folder_path.to_vec(), folder));
        }
        let from = match &self.linked_from {
            Some((path, folder)) if path == folder_path => folder.as_fd(),
            _ => self.descent.here(),
        };
        let is_file = statat(from, first, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        if !is_file && self.lost.is_some() {
            return Err(refused(&entry.path, LINKED_FILE_LOST));
        }
        if !is_file {
            return Err(refused(
                &entry.path,
                "it links to something that is not a file and does not come before it",
            ));
        }
        linkat(from, first, self.descent.here(), name, AtFlags::empty()).map_err(failed)
    }

    fn symlink(&mut self, entry: &Entry, name: &[u8]) -> Result<(), TargetError> {
        if entry.link_target.is_empty() || entry.link_target.contains(&0) {
            return Err(refused(&entry.path, "its target is no path"));
        }
        symlinkat(&entry.link_target[..], self.descent.here(), name)
            .map_err(|error| not_made(&entry.path, error))?;
        self.finish_named(entry, name)
    }

    fn device(
        &mut self,
        entry: &Entry,
        name: &[u8],
        file_type: FileType,
    ) -> Result<(), TargetError> {
        if !self.may_make_devices {
            self.warnings.add_about(
                &entry.path,
                "is a device and was left out: NORA_BACKUP_RESTORE_DEVICES does not allow devices",
            );
            return Ok(());
        }
        if !self.maker.is_root() {
            self.warnings.add_about(
                &entry.path,
                "is a device and was left out: only a worker that runs as root can make it",
            );
            return Ok(());
        }
        self.node(entry, name, file_type)
    }

    fn node(&mut self, entry: &Entry, name: &[u8], file_type: FileType) -> Result<(), TargetError> {
        let device = match file_type {
            FileType::Fifo => 0,
            _ => makedev(entry.device_major, entry.device_minor),
        };
        let made = mknodat(self.descent.here(), name, file_type, Mode::RUSR, device);
        match made {
            Ok(()) => self.finish_named(entry, name),
            Err(Errno::PERM) if file_type != FileType::Fifo => {
                self.warnings.add_about(
                    &entry.path,
                    "is a device and was left out: the system did not let the worker make it",
                );
                Ok(())
            }
            Err(error) => Err(not_made(&entry.path, error)),
        }
    }

    fn finish_named(&mut self, entry: &Entry, name: &[u8]) -> Result<(), TargetError> {
        self.maker
            .finish_named(self.descent.here(), name, entry, &mut self.warnings)
            .map_err(|error| not_made(&entry.path, error))
    }
}

/// Whether a path is a folder's or lies in it.
fn lies_under(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty()
        || path
            .strip_prefix(folder)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// A path's folder and its name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Opens a folder that was made before, component by component and through no link.
fn open_folder(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut folder = openat(root, ".", FOLDER, NO_MODE)?;
    if !path.is_empty() {
        for name in path.split(|byte| *byte == b'/') {
            folder = openat(&folder, name, FOLDER, NO_MODE)?;
        }
    }
    Ok(folder)
}
