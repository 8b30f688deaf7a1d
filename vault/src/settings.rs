//! This crate's part of the configuration. Empty means not set.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, builder::TypedValueParser as _};

use crate::{
    error::{Result, VaultError},
    limits::INDEX_CHUNKS_MAX,
    store::{OpendalStore, Store},
};

mod keys;

pub use keys::KeySettings;

/// A setting that holds what it may not hold: one line that names the variable.
#[derive(Debug, thiserror::Error)]
#[error("{variable} {what}")]
pub struct SettingsError {
    /// The environment variable.
    pub variable: &'static str,
    /// What it holds (never a secret), and what it may hold.
    pub what: String,
}

fn wrong(variable: &'static str, what: impl Into<String>) -> SettingsError {
    SettingsError {
        variable,
        what: what.into(),
    }
}

/// Where vaults are kept.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Destination")]
pub struct DestinationSettings {
    /// Kind of destination: `local`.
    #[arg(
        long = "storage",
        env = "NORA_BACKUP_STORAGE",
        default_value = "local",
        value_name = "KIND"
    )]
    pub storage: String,
    /// Folder of the local destination.
    #[arg(
        long = "dir",
        env = "NORA_BACKUP_DIR",
        default_value = "",
        hide_default_value = true,
        value_name = "PATH",
        value_parser = clap::builder::StringValueParser::new().map(PathBuf::from)
    )]
    pub dir: PathBuf,
}

impl DestinationSettings {
    /// Opens the destination.
    pub fn open(&self) -> Result<Arc<dyn Store>, DestinationError> {
        match self.storage.as_str() {
            "" | "local" => {
                if self.dir.as_os_str().is_empty() {
                    return Err(wrong(
                        "NORA_BACKUP_DIR",
                        "is not set: set it to the folder that shall hold the backups",
                    )
                    .into());
                }
                if !self.dir.is_absolute() {
                    return Err(wrong(
                        "NORA_BACKUP_DIR",
                        format!("is \"{}\": set it to an absolute path", self.dir.display()),
                    )
                    .into());
                }
                Ok(Arc::new(
                    OpendalStore::local(&self.dir).map_err(VaultError::from)?,
                ))
            }
            other => Err(wrong(
                "NORA_BACKUP_STORAGE",
                format!("is {other:?}: this version knows `local`"),
            )
            .into()),
        }
    }
}

/// Why a destination does not open.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The destination refuses.
    #[error("NORA_BACKUP_DIR: {0}")]
    Vault(#[from] VaultError),
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
