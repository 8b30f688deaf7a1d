//! What these tests stand on: containers that go when their test ends, a vault in a temporary
//! folder, and a way to look at every file of a container.

use std::{
    collections::BTreeMap,
    io::Read as _,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bollard::{
    API_DEFAULT_VERSION, Docker, body_full,
    exec::{CreateExecOptions, StartExecResults},
    models::{ContainerCreateBody, ContainerInspectResponse, HostConfig},
    query_parameters::{
        CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
        RemoveContainerOptionsBuilder, RemoveVolumeOptionsBuilder, StartContainerOptions,
        UploadToContainerOptionsBuilder,
    },
};
use catalog::{AfterHook, CatalogError};
use futures::TryStreamExt as _;
use prost::Message as _;
use proto::{
    backup::v1::{Consistency, DockerSource, Source as SourceMessage, source::Kind},
    vault::v1::{Entry, Manifest},
};
use tokio_util::sync::CancellationToken;
use vault::{
    BackupReader, BackupSpec, BackupWriter, KeyEncryptionKey, Keyring, ManifestRef, Meter,
    OpendalStore, Vault, VaultSettings,
};
use worker::{
    settings::WorkerSettings,
    sources::{self, CaptureContext, SourceError, UndoLog},
};

pub(crate) const IMAGE: &str = "nora-test-agent:latest";

/// A name that no other test uses, also when it is run again while this one runs.
pub(crate) fn unique(name: &str) -> String {
    let id = uuid::Uuid::now_v7().simple().to_string();
    format!("nora-test-{name}-{}", &id[20..])
}

/// An engine, a vault, and the containers of one test.
pub(crate) struct Bench {
    pub(crate) docker: Docker,
    pub(crate) settings: WorkerSettings,
    pub(crate) vault: Vault,
    _folder: tempfile::TempDir,
    names: Mutex<Vec<String>>,
}

/// Notes what is paused, and which commands are owed.
#[derive(Default)]
pub(crate) struct Pauses {
    pub(crate) notes: Mutex<Vec<Option<String>>>,
    pub(crate) owed: Mutex<Vec<Option<AfterHook>>>,
    pub(crate) refuses: bool,
}

#[async_trait]
impl UndoLog for Pauses {
    async fn note_paused(&self, container: Option<&str>) -> Result<(), CatalogError> {
        if self.refuses {
            return Err(CatalogError::Fenced {
                job_id: "job".to_owned(),
                attempt: 1,
            });
        }
        self.notes
            .lock()
            .unwrap()
            .push(container.map(str::to_owned));
        Ok(())
    }

    async fn note_after(&self, hook: Option<&AfterHook>) -> Result<(), CatalogError> {
        if self.refuses {
            return Err(CatalogError::Fenced {
                job_id: "job".to_owned(),
                attempt: 1,
            });
        }
        self.owed.lock().unwrap().push(hook.cloned());
        Ok(())
    }
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let host = std::env::var("NORA_TEST_DOCKER_HOST").unwrap_or_default();
        let path = host.strip_prefix("unix://").expect(
            "NORA_TEST_DOCKER_HOST must name a Docker Engine (unix:///path/to/socket) that has the \
             image nora-test-agent:latest: run `make test`, which starts one",
        );
        let docker = Docker::connect_with_unix(path, 120, API_DEFAULT_VERSION)
            .unwrap()
            .negotiate_version()
            .await
            .expect("the Docker Engine of NORA_TEST_DOCKER_HOST answers");
        let folder = tempfile::tempdir().unwrap();
        let store = OpendalStore::local(&folder.path().join("store")).unwrap();
        let keyring = Keyring::new(
            KeyEncryptionKey::from_hex(&"5a".repeat(32)).unwrap(),
            Vec::new(),
        );
        let settings = VaultSettings {
            threads: 2,
            ..VaultSettings::default()
        };
        let vault = Vault::open_or_create(Arc::new(store), "agent", &keyring, settings)
            .await
            .unwrap();
        Self {
            settings: WorkerSettings {
                docker_host: Some(host),
                restore_devices: true,
                ..WorkerSettings::default()
            },
            docker,
            vault,
            _folder: folder,
            names: Mutex::default(),
        }
    }

    /// Has a container removed in the end, whoever makes it.
    pub(crate) fn remove_later(&self, name: &str) {
        self.names.lock().unwrap().push(name.to_owned());
    }

    /// A container that sleeps.
    pub(crate) async fn container(&self, name: &str, host_config: HostConfig) -> String {
        let name = unique(name);
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(vec!["/bin/sleep".into(), "100000".into()]),
            env: Some(vec!["AGENT_MODE=careful".into(), "PATH=/bin".into()]),
            host_config: Some(host_config),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        self.docker
            .create_container(Some(options), body)
            .await
            .expect("the engine has nora-test-agent:latest");
        self.remove_later(&name);
        self.docker
            .start_container(&name, None::<StartContainerOptions>)
            .await
            .unwrap();
        name
    }

    /// The same with a volume at /data.
    pub(crate) async fn container_with_volume(&self, name: &str) -> String {
        let volume = format!("{}:/data", unique(name));
        let host = HostConfig {
            binds: Some(vec![volume]),
            ..HostConfig::default()
        };
        self.container(name, host).await
    }

    /// Runs a shell script in a container; it must succeed.
    pub(crate) async fn run(&self, name: &str, script: &str) -> String {
        let options = CreateExecOptions {
            cmd: Some(vec![
                "/bin/sh".to_owned(),
                "-ec".to_owned(),
                script.to_owned(),
            ]),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let exec = self.docker.create_exec(name, options).await.unwrap().id;
        let started = self.docker.start_exec(&exec, None).await.unwrap();
        let StartExecResults::Attached { output, .. } = started else {
            panic!("the script is not attached")
        };
        let said: Vec<String> = output
            .map_ok(|line| line.to_string())
            .try_collect()
            .await
            .unwrap();
        let code = self.docker.inspect_exec(&exec).await.unwrap().exit_code;
        assert_eq!(code, Some(0), "{said:?}");
        said.concat()
    }

    /// Puts an archive into a container.
    pub(crate) async fn put(&self, name: &str, archive: Vec<u8>) {
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        self.docker
            .upload_to_container(name, Some(options), body_full(archive.into()))
            .await
            .unwrap();
    }

    pub(crate) async fn inspect(&self, name: &str) -> ContainerInspectResponse {
        self.docker.inspect_container(name, None).await.unwrap()
    }

    pub(crate) async fn is_paused(&self, name: &str) -> bool {
        let state = self.inspect(name).await.state.unwrap();
        state.paused.unwrap()
    }

    /// Every file under some paths, as the engine's archives have it.
    pub(crate) async fn describe(&self, name: &str, paths: &[&str]) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for path in paths {
            let options = DownloadFromContainerOptionsBuilder::new()
                .path(path)
                .build();
            let chunks: Vec<bytes::Bytes> = self
                .docker
                .download_from_container(name, Some(options))
                .try_collect()
                .await
                .unwrap();
            let bytes = chunks.concat();
            let mut archive = tar::Archive::new(bytes.as_slice());
            for member in archive.entries().unwrap() {
                let mut member = member.unwrap();
                let mut extended: Vec<String> = member
                    .pax_extensions()
                    .unwrap()
                    .into_iter()
                    .flatten()
                    .map(|record| {
                        let record = record.unwrap();
                        let key = record.key().unwrap();
                        format!("{key}={:?}", record.value_bytes())
                    })
                    .collect();
                extended.sort();
                let header = member.header();
                let mut content = Vec::new();
                let text = format!(
                    "{:?} {:o} {}:{} mtime {} device {:?}:{:?} link {:?} {extended:?}",
                    header.entry_type(),
                    header.mode().unwrap() & 0o7777,
                    header.uid().unwrap(),
                    header.gid().unwrap(),
                    header.mtime().unwrap(),
                    header.device_major().ok(),
                    header.device_minor().ok(),
                    member.link_name_bytes().map(std::borrow::Cow::into_owned),
                );
                member.read_to_end(&mut content).unwrap();
                let key = format!(
                    "{path}: {:?}",
                    String::from_utf8_lossy(&member.path_bytes())
                );
                let digest = format!("{} {:?}", content.len(), crc(&content));
                all.insert(key, format!("{text} {digest}"));
            }
        }
        all
    }

    pub(crate) fn context(pauses: &Arc<Pauses>) -> CaptureContext {
        CaptureContext {
            backup_id: "backup".to_owned(),
            attempt: 1,
            agent_id: "agent".to_owned(),
            previous_start_ms: None,
            cancel: CancellationToken::new(),
            meter: Arc::new(Meter::default()),
            patterns: Arc::default(),
            undo: pauses.clone(),
        }
    }

    /// Captures a container, with everything in the hands of the test.
    pub(crate) async fn capture(
        &self,
        source: &DockerSource,
        context: CaptureContext,
    ) -> Result<BackupWriter, SourceError> {
        let kind = Some(Kind::Docker(source.clone()));
        let message = SourceMessage { kind };
        let spec = BackupSpec {
            backup_id: unique("backup"),
            attempt: 1,
            source: message.encode_to_vec(),
            ..BackupSpec::default()
        };
        let writer = self
            .vault
            .begin_backup(spec, context.cancel.clone(), context.meter.clone())
            .await
            .unwrap();
        sources::open(&self.settings, &message)?
            .capture(context, writer)
            .await
    }

    /// Backs a container up.
    pub(crate) async fn backup(&self, container: &str, paths: &[&str]) -> ManifestRef {
        let context = Self::context(&Arc::default());
        let writer = self
            .capture(&source(container, paths, Consistency::Live), context)
            .await
            .unwrap();
        finish(writer).await
    }

    pub(crate) async fn reader(&self, manifest: &ManifestRef) -> BackupReader {
        self.vault
            .open_backup(manifest, CancellationToken::new())
            .await
            .unwrap()
    }

    /// What a backup holds.
    pub(crate) async fn contents(&self, manifest: &ManifestRef) -> (Manifest, Vec<Entry>) {
        let reader = self.reader(manifest).await;
        tokio::task::spawn_blocking(move || {
            let entries = reader.entries(None).unwrap().collect::<Result<_, _>>();
            (reader.manifest().clone(), entries.unwrap())
        })
        .await
        .unwrap()
    }

    /// The bytes of one file of a backup.
    pub(crate) async fn content(&self, manifest: &ManifestRef, path: &str) -> Vec<u8> {
        let (reader, path) = (self.reader(manifest).await, path.to_owned());
        tokio::task::spawn_blocking(move || {
            let entry = reader.find(path.as_bytes()).unwrap().unwrap();
            let mut bytes = Vec::new();
            reader
                .content(&entry.content.unwrap(), 0)
                .unwrap()
                .read_to_end(&mut bytes)
                .unwrap();
            bytes
        })
        .await
        .unwrap()
    }

    /// Removes all containers of the test with their volumes.
    pub(crate) async fn tidy(&self) {
        let names = std::mem::take(&mut *self.names.lock().unwrap());
        for name in names {
            let Ok(found) = self.docker.inspect_container(&name, None).await else {
                continue;
            };
            let options = RemoveContainerOptionsBuilder::new()
                .force(true)
                .v(true)
                .build();
            let _ = self.docker.remove_container(&name, Some(options)).await;
            for volume in found.mounts.into_iter().flatten().filter_map(|m| m.name) {
                let options = RemoveVolumeOptionsBuilder::new().force(true).build();
                let _ = self.docker.remove_volume(&volume, Some(options)).await;
            }
        }
    }
}

pub(crate) fn source(container: &str, paths: &[&str], consistency: Consistency) -> DockerSource {
    DockerSource {
        container: container.to_owned(),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        consistency: consistency.into(),
        hooks: None,
    }
}

pub(crate) async fn finish(writer: BackupWriter) -> ManifestRef {
    tokio::task::spawn_blocking(move || writer.finish(0).unwrap().manifest)
        .await
        .unwrap()
}

/// Tells contents apart.
fn crc(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A file with a capability, as only an archive can make it here.
pub(crate) fn with_capability(path: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    // cap_net_raw, permitted and effective.
    let value = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    builder
        .append_pax_extensions([("SCHILY.xattr.security.capability", &value[..])])
        .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_mode(0o755);
    header.set_size(4);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    builder.append(&header, &b"ping"[..]).unwrap();
    builder.into_inner().unwrap()
}
