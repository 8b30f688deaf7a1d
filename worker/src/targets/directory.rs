//! A new folder as the target of a restore.
//!
//! Everything is made in a hidden folder beside the target, which only the worker may enter, and
//! renamed to the target in the end. The hidden folder is named by the restore and the attempt: a
//! later attempt finds and removes it, and an attempt that lost its job can't put anything in
//! place any more. Before the rename, a small mark beside the target says which folder is to
//! become the target; it goes when the catalog knows of the new agent. Until then, a target that
//! the mark names is this restore's own, and removed like everything else half-made.
//!
//! - `tree`: makes the entries, one after another
//! - `flusher`: brings it to the disk
//! - `in_place`: the same in place of a folder that is there
//! - `metadata`: owners, attributes, modes, times
//! - [`salvage`]: a folder made by hand, of a backup of which not all may be left

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use proto::backup::v1::{self as api, Source as SourceMessage, source::Kind};
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, fchmod, fremovexattr, fstat, fsync, mkdirat, openat,
        renameat, statat, unlinkat,
    },
    io::Errno,
};
use vault::BackupReader;

use super::{RestoreContext, Restored, Target, TargetError};
use crate::{
    files::{
        FOLDER, NO_MODE, cause,
        listing::{Buffer, Listing},
        remove::remove,
        roots::{RootError, Roots},
        show_path,
    },
    settings::WorkerSettings,
    unwinding::join,
};

mod flusher;
mod in_place;
mod metadata;
pub mod salvage;
mod tree;

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;

/// A folder that a restore makes.
pub struct DirectoryTarget(Arc<Place>);

/// Where the folder is made.
struct Place {
    roots: Roots,
    path: PathBuf,
    may_make_devices: bool,
    context: RestoreContext,
    /// Where it is noted what can't be brought back, when the rest shall be.
    lost: Option<salvage::LossLog>,
}

impl DirectoryTarget {
    /// The folder that a restore's plan names.
    pub fn new(
        settings: &WorkerSettings,
        target: api::DirectoryTarget,
        context: RestoreContext,
    ) -> Self {
        let path = PathBuf::from(OsStr::from_bytes(target.path.as_bytes()));
        Self::at(settings, path, context, None)
    }

    fn at(
        settings: &WorkerSettings,
        path: PathBuf,
        context: RestoreContext,
        lost: Option<salvage::LossLog>,
    ) -> Self {
        Self(Arc::new(Place {
            roots: Roots::new(&settings.source_roots),
            path,
            may_make_devices: settings.restore_devices,
            context,
            lost,
        }))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> Result<T, TargetError> + Send + 'static,
    ) -> Result<T, TargetError> {
        let place = self.0.clone();
        join(tokio::task::spawn_blocking(move || work(&place))).await
    }
}

#[async_trait]
impl Target for DirectoryTarget {
    async fn clean(&self) -> Result<(), TargetError> {
        self.blocking(|place| {
            if place.context.in_place {
                place.put_back()
            } else {
                place.clean()
            }
        })
        .await
    }

    async fn abandon(&self) -> Result<(), TargetError> {
        self.blocking(|place| {
            if place.context.in_place {
                // The next attempt finds what this one made, and what it put aside.
                Ok(())
            } else {
                place.abandon()
            }
        })
        .await
    }

    async fn write(&self, reader: BackupReader) -> Result<Restored, TargetError> {
        self.blocking(move |place| place.write(&reader)).await
    }

    async fn publish(&self) -> Result<(), TargetError> {
        self.blocking(|place| {
            if place.context.in_place {
                place.exchange()
            } else {
                place.publish()
            }
        })
        .await
    }

    async fn settle(&self) -> Result<(), TargetError> {
        self.blocking(|place| {
            if place.context.in_place {
                place.remove_old()
            } else {
                place.settle()
            }
        })
        .await
    }
}

impl Place {
    /// The name of what an attempt makes, out of sight.
    fn hidden(&self, attempt: u32) -> String {
        format!(".nora-restore-{}.{attempt}", self.context.restore_id)
    }

