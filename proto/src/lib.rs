//! The protobuf contracts, and the code generated from them.
//!
//! - [`backup`]: the public API (`proto/nora/backup/v1`)
//! - [`vault`]: the documents on disk (`proto/nora/vault/v1`)
//! - [`queue`]: what the queue and the event bus carry (`proto/nora/queue/v1`)
//! - [`ids`]: the form of ids that callers choose
//!
//! Nothing but contracts lives here.

// Generated code follows its generator's style.
#![allow(clippy::pedantic, clippy::large_enum_variant, missing_docs)]

pub mod ids;
mod redacted;

/// The public API.
pub mod backup {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("nora.backup.v1");
    }
}

/// The documents on disk.
pub mod vault {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("nora.vault.v1");
    }
}

/// What the queue and the event bus carry.
pub mod queue {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("nora.queue.v1");
    }
}

/// All descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
