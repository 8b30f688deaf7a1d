//! This crate's part of the configuration. Empty means not set.
//!
//! - [`destination`]: where vaults are kept; the settings of one kind each in `s3` and `ssh`
//! - `keys`: what wraps data keys
//! - [`secret`]: text that is not shown
//!
//! A new kind of destination adds a file like `s3` here, a field and an arm to
//! [`DestinationSettings`], and its checks to `crate::destination`.

use std::borrow::Cow;

use clap::Args;

use crate::limits::INDEX_CHUNKS_MAX;

pub mod destination;
mod keys;
mod s3;
pub mod secret;
mod ssh;

pub use destination::{DestinationError, DestinationSettings};
pub use keys::KeySettings;
pub use s3::{R2Settings, S3Settings};
pub use secret::Secret;
pub use ssh::SshSettings;

/// A setting that holds what it may not hold: one line that names the variable.
#[derive(Debug, thiserror::Error)]
#[error("{variable} {what}")]
pub struct SettingsError {
    /// The environment variable.
    pub variable: Cow<'static, str>,
    /// What it holds (never a secret), and what it may hold.
    pub what: String,
}

fn wrong(variable: &'static str, what: impl Into<String>) -> SettingsError {
    SettingsError {
        variable: variable.into(),
        what: what.into(),
    }
}

/// How much a vault may use.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Vault")]
pub struct VaultSettings {
    /// Threads that compress, seal and open for one job; 0: one for each core.
    #[arg(
        long = "vault-threads",
        env = "NORA_BACKUP_VAULT_THREADS",
        default_value_t = 0,
        value_name = "N"
    )]
    pub threads: usize,
    /// zstd level, 1 to 19.
    #[arg(
        long = "compression-level",
        env = "NORA_BACKUP_COMPRESSION_LEVEL",
        default_value_t = 3,
        value_name = "LEVEL",
        value_parser = clap::value_parser!(i32).range(1..=19)
    )]
    pub compression_level: i32,
    /// Chunks that one index object lists, about.
    #[arg(skip = INDEX_CHUNKS_MAX)]
    pub index_chunks_max: usize,
}

impl Default for VaultSettings {
    fn default() -> Self {
        Self {
            threads: 0,
            compression_level: 3,
            index_chunks_max: INDEX_CHUNKS_MAX,
        }
    }
}

impl VaultSettings {
    pub(crate) fn threads(&self) -> usize {
        if self.threads > 0 {
            return self.threads;
        }
        std::thread::available_parallelism().map_or(2, usize::from)
    }
}
