//! Goes down and up through folders of any depth with a bounded number of open folders.
//!
//! Paths may be far longer than what the operating system takes at once, and deeper than the
//! number of files a process may have open: only the deepest [`OPEN_MAX`] folders stay open. One
//! that was closed is opened again through `..`, and trusted only when it still is the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{fstat, openat},
    io::{Errno, Result},
};

use super::{FOLDER, NO_MODE};

/// Folders that stay open on the way down, besides the root.
const OPEN_MAX: usize = 64;

/// A place in a tree of folders: the root, and the folders on the way down from it.
pub(crate) struct Descent {
    root: OwnedFd,
    levels: Vec<Level>,
}

struct Level {
    /// Closed when it is far above the deepest one.
    folder: Option<OwnedFd>,
    identity: (u64, u64),
    name: Box<[u8]>,
}

impl Descent {
    /// Starts at `root`.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            levels: Vec::new(),
        }
    }

    /// Folders below the root.
    pub(crate) fn depth(&self) -> usize {
        self.levels.len()
    }

    /// The folder at which this is now.
    pub(crate) fn here(&self) -> BorrowedFd<'_> {
        self.levels
            .last()
            .and_then(|level| level.folder.as_ref())
            .unwrap_or(&self.root)
            .as_fd()
    }

    /// The root.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Name of the folder at `level`, 0 being directly below the root.
    pub(crate) fn name(&self, level: usize) -> &[u8] {
        &self.levels[level].name
    }

    /// Goes down into the folder `name`, which must not be a symbolic link.
    pub(crate) fn enter(&mut self, name: &[u8]) -> Result<()> {
        let folder = openat(self.here(), name, FOLDER, NO_MODE)?;
        let stat = fstat(&folder)?;
        if self.levels.len() >= OPEN_MAX {
            let far = self.levels.len() - OPEN_MAX;
            self.levels[far].folder = None;
        }
        self.levels.push(Level {
            folder: Some(folder),
            identity: (stat.st_dev, stat.st_ino),
            name: name.into(),
        });
        Ok(())
    }

    /// Goes up one folder, and returns the one that was left. Fails with `STALE` when the folder
    /// above was moved or replaced meanwhile; further up it may still be the same.
    pub(crate) fn leave(&mut self) -> Result<Option<OwnedFd>> {
        let Some(left) = self.levels.pop() else {
            return Ok(None);
        };
        let Some(above) = self.levels.last() else {
            return Ok(left.folder);
        };
        if above.folder.is_none() {
            let identity = above.identity;
            let folder = left
                .folder
                .as_ref()
                .ok_or(Errno::STALE)
                .and_then(|below| open_same(below.as_fd(), b"..", identity))
                .or_else(|_| self.open_from_root(identity))?;
            if let Some(above) = self.levels.last_mut() {
                above.folder = Some(folder);
            }
        }
        Ok(left.folder)
    }

    fn open_from_root(&self, identity: (u64, u64)) -> Result<OwnedFd> {
        let mut folder: Option<OwnedFd> = None;
        for level in &self.levels {
            let from = folder.as_ref().unwrap_or(&self.root).as_fd();
            folder = Some(open_same(from, &level.name, level.identity)?);
        }
        folder
            .filter(|_| {
                self.levels
                    .last()
                    .is_some_and(|level| level.identity == identity)
            })
            .ok_or(Errno::STALE)
    }
}

fn open_same(from: BorrowedFd<'_>, name: &[u8], identity: (u64, u64)) -> Result<OwnedFd> {
    let folder = openat(from, name, FOLDER, NO_MODE)?;
    let stat = fstat(&folder)?;
    if (stat.st_dev, stat.st_ino) == identity {
        Ok(folder)
    } else {
        Err(Errno::STALE)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, mkdirat, open};

    use super::*;

    #[test]
    fn deeper_than_a_path_may_be_long() {
        let temporary = tempfile::tempdir().unwrap();
        let root = open(temporary.path(), FOLDER, NO_MODE).unwrap();
        let mut descent = Descent::new(root);
        let name = [b'n'; 100];
        for depth in 0..300 {
            assert_eq!(descent.depth(), depth);
            mkdirat(descent.here(), &name[..], Mode::from_raw_mode(0o700)).unwrap();
            descent.enter(&name).unwrap();
        }
        assert!(descent.levels.iter().filter(|l| l.folder.is_some()).count() <= OPEN_MAX);
        for _ in 0..300 {
            descent.leave().unwrap();
        }
        let root = fstat(descent.root()).unwrap();
        assert_eq!(fstat(descent.here()).unwrap().st_ino, root.st_ino);
        super::super::remove::remove_content(descent.root()).unwrap();
        assert!(
            std::fs::read_dir(temporary.path())
                .unwrap()
                .next()
                .is_none()
        );
    }

    #[test]
    fn a_folder_that_was_moved_away_is_not_mistaken_for_another() {
        let temporary = tempfile::tempdir().unwrap();
        let root = open(temporary.path(), FOLDER, NO_MODE).unwrap();
        let mut descent = Descent::new(root);
        for _ in 0..OPEN_MAX + 4 {
            mkdirat(descent.here(), b"d".as_slice(), Mode::from_raw_mode(0o700)).unwrap();
            descent.enter(b"d").unwrap();
        }
        let elsewhere = temporary.path().join("elsewhere");
        std::fs::rename(temporary.path().join("d/d"), elsewhere).unwrap();
        for _ in 0..OPEN_MAX + 2 {
            descent.leave().unwrap();
        }
        // The folder at d/d was moved below the root: ".." of it is not d any more, and d itself
        // is found again from the root.
        descent.leave().unwrap();
        let d = std::os::unix::fs::MetadataExt::ino(
            &std::fs::metadata(temporary.path().join("d")).unwrap(),
        );
        assert_eq!(fstat(descent.here()).unwrap().st_ino, d);
    }
}
