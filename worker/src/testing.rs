//! What the tests of this crate stand on: a vault in a temporary folder, and backups and restores
//! of folders without catalog and queue.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use catalog::CatalogError;
use proto::{
    backup::v1::{self as api, RestorePlan, restore_plan},
    vault::v1::Entry,
};
use tokio_util::sync::CancellationToken;
use vault::{
    BackupSpec, BackupWriter, Committed, KeyEncryptionKey, Keyring, ManifestRef, Meter,
    OpendalStore, Vault, VaultSettings,
};

use crate::{
    settings::{Paths, WorkerSettings},
    sources::{CaptureContext, PauseLog},
    targets::RestoreContext,
};

/// A folder with room for agents and a vault.
pub(crate) struct Bench {
    pub(crate) temporary: tempfile::TempDir,
    pub(crate) settings: WorkerSettings,
    pub(crate) vault: Vault,
}

/// Notes no pauses.
pub(crate) struct NoPauses;

#[async_trait]
impl PauseLog for NoPauses {
    async fn note(&self, _container: Option<&str>) -> Result<(), CatalogError> {
        Ok(())
    }
}

/// A keyring that is the same in every test.
pub(crate) fn keyring() -> Keyring {
    Keyring::new(
        KeyEncryptionKey::from_hex(&"5a".repeat(32)).unwrap(),
        Vec::new(),
    )
}

impl Bench {
    /// A bench with an empty vault.
    pub(crate) async fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let agents = temporary.path().join("agents");
        std::fs::create_dir(&agents).unwrap();
        let store = OpendalStore::local(&temporary.path().join("store")).unwrap();
        let settings = VaultSettings {
            threads: 1,
            ..VaultSettings::default()
        };
        let vault = Vault::open_or_create(Arc::new(store), "agent", &keyring(), settings)
            .await
            .unwrap();
        Self {
            settings: WorkerSettings {
                source_roots: Paths::from([agents]),
                restore_devices: true,
                ..WorkerSettings::default()
            },
            temporary,
            vault,
        }
    }

    /// A path among the agents.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.temporary.path().join("agents").join(name)
    }

    /// A context whose previous backup was long ago or, with `previous_start_ms`, then.
    pub(crate) fn context(previous_start_ms: Option<i64>, meter: Arc<Meter>) -> CaptureContext {
        CaptureContext {
            backup_id: "backup".to_owned(),
            attempt: 1,
            agent_id: "agent".to_owned(),
            previous_start_ms,
            cancel: CancellationToken::new(),
            meter,
            pauses: Arc::new(NoPauses),
        }
    }

    /// A writer of a backup.
    pub(crate) async fn writer(
        &self,
        backup_id: &str,
        previous: Option<&ManifestRef>,
        meter: Arc<Meter>,
    ) -> BackupWriter {
        let spec = BackupSpec {
            backup_id: backup_id.to_owned(),
            attempt: 1,
            previous: previous.cloned(),
            ..BackupSpec::default()
        };
        self.vault
            .begin_backup(spec, CancellationToken::new(), meter)
            .await
            .unwrap()
    }

    /// Backs up a folder among the agents; what was written long after the previous backup's
    /// beginning counts as old.
    pub(crate) async fn backup(
        &self,
        backup_id: &str,
        name: &str,
        previous: Option<&ManifestRef>,
    ) -> Committed {
        let source = api::DirectorySource {
            path: self.at(name).to_str().unwrap().to_owned(),
        };
        let source = crate::sources::directory::DirectorySource::new(&self.settings, &source);
        self.capture(backup_id, &source, previous, i64::MAX / 2)
            .await
    }

    /// Backs up a source.
    pub(crate) async fn capture(
        &self,
        backup_id: &str,
        source: &dyn crate::sources::Source,
        previous: Option<&ManifestRef>,
        previous_start_ms: i64,
    ) -> Committed {
        let meter = Arc::new(Meter::default());
        let writer = self.writer(backup_id, previous, meter.clone()).await;
        let context = Self::context(Some(previous_start_ms), meter);
        let writer = source.capture(context, writer).await.unwrap();
        tokio::task::spawn_blocking(move || writer.finish(0).unwrap())
            .await
            .unwrap()
    }

    /// The entries of a backup.
    pub(crate) async fn entries(&self, manifest: &ManifestRef) -> Vec<Entry> {
        let reader = self
            .vault
            .open_backup(manifest, CancellationToken::new())
            .await
            .unwrap();
        tokio::task::spawn_blocking(move || {
            reader
                .entries(None)
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap()
        })
        .await
        .unwrap()
    }

    /// What a restore into a folder is told.
    pub(crate) fn restore_context(path: &Path, attempt: u32) -> RestoreContext {
        RestoreContext {
            restore_id: "restore".to_owned(),
            attempt,
            plan: RestorePlan {
                target: Some(restore_plan::Target::Directory(api::DirectoryTarget {
                    path: path.to_str().unwrap().to_owned(),
                })),
                ..RestorePlan::default()
            },
            decisions: Vec::new(),
            cancel: CancellationToken::new(),
            meter: Arc::new(Meter::default()),
        }
    }
}
