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
    sources::{CaptureContext, UndoLog},
    targets::RestoreContext,
};

/// A folder with room for agents and a vault.
pub(crate) struct Bench {
    pub(crate) temporary: tempfile::TempDir,
    pub(crate) settings: WorkerSettings,
    pub(crate) vault: Vault,
}

/// Notes nothing.
pub(crate) struct NoUndo;

#[async_trait]
impl UndoLog for NoUndo {
    async fn note_paused(&self, _container: Option<&str>) -> Result<(), CatalogError> {
        Ok(())
    }

    async fn note_after(&self, _hook: Option<&catalog::AfterHook>) -> Result<(), CatalogError> {
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
            patterns: Arc::default(),
            undo: Arc::new(NoUndo),
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
            in_place: false,
            decisions: Vec::new(),
            cancel: CancellationToken::new(),
            meter: Arc::new(Meter::default()),
        }
    }
}

/// A catalog, a queue, a bus and a destination, with a dispatcher between catalog and queue: what
/// a worker needs to run.
pub(crate) struct Site {
    pub(crate) temporary: tempfile::TempDir,
    pub(crate) catalog: catalog::Catalog,
    pub(crate) queue: Arc<queue::InProcessQueue>,
    pub(crate) bus: Arc<queue::InProcessBus>,
    pub(crate) settings: WorkerSettings,
    _dispatcher: tokio_util::task::AbortOnDropHandle<()>,
}

/// A worker of a site that runs; stops when told to, or dropped.
pub(crate) struct Running {
    pub(crate) shared: Arc<crate::runner::Shared>,
    pub(crate) task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Running {
    /// Tells the worker to stop and waits until it has.
    pub(crate) async fn stop(self) {
        self.shared.shutdown.cancel();
        self.task.await.unwrap();
    }

    /// The same, once something is so.
    pub(crate) async fn stop_when(self, is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        self.stop().await;
    }
}

impl Site {
    /// A site with one agent, `agent`, whose folder holds one file.
    pub(crate) async fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let agents = temporary.path().join("agents");
        std::fs::create_dir_all(agents.join("agent")).unwrap();
        std::fs::write(agents.join("agent/file"), "hello").unwrap();
        let catalog_settings = catalog::CatalogSettings {
            retry_base_ms: 1,
            ..catalog::CatalogSettings::sqlite(temporary.path().join("catalog.db"))
        };
        let catalog = catalog::Catalog::connect(&catalog_settings).await.unwrap();
        catalog.migrate().await.unwrap();
        let queue = Arc::new(queue::InProcessQueue::new());
        let dispatcher = tokio::spawn(dispatch(catalog.clone(), queue.clone()));
        let site = Self {
            settings: WorkerSettings {
                source_roots: Paths::from([agents]),
                drain: std::time::Duration::ZERO,
                ..WorkerSettings::default()
            },
            temporary,
            catalog,
            queue,
            bus: Arc::new(queue::InProcessBus::new()),
            _dispatcher: tokio_util::task::AbortOnDropHandle::new(dispatcher),
        };
        site.register("agent").await;
        site
    }