    /// The name of an attempt's mark, which says which folder is to become the target.
    fn mark(&self, attempt: u32) -> String {
        format!("{}.mark", self.hidden(attempt))
    }

    /// This attempt and those before it.
    fn attempts(&self) -> impl Iterator<Item = u32> {
        1..=self.context.attempt
    }

    /// The folder that holds the target, and the target's name in it.
    fn parent(&self) -> Result<(OwnedFd, &[u8]), RootError> {
        let name = self.path.file_name();
        let (Some(parent), Some(name)) = (self.path.parent(), name) else {
            return Err(RootError::Denied(format!(
                "folder {} can't be a target: name a folder below an allowed one",
                show_path(&self.path)
            )));
        };
        let (folder, _) = self.roots.open(parent)?;
        Ok((folder, name.as_bytes()))
    }

    fn clean(&self) -> Result<(), TargetError> {
        // Where nothing can be, nothing is left.
        let Ok((parent, name)) = self.parent() else {
            return Ok(());
        };
        let failed = |error| self.not_cleaned(error);
        for attempt in self.attempts() {
            let marked = self.read_mark(&parent, attempt).map_err(failed)?;
            if is_published(&parent, name, marked) {
                let hidden = self.hidden(self.context.attempt);
                remove(parent.as_fd(), hidden.as_bytes()).map_err(failed)?;
                renameat(&parent, name, &parent, &hidden).map_err(failed)?;
            }
        }
        for attempt in self.attempts() {
            self.remove_own(&parent, attempt)?;
        }
        Ok(())
    }

    fn abandon(&self) -> Result<(), TargetError> {
        let Ok((parent, name)) = self.parent() else {
            return Ok(());
        };
        let attempt = self.context.attempt;
        let marked = self.read_mark(&parent, attempt);
        if marked.is_ok_and(|marked| is_published(&parent, name, marked)) {
            // The next attempt tells by the mark that the folder is not a stranger's.
            return Ok(());
        }
        self.remove_own(&parent, attempt)
    }

    /// Removes what one attempt made out of sight.
    fn remove_own(&self, parent: &OwnedFd, attempt: u32) -> Result<(), TargetError> {
        remove(parent.as_fd(), self.hidden(attempt).as_bytes())
            .and_then(|()| remove(parent.as_fd(), self.mark(attempt).as_bytes()))
            .map_err(|error| self.not_cleaned(error))
    }

    fn not_cleaned(&self, error: Errno) -> TargetError {
        TargetError::Unwritable(format!(
            "what an attempt left beside {} can't be removed ({}): let the worker's user write \
             there",
            show_path(&self.path),
            cause(error)
        ))
    }

    fn write(&self, reader: &BackupReader) -> Result<Restored, TargetError> {
        let (parent, name) = self.parent().map_err(|error| match error {
            RootError::NotFound(_) => TargetError::Unusable(format!(
                "the folder that shall hold {} does not exist: make it, or choose another place",
                show_path(&self.path)
            )),
            RootError::Denied(message) => TargetError::Unusable(message),
        })?;
        if self.context.in_place {
            self.check_there(&parent, name)?;
        } else {
            self.check_free(&parent, name)?;
        }
        let hidden = self.hidden(self.context.attempt);
        let failed = |error| self.unwritable(error);
        mkdirat(&parent, &hidden, Mode::RWXU).map_err(failed)?;
        let folder = openat(&parent, &hidden, FOLDER, NO_MODE).map_err(failed)?;
        for inherited in ["system.posix_acl_access", "system.posix_acl_default"] {
            // What the parent hands down to new files is not the backup's.
            let _ = fremovexattr(&folder, inherited);
        }
        fchmod(&folder, Mode::RWXU).map_err(failed)?;
        let warnings = tree::make(
            folder,
            reader,
            &self.context,
            self.may_make_devices,
            self.lost.as_ref(),
        )?;
        Ok(Restored {
            source: SourceMessage {
                kind: Some(Kind::Directory(api::DirectorySource {
                    path: self.path.to_string_lossy().into_owned(),
                })),
            },
            warnings,
        })
    }

