//! Where objects lie: a small contract that every destination keeps.
//!
//! Names are relative to the destination's root and use '/' between parts. An
//! acknowledged `put` *must* be durable and read back as written. `put` *must
//! not* leave a half-written object under its name.

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;

mod listing;
mod opendal_store;
mod s3;
mod scratch;
mod ssh;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use opendal_store::OpendalStore;
pub use s3::S3Store;
pub use ssh::SshStore;
pub(crate) use ssh::{known_hosts_keys, problems as ssh_problems};

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name below the destination's root.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// When it was last written, milliseconds since 1970, where the destination tells.
    pub modify_time_ms: Option<i64>,
}

/// A place for objects.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Writes a whole object, durably, and reads back that it is what was written.
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError>;
    /// Reads a whole object of at most `bytes_max` bytes.
    async fn get(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError>;
    /// Reads a part of an object; shorter only where the object ends.
    async fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes, StoreError>;
    /// An object's length, or `None` when it is not there.
    async fn stat(&self, name: &str) -> Result<Option<u64>, StoreError>;
    /// The objects directly under a prefix that ends in '/', in any order.
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError>;
    /// The names of the "folders" directly under a prefix that ends in '/'.
    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError>;
    /// Removes an object; one that is not there is removed already.
    async fn delete(&self, name: &str) -> Result<(), StoreError>;
    /// Removes what interrupted writes left, when older than `age_ms`; returns how many.
    async fn sweep(&self, age_ms: u64) -> Result<u64, StoreError>;
    /// Writes, reads and deletes a probe: whether the destination can be used.
    async fn check(&self) -> Result<(), StoreError>;
}
