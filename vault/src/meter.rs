//! Counters that the vault turns and others read while work goes on.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// What the work does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Loads what the vault knows; looks at the source.
    Preparing = 0,
    /// Moves data.
    Transferring = 1,
    /// Stores index and manifest, or puts results in place.
    Committing = 2,
}

/// How far some work is. Counters only grow.
#[derive(Debug, Default)]
pub struct Meter {
    phase: AtomicU8,
    /// Entries done.
    pub entries_done: AtomicU64,
    /// Entries in all, 0 while unknown.
    pub entries_total: AtomicU64,
    /// Bytes of the agent's state done.
    pub bytes_done: AtomicU64,
    /// Bytes of the agent's state in all, 0 while unknown.
    pub bytes_total: AtomicU64,
    /// Bytes that the vault did not have, before compression.
    pub new_bytes: AtomicU64,
    /// Bytes written to the destination.
    pub stored_bytes: AtomicU64,
}

impl Meter {
    /// What the work does now.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Preparing,
            1 => Phase::Transferring,
            _ => Phase::Committing,
        }
    }

    /// Says what the work does now; phases only go forward.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Relaxed);
    }

    /// Counts one more entry.
    pub fn add_entry(&self) {
        self.entries_done.fetch_add(1, Relaxed);
    }

    /// Counts more bytes of the agent's state.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Relaxed);
    }
}
