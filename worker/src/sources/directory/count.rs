//! Counts what there is to do, ahead of the walk and beside it.
//!
//! It only asks for the state of every name, so it is soon done, and the walk finds what it asks
//! for in memory. The totals are told once they are whole.

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::Ordering::Relaxed,
    thread::JoinHandle,
};

use catalog::Patterns;
use rustix::{
    fs::{AtFlags, FileType, statat},
    io::Result,
};
use tokio_util::sync::CancellationToken;
use vault::Meter;

use crate::{
    files::{
        descent::Descent,
        listing::{Buffer, Listing},
    },
    sources::CaptureContext,
};

/// Counting that goes on; ends when this is dropped.
pub(super) struct Counting {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // Without totals the backup is as good: what went wrong here does not matter.
            let _ = thread.join();
        }
    }
}

/// Starts to count everything below an open folder.
pub(super) fn start(folder: &OwnedFd, context: &CaptureContext) -> Counting {
    let stop = context.cancel.child_token();
    let (meter, told_to_stop) = (context.meter.clone(), stop.clone());
    let patterns = context.patterns.clone();
    let thread = folder.try_clone().ok().and_then(|folder| {
        std::thread::Builder::new()
            .name("count".to_owned())
            .spawn(move || {
                if let Ok(Some(totals)) = count(folder, &patterns, &told_to_stop) {
                    totals.tell(&meter);
                }
            })
            .ok()
    });
    Counting { stop, thread }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    entries: u64,
    bytes: u64,
}

impl Totals {
    fn tell(&self, meter: &Meter) {
        meter.bytes_total.store(self.bytes, Relaxed);
        meter.entries_total.store(self.entries, Relaxed);
    }
}

/// Counts; `None` when told to stop. Folders that can't be opened count as empty.
fn count(folder: OwnedFd, patterns: &Patterns, stop: &CancellationToken) -> Result<Option<Totals>> {
    let mut totals = Totals {
        entries: 1,
        bytes: 0,
    };
    let mut linked = HashSet::new();
    let mut buffer = Buffer::new();
    // An own position: the walk reads the same open folder.
    let mut descent = Descent::new(rustix::fs::openat(
        folder.as_fd(),
        ".",
        crate::files::FOLDER,
        crate::files::NO_MODE,
    )?);
    let mut path = Vec::new();
    let mut listings = vec![(Listing::read(descent.here(), &mut buffer)?, 0, 0)];
    while let Some((listing, next, path_bytes)) = listings.last_mut() {
        if stop.is_cancelled() {
            return Ok(None);
        }
        let Some((name, _)) = listing.get(*next) else {
            listings.pop();
            descent.leave()?;
            continue;
        };
        *next += 1;
        let Ok(stat) = statat(descent.here(), name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        path.truncate(*path_bytes);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if patterns.leaves_out(&path, is_folder) {
            continue;
        }
        totals.entries += 1;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile
                if stat.st_nlink <= 1 || linked.insert((stat.st_dev, stat.st_ino)) =>
            {
                totals.bytes += stat.st_size as u64;
            }
            FileType::Directory if descent.enter(name).is_ok() => {
                let below = Listing::read(descent.here(), &mut buffer).unwrap_or_default();
                listings.push((below, 0, path.len()));
            }
            _ => {}
        }
    }
    Ok(Some(totals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_hard_links_once_and_follows_no_links() {
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path();
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        std::fs::write(base.join("a/b/file"), [7; 1000]).unwrap();
        std::fs::hard_link(base.join("a/b/file"), base.join("link")).unwrap();
        std::os::unix::fs::symlink("a", base.join("symbolic")).unwrap();
        let folder = rustix::fs::open(base, crate::files::FOLDER, crate::files::NO_MODE).unwrap();
        assert_eq!(
            count(folder, &Patterns::default(), &CancellationToken::new()).unwrap(),
            Some(Totals {
                entries: 6,
                bytes: 1000
            })
        );
        let folder = rustix::fs::open(base, crate::files::FOLDER, crate::files::NO_MODE).unwrap();
        let patterns = Patterns::new(&["b/".to_owned(), "symbolic/".to_owned()]).unwrap();
        assert_eq!(
            count(folder, &patterns, &CancellationToken::new()).unwrap(),
            Some(Totals {
                entries: 4,
                bytes: 1000
            })
        );
    }
}