    /// A path among the agents.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.temporary.path().join("agents").join(name)
    }

    /// Registers an agent with the folder of its name.
    pub(crate) async fn register(&self, agent_id: &str) {
        let agent = catalog::NewAgent {
            agent_id: agent_id.to_owned(),
            display_name: agent_id.to_owned(),
            owner_id: "owner".to_owned(),
            workspace_id: String::new(),
            source: api::Source {
                kind: Some(api::source::Kind::Directory(api::DirectorySource {
                    path: self.at(agent_id).to_str().unwrap().to_owned(),
                })),
            },
            integrations: vec![api::Integration {
                r#type: "slack".to_owned(),
                name: "main".to_owned(),
                config_json: "{}".to_owned(),
            }],
            pool: "default".to_owned(),
            patterns: Vec::new(),
            size_warning_bytes: 0,
            destination_id: String::new(),
            second_destination_id: String::new(),
        };
        self.catalog
            .register_agent(agent, None, crate::clock::now_ms())
            .await
            .unwrap();
    }

    /// Asks for a backup.
    pub(crate) async fn create_backup(&self, agent_id: &str) -> catalog::Backup {
        self.create_backup_by(agent_id, catalog::Trigger::Manual)
            .await
    }

    /// Creates a backup as a person or a schedule does.
    pub(crate) async fn create_backup_by(
        &self,
        agent_id: &str,
        trigger: catalog::Trigger,
    ) -> catalog::Backup {
        let backup = catalog::NewBackup {
            agent_id: agent_id.to_owned(),
            owner_id: "owner".to_owned(),
            name: "a name".to_owned(),
            trigger,
            request: None,
        };
        self.catalog
            .create_backup(backup, crate::clock::now_ms())
            .await
            .unwrap()
    }

    /// Starts a worker that does the jobs' own work.
    pub(crate) fn start(&self) -> Running {
        self.start_with(Arc::new(|context| {
            futures::FutureExt::boxed(crate::jobs::run(context))
        }))
    }

    /// What a worker of this site is made of.
    pub(crate) fn shared(&self, work: crate::runner::Work) -> crate::runner::Shared {
        let store = OpendalStore::local(&self.temporary.path().join("store")).unwrap();
        crate::runner::Shared {
            catalog: self.catalog.clone(),
            queue: self.queue.clone(),
            bus: self.bus.clone(),
            destinations: Arc::new(
                destinations::Destinations::new(self.catalog.clone(), keyring())
                    .with_store(destinations::DEFAULT, Arc::new(store)),
            ),
            keyring: keyring(),
            vault_settings: VaultSettings {
                threads: 1,
                ..VaultSettings::default()
            },
            settings: self.settings.clone(),
            name: format!("worker-{}", uuid::Uuid::now_v7()),
            shutdown: CancellationToken::new(),
            work,
        }
    }

    /// Starts a worker that does other work.
    pub(crate) fn start_with(&self, work: crate::runner::Work) -> Running {
        let shared = Arc::new(self.shared(work));
        let task = tokio::spawn(crate::runner::take_jobs(shared.clone()));
        Running {
            shared,
            task: tokio_util::task::AbortOnDropHandle::new(task),
        }
    }

    /// Waits until a job is as it shall be.
    pub(crate) async fn job_until(
        &self,
        job_id: &str,
        is: impl Fn(&catalog::Job) -> bool,
    ) -> catalog::Job {
        let mut last = None;
        for _ in 0..3000 {
            last = self.catalog.get_job(job_id).await.unwrap();
            if last.as_ref().is_some_and(&is) {
                return last.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the job never was as it shall be: {last:?}");
    }

    /// Waits until a job has ended.
    pub(crate) async fn job_ended(&self, job_id: &str) -> catalog::Job {
        self.job_until(job_id, |job| job.state.is_ended()).await
    }

    /// A backup as it is now.
    pub(crate) async fn backup(&self, backup_id: &str) -> catalog::Backup {
        self.catalog.get_backup(backup_id).await.unwrap().unwrap()
    }
}

/// Tells the queue of jobs that are due.
async fn dispatch(catalog: catalog::Catalog, queue: Arc<queue::InProcessQueue>) {
    use queue::JobQueue as _;
    let mut work = catalog.work();
    loop {
        let now_ms = crate::clock::now_ms();
        for item in catalog.undispatched_jobs(100, now_ms).await.unwrap() {
            let route = queue::Route {
                pool: item.pool.clone(),
                urgency: match item.urgency {
                    catalog::Urgency::Manual => queue::Urgency::Manual,
                    catalog::Urgency::Scheduled => queue::Urgency::Scheduled,
                },
            };
            queue.publish(&route, &item.job_id).await.unwrap();
            catalog.mark_dispatched(&item, now_ms).await.unwrap();
        }
        let again = std::time::Duration::from_millis(20);
        let _ = tokio::time::timeout(again, work.added()).await;
    }
}
