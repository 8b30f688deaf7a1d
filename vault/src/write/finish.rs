//! The end of a backup: index, then manifest.

use std::collections::BTreeSet;

use super::writer::{BackupWriter, Committed};
use crate::{
    error::{Result, VaultError},
    meter::Phase,
};

impl BackupWriter {
    /// Stores what is left: packs, then the index, then the manifest. When this
    /// returns, the backup can be restored from the destination alone.
    pub fn finish(mut self, end_time_ms: i64) -> Result<Committed> {
        let entries = self.close_stream()?;
        self.meter.set_phase(Phase::Committing);
        let Self {
            vault,
            mut manifest,
            contents,
            used_segments,
            pipeline,
            mut statistics,
            runtime,
            cancel,
            ..
        } = self;
        let packed = pipeline.finish()?;
        if cancel.is_cancelled() {
            return Err(VaultError::Canceled);
        }
        statistics.stored_bytes = packed.stored_bytes;
        let mut packs = packed.packs;
        packs.extend(contents.adopted);
        fail::fail_point!("vault-before-index");
        if !packs.is_empty() {
            let (_, bytes) =
                runtime.block_on(vault.write_indexes(packs, Vec::new(), Vec::new()))?;
            statistics.stored_bytes += bytes;
        }
        fail::fail_point!("vault-before-manifest");
        let chunks = contents
            .chunks
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut needed = BTreeSet::new();
        for number in used_segments.iter() {
            let pack = chunks.segments[number as usize].pack;
            let pack = chunks.packs.get(pack as usize).ok_or_else(|| {
                VaultError::Internal(
                    "the backup refers to a segment that was not stored".to_owned(),
                )
            })?;
            needed.insert(pack.id);
        }
        drop(chunks);
        manifest.pack_ids = needed.iter().flatten().copied().collect();
        manifest.entries = Some(entries);
        manifest.end_time_ms = end_time_ms;
        manifest.statistics = Some(statistics);
        let (warnings, warnings_omitted) = (manifest.warnings.clone(), manifest.warnings_omitted);
        let sequence = manifest.sequence;
        let (manifest, bytes) = runtime.block_on(vault.write_manifest(manifest))?;
        statistics.stored_bytes += bytes;
        fail::fail_point!("vault-manifest-stored");
        let vault_bytes = runtime.block_on(vault.stored_bytes())?;
        Ok(Committed {
            manifest,
            sequence,
            statistics,
            warnings,
            warnings_omitted,
            vault_bytes,
        })
    }
}
