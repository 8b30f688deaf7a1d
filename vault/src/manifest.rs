//! Manifests: the documents that make backups.

use prost::Message as _;
use proto::vault::v1::Manifest;

use crate::{
    error::{Result, VaultError},
    limits::{CHUNK_ID_BYTES, LIST_DEPTH_MAX},
    random,
    seal::Kind,
    vault::Vault,
};

/// Version of the manifests that this program writes and reads.
const MANIFEST_VERSION: u32 = 1;

/// Names one manifest object. Two attempts at the same backup write two
/// objects; the catalog says which one counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ManifestRef {
    /// The backup.
    pub backup_id: String,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// BLAKE3 of the object as stored, where known: a storage that serves
    /// another one is found out.
    pub digest: Option<[u8; 32]>,
}

impl ManifestRef {
    /// The object's name below the vault.
    pub fn name(&self) -> String {
        format!("backups/{}.{}", self.backup_id, self.attempt)
    }

    /// From an object's name below `backups/`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let (backup_id, attempt) = name.rsplit_once('.')?;
        let attempt = attempt.parse().ok()?;
        let this = Self {
            backup_id: backup_id.to_owned(),
            attempt,
            digest: None,
        };
        (this.name().strip_prefix("backups/") == Some(name)).then_some(this)
    }
}

impl Vault {
    /// Reads a manifest, and compares it with its digest where that is known.
    /// Returns it with the digest of what was read.
    pub async fn read_manifest(&self, at: &ManifestRef) -> Result<(Manifest, [u8; 32])> {
        let name = at.name();
        let (plain, digest) = self.read_document(Kind::Manifest, &name).await?;
        if at.digest.is_some_and(|expected| expected != digest) {
            return Err(VaultError::Replayed { object: name });
        }
        let manifest =
            Manifest::decode(&*plain).map_err(|_| VaultError::corrupt(&name, "malformed"))?;
        if manifest.format_version != MANIFEST_VERSION {
            return Err(VaultError::Version {
                object: name,
                version: manifest.format_version,
                supported: MANIFEST_VERSION,
            });
        }
        let entries = manifest.entries.as_ref();
        if manifest.backup_id != at.backup_id
            || manifest.attempt != at.attempt
            || manifest.agent_id != self.agent_id
            || manifest.pack_ids.len() % 32 != 0
            || entries
                .is_none_or(|e| e.chunk_ids.len() % CHUNK_ID_BYTES != 0 || e.depth > LIST_DEPTH_MAX)
        {
            return Err(VaultError::corrupt(
                &name,
                "it contradicts its name or itself",
            ));
        }
        Ok((manifest, digest))
    }

    /// Seals a manifest and stores it under its own name.
    pub(crate) async fn write_manifest(
        &self,
        mut manifest: Manifest,
    ) -> Result<(ManifestRef, u64)> {
        manifest.format_version = MANIFEST_VERSION;
        let mut at = ManifestRef {
            backup_id: manifest.backup_id.clone(),
            attempt: manifest.attempt,
            digest: None,
        };
        let plain = manifest.encode_to_vec();
        let (digest, bytes) = self
            .write_document(
                self.keys.writing(),
                Kind::Manifest,
                random::bytes(),
                &at.name(),
                &plain,
            )
            .await?;
        at.digest = Some(digest);
        Ok((at, bytes))
    }
}
