//! The vault engine: what a backup is on disk, how it is written and read back.
//!
//! In reading order:
//!
//! - [`limits`]: every bound, by name
//! - [`error`]: what can go wrong, in words that tell what to do
//! - [`store`]: where objects lie (OpenDAL; in memory with faults, for tests)
//! - [`destination`]: opens a store from its description
//! - [`seal`], [`keyring`]: boxes, data keys, key-encryption keys
//! - [`pack`], [`index`], [`manifest`]: the objects of a vault
//! - [`vault`]: a vault opened
//! - [`write`]: source to vault: read, cut, segment, compress, seal, pack, put
//! - [`read`]: vault to sink: list, one file, everything, tar, verify
//! - [`recover`]: what is left, read without a catalog; damage is gone around
//! - [`compact`]: what no backup needs any more goes; [`mod@erase`]: everything does
//! - [`mod@rewrap`]: data keys under another key-encryption key
//! - [`copy`]: a backup as it is stored, at a second destination
//!
//! The format is described field by field in docs/format.md. This crate knows
//! nothing of gRPC, SQL, queues or containers.

pub mod compact;
pub mod copy;
pub mod destination;
pub mod erase;
pub mod error;
mod id;
mod index;
pub mod keyring;
pub mod limits;
pub mod manifest;
pub mod meter;
mod pack;
mod random;
pub mod read;
pub mod recover;
pub mod rewrap;
pub mod seal;
pub mod settings;
pub mod store;
pub mod vault;
pub mod write;

pub use compact::{CompactReport, CompactSpec};
pub use copy::CopyReport;
pub use error::{Result, StoreError, StoreErrorKind, VaultError};
pub use id::{check_path, compare_paths};
pub use keyring::{KeyEncryptionKey, Keyring};
pub use manifest::ManifestRef;
pub use meter::{Meter, Phase};
pub use read::{BackupReader, ContentReader, EntryIter, TarSpec, VerifyDepth, VerifyReport, Walk};
pub use recover::{FoundAgent, FoundBackup, RecoveredVault, Recovery};
pub use rewrap::{RewrapPolicy, RewrapReport, rewrap, survey};
pub use settings::{DestinationSettings, KeySettings, SettingsError, VaultSettings};
pub use store::{OpendalStore, Store};
pub use vault::Vault;
pub use write::{BackupSpec, BackupWriter, Committed};

/// The documents on disk, as generated from `proto/nora/vault/v1`.
pub use proto::vault::v1 as format;
