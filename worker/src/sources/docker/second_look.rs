//! A second look at files that were busy when they were read.
//!
//! The engine does not tell when a file changes while it reads it. Those that were written
//! shortly before are the ones that are likely to be written again: they are looked at once more
//! in the end, and named when they are not what was read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::container::PathStatResponse;
use futures::{StreamExt as _, stream};
use proto::vault::v1::Entry;
use tokio::{runtime::Handle, time::timeout};
use tokio_util::sync::CancellationToken;
use vault::BackupWriter;

use super::{engine::Engine, paths::absolute};

/// A file that was written this shortly before the capture began is looked at again.
const BUSY_WITHIN: Duration = Duration::from_mins(10);
/// Files that are looked at again at the most.
const FILES_MAX: usize = 1000;
/// Looks at the same time.
const LOOKS_AT_ONCE: usize = 4;
/// How long all looks may take together.
const LOOKS_MAX: Duration = Duration::from_secs(30);

/// Files to be looked at again.
pub(super) struct SecondLook {
    busy_since: i64,
    files: Vec<Seen>,
}

struct Seen {
    path: Vec<u8>,
    size: u64,
    mtime_seconds: i64,
}

impl Seen {
    fn is_the_same(&self, stat: &PathStatResponse) -> bool {
        let written = stat
            .modification_time
            .as_ref()
            .and_then(|time| time.parse::<jiff::Timestamp>().ok())
            .map(|time| time.as_duration().as_secs());
        // Archives tell of whole seconds, cut off.
        stat.size as u64 == self.size && written.is_none_or(|at| at == self.mtime_seconds)
    }
}

impl SecondLook {
    /// Of a capture that begins now.
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = now.unwrap_or_default().saturating_sub(BUSY_WITHIN);
        Self {
            busy_since: since.as_secs() as i64,
            files: Vec::new(),
        }
    }

    /// Notes a file that was read.
    pub(super) fn note(&mut self, entry: &Entry, size: u64) {
        if entry.mtime_seconds >= self.busy_since && self.files.len() < FILES_MAX {
            self.files.push(Seen {
                path: entry.path.clone(),
                size,
                mtime_seconds: entry.mtime_seconds,
            });
        }
    }

    /// Looks again, and names what is not as it was read.
    pub(super) fn warn(
        &mut self,
        runtime: &Handle,
        engine: &Engine,
        container: &str,
        cancel: &CancellationToken,
        writer: &mut BackupWriter,
    ) {
        let files = std::mem::take(&mut self.files);
        let looks = stream::iter(files)
            .map(|seen| async move {
                let path = absolute(&seen.path);
                // What can't be looked at, or is gone by now, was read as it was then.
                let stat = engine.stat(container, &path).await.ok().flatten()?;
                (!seen.is_the_same(&stat)).then_some(seen.path)
            })
            .buffered(LOOKS_AT_ONCE)
            .filter_map(std::future::ready)
            .for_each(|path| {
                writer.warn(
                    &path,
                    "was written while it was read: its content may be of two moments",
                );
                std::future::ready(())
            });
        let looks = async {
            // Canceling is noticed by what comes next.
            let _ = cancel.run_until_cancelled(timeout(LOOKS_MAX, looks)).await;
        };
        runtime.block_on(looks);
    }
}
