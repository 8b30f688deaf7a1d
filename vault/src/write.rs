//! Source to vault.
//!
//! ```text
//!  caller's thread            compressors (n)       packer (1)         uploads (2)
//!  read, cut, hash, ──► segments ──► zstd, check ──► in order: seal, ──► put, read
//!  deduplicate          (bounded)                    check, fill pack    back
//! ```
//!
//! Write order, which *must* be kept: packs, then the index, then the manifest.
//! A backup exists once its manifest does; before that it is garbage that the
//! next attempt uses again or a compaction removes.

mod content;
mod finish;
mod pipeline;
mod previous;
mod repack;
mod segment;
mod writer;

pub(crate) use repack::{Repacked, Repacker};
pub use writer::{BackupSpec, BackupWriter, Committed};
