//! A backup as it is stored, at a second destination: its sealed objects are copied, not
//! made anew.
//!
//! In reading order:
//!
//! - `keys`: data keys; what is there is never made to open with less
//! - `plan`: which packs have to be copied
//! - `packs`: packs on their way; and what can't be copied as it is
//!
//! # What the copy is
//!
//! The vault at the target is one of its own, which opens, verifies, compacts, recovers
//! and is deleted from like any other, with nothing of the source. Data keys, packs and
//! the manifest are the source's, byte by byte: so the digest in the catalog holds for
//! both. Indexes are the target's own, over what is stored there: those of the source say
//! what was retired and replaced *there*, and each of the two vaults is compacted when it
//! is its turn.
//!
//! What is copied is decided by chunk: a pack is copied when it holds a chunk that the
//! backup needs and that no pack at the target has. So it does not matter which packs a
//! compaction on either side has made out of which; and a pack that the target has
//! under its own arrangement is not copied again and again. What a copied pack holds
//! besides comes with it and is garbage to the target's next compaction.
//!
//! Two sorts of packs can't be copied as they are: those that the target has retired
//! (*retired is final*, see [`crate::compact`]), and those that are damaged. What the
//! backup needs of them is read, checked, and put into new packs. If it can't be
//! read, the copy fails and names the pack: every byte that is copied was opened before.
//!
//! Write order: keys, packs, index, manifest. Interrupted anywhere, another call goes on
//! from what is there. Before the manifest is put, what is at the target is looked at
//! anew: a manifest there means that all it needs is there.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use proto::vault::v1::IndexedPack;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::plan::Plan;
use crate::{
    error::{Result, StoreErrorKind, VaultError},
    keyring::Keyring,
    limits::DOCUMENT_BYTES_MAX,
    manifest::ManifestRef,
    meter::{Meter, Phase},
    pack::pack_name,
    read::{BackupReader, blocking},
    store::Store,
    vault::Vault,
};

mod keys;
mod packs;
mod plan;

/// What a copy did.
#[derive(Debug, Clone, Default)]
pub struct CopyReport {
    /// Packs that were copied as they are.
    pub packs: u64,
    /// Packs of the source that could not be: what the backup needs of them was put into
    /// new packs.
    pub repacked_packs: u64,
    /// Bytes written to the target.
    pub stored_bytes: u64,
    /// Bytes the vault takes at the target afterwards.
    pub vault_bytes: u64,
    /// Ids of the data keys that the copy brought or found there.
    pub data_key_ids: Vec<String>,
    /// Ids of the key-encryption keys that any data key at the target is wrapped under.
    pub wrapped_under: Vec<String>,
}

/// One copy under way.
struct Copying {
    source: Vault,
    target: Vault,
    reader: BackupReader,
    /// Packs that the target must not list again.
    retired_ids: HashSet<[u8; 32]>,
    plan: Plan,
    meter: Arc<Meter>,
    report: CopyReport,
    /// Packs at the target that are in no index of it.
    unindexed: Vec<IndexedPack>,
    unindexed_chunks: usize,
}

impl Vault {
    /// Copies a backup as it is stored to this agent's vault at another destination. The
    /// caller must be the only writer of both vaults, as far as it knows. Interrupted at
    /// any point, a later call goes on; done again, it writes nothing. An error of the
    /// other destination is a [`VaultError::Target`].
    pub async fn copy_backup(
        &self,
        at: &ManifestRef,
        to: Arc<dyn Store>,
        keyring: &Keyring,
        cancel: CancellationToken,
        meter: Arc<Meter>,
    ) -> Result<CopyReport> {
        // Threads that work for this call end when it is dropped.
        let cancel = cancel.child_token();
        let _ended = cancel.clone().drop_guard();
        let copy = self.copy_until(at, to, keyring, &cancel, meter);
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(VaultError::Canceled),
            done = copy => done,
        }
    }

    async fn copy_until(
        &self,
        at: &ManifestRef,
        to: Arc<dyn Store>,
        keyring: &Keyring,
        cancel: &CancellationToken,
        meter: Arc<Meter>,
    ) -> Result<CopyReport> {
        meter.set_phase(Phase::Preparing);
        let mut report = CopyReport::default();
        // Damage of the manifest is told before anything is written.
        let (_, digest) = self.read_manifest(at).await?;
        let at = ManifestRef {
            digest: Some(digest),
            ..at.clone()
        };
        let reader = self.open_backup(&at, cancel.clone()).await?;
        keys::copy(self, &*to, keyring, &mut report).await?;
        fail::fail_point!("vault-copy-keys-stored");
        let target = Self::open(to, &self.agent_id, keyring, self.settings.clone()).await;
        let target = target.map_err(there)?;
        report.wrapped_under = target.wrapped_under().to_vec();
        let contents = target.load_contents().await.map_err(there)?;
        let plan = Plan::make(&reader, contents.chunks, &meter).await?;
        let mut copying = Copying {
            source: self.clone(),
            target,
            reader,
            retired_ids: contents.retired_ids,
            plan,
            meter,
            report,
            unindexed: contents.adopted,
            unindexed_chunks: 0,
        };
        copying.run(&at).await?;
        Ok(copying.report)
    }
}

