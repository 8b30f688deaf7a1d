//! Brings what a restore writes to the disk while it still writes, so that not everything is left
//! to do in the end.

use std::{os::fd::OwnedFd, thread::JoinHandle};

use crossbeam_channel::{Sender, bounded};
use rustix::{fs::syncfs, io::Result};

/// Bytes that are written before the disk is told about them.
const FLUSH_EVERY_BYTES: u64 = 64 * 1024 * 1024;

/// Flushes a file system in a thread of its own, again and again.
pub(super) struct Flusher {
    written: u64,
    flush: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// For the file system that an open folder is on. Without a thread everything is flushed in
    /// the end.
    pub(super) fn start(folder: &OwnedFd) -> Self {
        let (flush, asked) = bounded(1);
        let thread = folder.try_clone().ok().and_then(|folder| {
            std::thread::Builder::new()
                .name("flush".to_owned())
                .spawn(move || {
                    // What goes wrong here shows in the end as well.
                    for () in asked {
                        let _ = syncfs(&folder);
                    }
                })
                .ok()
        });
        Self {
            written: 0,
            flush: Some(flush),
            thread,
        }
    }

    /// Counts bytes that were written.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
        if self.written >= FLUSH_EVERY_BYTES
            && let Some(flush) = &self.flush
        {
            self.written = 0;
            // When it is busy still, it has enough to do.
            let _ = flush.try_send(());
        }
    }

    /// Flushes everything and waits for it.
    pub(super) fn finish(mut self, folder: &OwnedFd) -> Result<()> {
        self.stop();
        syncfs(folder)
    }

    fn stop(&mut self) {
        self.flush = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.stop();
    }
}
