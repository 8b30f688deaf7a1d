//! Which backups a vault holds, as its manifests tell.

use std::collections::BTreeMap;

use proto::vault::v1::Manifest;

use super::RecoveredVault;
use crate::{
    error::{Result, VaultError},
    manifest::ManifestRef,
};

/// A backup whose manifest, of one attempt or several, is stored.
#[derive(Debug)]
pub struct FoundBackup {
    /// Its id.
    pub backup_id: String,
    /// The attempt that counts, with the digest of its manifest as stored: without
    /// a catalog, the highest that can be read.
    pub at: Option<ManifestRef>,
    /// Its manifest.
    pub manifest: Option<Manifest>,
    /// Attempts besides, lower ones, that are complete backups too.
    pub other_attempts: Vec<u32>,
    /// Manifests that can't be read, and why.
    pub damage: Vec<VaultError>,
}

impl FoundBackup {
    fn order(&self) -> (u64, i64, &str) {
        let manifest = self.manifest.as_ref();
        (
            manifest.map_or(u64::MAX, |manifest| manifest.sequence),
            manifest.map_or(i64::MAX, |manifest| manifest.end_time_ms),
            &self.backup_id,
        )
    }
}

impl RecoveredVault {
    /// The vault's backups: oldest first, then those of which no manifest can be read.
    pub async fn backups(&self) -> Result<Vec<FoundBackup>> {
        let mut attempts: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for at in self.vault.manifests().await? {
            attempts.entry(at.backup_id).or_default().push(at.attempt);
        }
        let mut backups = Vec::with_capacity(attempts.len());
        for (backup_id, mut attempts) in attempts {
            attempts.sort_unstable_by(|a, b| b.cmp(a));
            backups.push(self.backup(backup_id, attempts).await?);
        }
        backups.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(backups)
    }

    async fn backup(&self, backup_id: String, attempts: Vec<u32>) -> Result<FoundBackup> {
        let mut found = FoundBackup {
            backup_id,
            at: None,
            manifest: None,
            other_attempts: Vec::new(),
            damage: Vec::new(),
        };
        for attempt in attempts {
            if found.at.is_some() {
                found.other_attempts.push(attempt);
                continue;
            }
            let mut at = ManifestRef {
                backup_id: found.backup_id.clone(),
                attempt,
                digest: None,
            };
            match self.vault.read_manifest(&at).await {
                Ok((manifest, digest)) => {
                    at.digest = Some(digest);
                    (found.at, found.manifest) = (Some(at), Some(manifest));
                }
                Err(error) if error.is_fault() => found.damage.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}