impl Copying {
    async fn run(&mut self, at: &ManifestRef) -> Result<()> {
        self.meter.set_phase(Phase::Transferring);
        self.copy_packs().await?;
        self.meter.set_phase(Phase::Committing);
        self.write_index().await?;
        fail::fail_point!("vault-copy-index-stored");
        self.check_complete().await?;
        self.copy_manifest(at).await?;
        fail::fail_point!("vault-copy-manifest-stored");
        self.report.vault_bytes = self.target.stored_bytes().await.map_err(there)?;
        let report = &self.report;
        info!(agent_id = %self.source.agent_id, backup_id = at.backup_id, ?report, "backup copied");
        Ok(())
    }

    /// Stores an index over the packs that are in none.
    async fn write_index(&mut self) -> Result<()> {
        let packs = std::mem::take(&mut self.unindexed);
        self.unindexed_chunks = 0;
        if packs.is_empty() {
            return Ok(());
        }
        let written = self.target.write_indexes(packs, Vec::new(), Vec::new());
        let (_, bytes) = written.await.map_err(there)?;
        self.count_stored(bytes);
        Ok(())
    }

    /// All that the backup needs is at the target, for someone who looks there now.
    async fn check_complete(&self) -> Result<()> {
        let found = self.target.load_contents().await.map_err(there)?;
        let (reader, needed) = (self.reader.clone(), self.plan.needed.clone());
        blocking(move || {
            let chunks = found.read_chunks();
            let index = reader.chunk_index();
            let lacking = |number: &u32| chunks.find(&index.id(*number)).is_none();
            match needed.iter().find(lacking) {
                Some(number) => {
                    let segment = index.segments[index.location(number).segment as usize];
                    let object = pack_name(&index.packs[segment.pack as usize].id);
                    Err(there(VaultError::Changed { object }))
                }
                None => Ok(()),
            }
        })
        .await
    }

    /// Copies the manifest, unless it is there.
    async fn copy_manifest(&mut self, at: &ManifestRef) -> Result<()> {
        let object = at.name();
        let sealed = read(&self.source, &object).await?;
        let sealed = sealed.ok_or_else(|| VaultError::Missing {
            object: object.clone(),
        })?;
        if at.digest != Some(*blake3::hash(&sealed).as_bytes()) {
            return Err(VaultError::Replayed { object });
        }
        if read(&self.target, &object).await.map_err(there)?.as_ref() == Some(&sealed) {
            return Ok(());
        }
        let (full, bytes) = (format!("{}{object}", self.target.root), sealed.len() as u64);
        let put = self.target.store.put(&full, sealed).await;
        put.map_err(|error| there(error.into()))?;
        self.count_stored(bytes);
        Ok(())
    }

    fn count_stored(&mut self, bytes: u64) {
        self.report.stored_bytes += bytes;
        self.meter.stored_bytes.fetch_add(bytes, Relaxed);
    }
}

/// A document as it is stored, if it is there.
async fn read(vault: &Vault, name: &str) -> Result<Option<Bytes>> {
    let full = format!("{}{name}", vault.root);
    match vault.store.get(&full, DOCUMENT_BYTES_MAX).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Says that it is the target where something is wrong.
fn there(error: VaultError) -> VaultError {
    match error {
        error @ (VaultError::Canceled | VaultError::Target(_)) => error,
        error => VaultError::Target(Box::new(error)),
    }
}
