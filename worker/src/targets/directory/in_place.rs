//! A folder in place of one that is there.
//!
//! The new tree is made beside the old one, out of sight, and takes its place at one stroke: the
//! two are exchanged. Where the file system has no such thing, the old one is renamed aside and
//! the new one to its place. The old tree goes when the catalog has the restore as completed;
//! before that, putting back is the same stroke again.
//!
//! ```text
//!             `hidden`        the place     `aside`
//!  made        new             old
//!  exchanged   old             new                      or, in two steps:
//!                              new           old
//! ```
//!
//! Which tree is which is told by the mark, written before: it names the new one. A tree is only
//! removed when it is the new one, or when the catalog says that the old one is not needed.
//! Before anything is decided, `hidden` is renamed: then an attempt that lost its job can't
//! exchange it any more.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{
        AtFlags, FileType, OFlags, RenameFlags, fstat, fsync, openat, renameat, renameat_with,
        statat,
    },
    io::Errno,
};

use super::{FOLDER, NO_MODE, Place, TargetError};
use crate::files::{cause, remove::remove, show_path};

/// A folder, whatever it is called.
type Identity = (u64, u64);

impl Place {
    fn aside(&self, attempt: u32) -> String {
        format!("{}.old", self.hidden(attempt))
    }

    fn retired(&self, attempt: u32) -> String {
        format!("{}.retired", self.hidden(attempt))
    }

    /// Says no when there is nothing to replace.
    pub(super) fn check_there(&self, parent: &OwnedFd, name: &[u8]) -> Result<(), TargetError> {
        let path = show_path(&self.path);
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(()),
            Ok(_) => Err(TargetError::Unusable(format!(
                "{path} is no folder any more: register the agent with its folder"
            ))),
            Err(Errno::NOENT) => Err(TargetError::Unusable(format!(
                "{path} is not there any more: restore the backup as a new agent"
            ))),
            Err(error) => Err(self.unwritable(error)),
        }
    }

    /// Puts the new tree in place of the old one.
    pub(super) fn exchange(&self) -> Result<(), TargetError> {
        let (parent, name) = self
            .parent()
            .map_err(|error| TargetError::Unwritable(error.to_string()))?;
        let hidden = self.hidden(self.context.attempt);
        let failed = |error| self.not_replaced(error);
        fail::fail_point!("worker-in-place-before-mark");
        let folder = openat(&parent, &hidden, OFlags::PATH | FOLDER, NO_MODE).map_err(failed)?;
        let stat = fstat(&folder).map_err(failed)?;
        self.write_mark(&parent, (stat.st_dev, stat.st_ino))
            .map_err(failed)?;
        fail::fail_point!("worker-in-place-before-exchange");
        match renameat_with(&parent, &hidden, &parent, name, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                self.replace_in_two(&parent, name)?;
            }
            Err(error) => return Err(failed(error)),
        }
        fsync(&parent).map_err(failed)
    }

    fn replace_in_two(&self, parent: &OwnedFd, name: &[u8]) -> Result<(), TargetError> {
        let (hidden, aside) = (
            self.hidden(self.context.attempt),
            self.aside(self.context.attempt),
        );
        let failed = |error| self.not_replaced(error);
        renameat(parent, name, parent, &aside).map_err(failed)?;
        let renamed = renameat(parent, &hidden, parent, name);
        if renamed.is_err() {
            // As when the job is another attempt's by now.
            renameat(parent, &aside, parent, name).map_err(failed)?;
        }
        renamed.map_err(failed)
    }

    /// Puts back what was there, and removes what attempts made.
    pub(super) fn put_back(&self) -> Result<(), TargetError> {
        // Where nothing can be, nothing is left.
        let Ok((parent, name)) = self.parent() else {
            return Ok(());
        };
        for attempt in self.attempts() {
            self.put_back_one(&parent, name, attempt)
                .map_err(|error| self.not_put_back(error))?;
        }
        Ok(())
    }

    fn put_back_one(&self, parent: &OwnedFd, name: &[u8], attempt: u32) -> Result<(), Errno> {
        let (aside, retired) = (self.aside(attempt), self.retired(attempt));
        match renameat_with(
            parent,
            self.hidden(attempt),
            parent,
            &retired,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) | Err(Errno::NOENT | Errno::EXIST) => {}
            Err(Errno::INVAL) => {
                // A file system without such renames: there is none of that name.
                renameat(parent, self.hidden(attempt), parent, &retired)?;
            }
            Err(error) => return Err(error),
        }
        let new = self.read_mark(parent, attempt)?;
        let is_new = |found: Option<Identity>| found.is_some() && found == new;
        let place = identity(parent, name)?;
        for other in [retired.as_bytes(), aside.as_bytes()] {
            let Some(found) = identity(parent, other)? else {
                continue;
            };
            let is_old = new.is_some() && !is_new(Some(found));
            if is_old && place.is_none() {
                renameat(parent, other, parent, name)?;
            } else if is_old && is_new(place) {
                swap(parent, other, name)?;
            }
        }
        fsync(parent)?;
        fail::fail_point!("worker-in-place-put-back");
        for other in [retired.as_bytes(), aside.as_bytes()] {
            let found = identity(parent, other)?;
            // Without a mark, nothing was exchanged: what is there is what was being made.
            if new.is_none() || is_new(found) {
                remove(parent.as_fd(), other)?;
            }
        }
        remove(parent.as_fd(), self.mark(attempt).as_bytes())
    }

    /// Removes the tree that was replaced; the catalog has the restore as completed.
    pub(super) fn remove_old(&self) -> Result<(), TargetError> {
        let (parent, _) = self
            .parent()
            .map_err(|error| TargetError::Unwritable(error.to_string()))?;
        fail::fail_point!("worker-in-place-before-removal");
        for attempt in self.attempts() {
            for name in [
                self.hidden(attempt),
                self.aside(attempt),
                self.retired(attempt),
                self.mark(attempt),
            ] {
                remove(parent.as_fd(), name.as_bytes()).map_err(|error| self.not_cleaned(error))?;
            }
        }
        Ok(())
    }

    fn not_replaced(&self, error: Errno) -> TargetError {
        let path = show_path(&self.path);
        match error {
            Errno::BUSY | Errno::XDEV => TargetError::Unusable(format!(
                "{path} is where a file system is mounted, and can't be replaced: restore the \
                 backup as a new agent"
            )),
            error => self.unwritable(error),
        }
    }

    fn not_put_back(&self, error: Errno) -> TargetError {
        TargetError::Unwritable(format!(
            "{} can't be put back as it was ({}): it will be as soon as the worker's user may \
             write there",
            show_path(&self.path),
            cause(error)
        ))
    }
}

/// Which folder a name is; None when there is none.
fn identity(parent: &OwnedFd, name: &[u8]) -> Result<Option<Identity>, Errno> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Exchanges two folders, in three steps where the file system can't do it in one: whatever is
/// killed in between, the next time goes on from there.
fn swap(parent: &OwnedFd, old: &[u8], name: &[u8]) -> Result<(), Errno> {
    match renameat_with(parent, old, parent, name, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            // `old` is the name aside here; the new tree goes to the other one.
            let retired = [old.strip_suffix(b".old").unwrap_or(old), b".retired"].concat();
            renameat(parent, name, parent, &retired)?;
            renameat(parent, old, parent, name)
        }
        swapped => swapped,
    }
}

#[cfg(test)]
mod tests;
