//! What no backup needs any more goes: dead packs are retired and, after a
//! grace period, removed; packs less than half live are rewritten.

use std::{collections::HashSet, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{error::Result, manifest::ManifestRef, meter::Meter, vault::Vault};

/// What a compaction may do.
#[derive(Debug, Clone)]
pub struct CompactSpec {
    /// Manifests that are known to be garbage: of failed, canceled or deleted
    /// backups, and of attempts that lost. They are removed first. All others
    /// that are stored count as live, known to the caller or not.
    pub garbage: HashSet<ManifestRef>,
    /// How long a retired pack waits for its removal, milliseconds.
    pub grace_ms: u64,
    /// Whether retired packs may be removed now (nobody reads the vault).
    pub may_remove: bool,
    /// The time now, milliseconds since 1970.
    pub now_ms: i64,
}

/// What a compaction did.
#[derive(Debug, Clone, Default)]
pub struct CompactReport {
    /// Manifests removed.
    pub removed_manifests: u64,
    /// Packs rewritten because less than half of them was live.
    pub rewritten_packs: u64,
    /// Packs retired.
    pub retired_packs: u64,
    /// Packs removed.
    pub removed_packs: u64,
    /// Bytes removed at the destination.
    pub removed_bytes: u64,
    /// Packs that wait for their grace period to pass.
    pub waiting_packs: u64,
    /// When the next of them may go, milliseconds since 1970.
    pub next_removal_ms: Option<i64>,
    /// Bytes the vault takes at the destination afterwards.
    pub vault_bytes: u64,
}

impl Vault {
    /// Removes what no backup needs any more. The caller must be the vault's
    /// only writer. Interrupted at any point, a later call goes on.
    pub async fn compact(
        &self,
        spec: CompactSpec,
        cancel: CancellationToken,
        meter: Arc<Meter>,
    ) -> Result<CompactReport> {
        let _ = (spec, cancel, meter);
        unimplemented!()
    }
}