    /// Says no when the target is something already; an empty folder may be replaced.
    fn check_free(&self, parent: &OwnedFd, name: &[u8]) -> Result<(), TargetError> {
        let taken = |what: &str| {
            Err(TargetError::Unusable(format!(
                "{} {what}: remove it, or choose another folder for the new agent",
                show_path(&self.path)
            )))
        };
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.unwritable(error)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
                taken("exists already and is not a folder")
            }
            Ok(_) => {
                let folder = openat(parent, name, FOLDER, NO_MODE)
                    .map_err(|error| self.unwritable(error))?;
                let listing = Listing::read(folder.as_fd(), &mut Buffer::new())
                    .map_err(|error| self.unwritable(error))?;
                if listing.len() == 0 {
                    Ok(())
                } else {
                    taken("exists already and is not empty")
                }
            }
        }
    }

    fn publish(&self) -> Result<(), TargetError> {
        let (parent, name) = self
            .parent()
            .map_err(|error| TargetError::Unwritable(error.to_string()))?;
        let hidden = self.hidden(self.context.attempt);
        let failed = |error| self.unwritable(error);
        fail::fail_point!("worker-restore-before-mark");
        let folder = openat(&parent, &hidden, OFlags::PATH | FOLDER, NO_MODE).map_err(failed)?;
        let stat = fstat(&folder).map_err(failed)?;
        self.write_mark(&parent, (stat.st_dev, stat.st_ino))
            .map_err(failed)?;
        fail::fail_point!("worker-restore-before-rename");
        match renameat(&parent, &hidden, &parent, name) {
            Ok(()) => fsync(&parent).map_err(failed),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
                Err(TargetError::Unusable(format!(
                    "{} was made by someone else meanwhile: remove it, or choose another folder \
                     for the new agent",
                    show_path(&self.path)
                )))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn settle(&self) -> Result<(), TargetError> {
        let (parent, _) = self
            .parent()
            .map_err(|error| TargetError::Unwritable(error.to_string()))?;
        for attempt in self.attempts() {
            match unlinkat(&parent, self.mark(attempt), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(self.unwritable(error)),
            }
        }
        Ok(())
    }

    fn write_mark(&self, parent: &OwnedFd, identity: (u64, u64)) -> Result<(), Errno> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mark = self.mark(self.context.attempt);
        let file = openat(parent, mark, flags, Mode::RUSR | Mode::WUSR)?;
        let text = format!("{} {}\n", identity.0, identity.1);
        rustix::io::write(&file, text.as_bytes())?;
        fsync(&file)?;
        fsync(parent)
    }

    fn read_mark(&self, parent: &OwnedFd, attempt: u32) -> Result<Option<(u64, u64)>, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(parent, self.mark(attempt), flags, NO_MODE) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = [0; 64];
        let length = rustix::io::read(&file, &mut text)?;
        let text = String::from_utf8_lossy(&text[..length]);
        // A mark that was not written whole was never followed by a rename.
        Ok(text
            .strip_suffix('\n')
            .and_then(|text| text.split_once(' '))
            .and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?))))
    }

    fn unwritable(&self, error: Errno) -> TargetError {
        unwritable(&self.path, error)
    }
}

/// Whether the target is the folder that a mark names.
fn is_published(parent: &OwnedFd, name: &[u8], marked: Option<(u64, u64)>) -> bool {
    statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| marked == Some((stat.st_dev, stat.st_ino)))
}

/// Writing at a path failed.
fn unwritable(path: &Path, error: Errno) -> TargetError {
    let path = show_path(path);
    TargetError::Unwritable(match error {
        Errno::NOSPC | Errno::DQUOT => format!(
            "there is no room left for {path}: make room on its file system, or choose another \
             folder"
        ),
        error => format!(
            "{path} can't be made ({}): let the worker's user write there, or choose another \
             folder",
            cause(error)
        ),
    })
}
