//! Decoded segments: buffers that are used again, and a cache bounded in bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;

/// Buffers that wait to be used again, at most.
const SPARES_MAX: usize = 6;

/// Locks; what a panic left behind is still whole, as nothing here is half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buffers of a segment's length: fresh memory costs more than decoding into it.
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer with room for `bytes`.
    pub(super) fn take(&self, bytes: usize) -> Vec<u8> {
        let mut buffer = lock(&self.0).pop().unwrap_or_default();
        buffer.clear();
        buffer.reserve_exact(bytes);
        buffer
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut spares = lock(&self.0);
        if spares.len() < SPARES_MAX {
            spares.push(buffer);
        }
    }
}

/// What a buffer was filled with; the buffer goes back once nobody needs it.
struct Filled {
    buffer: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.buffer));
    }
}

/// A filled buffer as bytes that can be shared and sliced without copying.
pub(super) fn share(buffer: Vec<u8>, home: &Arc<Buffers>) -> Bytes {
    Bytes::from_owner(Filled {
        buffer,
        home: home.clone(),
    })
}

/// The segments used last, by number.
pub(super) struct SegmentCache {
    segments: LruCache<u32, Bytes>,
    bytes: usize,
    bytes_max: usize,
}

impl SegmentCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            segments: LruCache::unbounded(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(super) fn get(&mut self, number: u32) -> Option<Bytes> {
        self.segments.get(&number).cloned()
    }

    pub(super) fn put(&mut self, number: u32, segment: Bytes) {
        self.bytes += segment.len();
        if let Some(old) = self.segments.put(number, segment) {
            self.bytes -= old.len();
        }
        // The newest always stays: it is the one in use.
        while self.bytes > self.bytes_max && self.segments.len() > 1 {
            if let Some((_, old)) = self.segments.pop_lru() {
                self.bytes -= old.len();
            }
        }
    }
}
