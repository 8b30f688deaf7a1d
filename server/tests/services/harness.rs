//! A server of its own for each test, and what a worker would do.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use catalog::{BackupResult, Catalog, CatalogSettings, ClaimOutcome, Fence};
use destinations::Destinations;
use jsonwebtoken::{EncodingKey, Header, encode};
use prost::Message as _;
use proto::{
    backup::v1::{
        Agent, Backup, CreateBackupRequest, DirectorySource, RegisterAgentRequest, Source,
        admin_service_client::AdminServiceClient, agent_service_client::AgentServiceClient,
        backup_service_client::BackupServiceClient, restore_service_client::RestoreServiceClient,
        schedule_service_client::ScheduleServiceClient, source::Kind,
    },
    vault::v1::{Content, Entry, EntryType, RuntimeDocument},
};
use queue::{EventBus, InProcessBus, InProcessQueue, Nobody};
use serde_json::json;
use server::{Ops, ServerParts, ServerSettings};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use vault::{BackupSpec, KeyEncryptionKey, Keyring, OpendalStore, Store, Vault, VaultSettings};

pub const SECRET: &str = "the secret of these tests, 32 bytes";
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Rig {
    pub address: SocketAddr,
    /// Where administrators call.
    pub admin_address: SocketAddr,
    pub catalog: Catalog,
    pub bus: InProcessBus,
    pub queue: InProcessQueue,
    pub store: Arc<dyn Store>,
    pub shutdown: CancellationToken,
    pub server: JoinHandle<anyhow::Result<()>>,
    keyring: Keyring,
    channel: Channel,
    folder: TempDir,
}

/// Adds a token to each call.
#[derive(Clone)]
pub struct Bearer(String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = format!("Bearer {}", self.0).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

pub type Called = InterceptedService<Channel, Bearer>;

pub fn token(id: &str, role: &str, secret: &str, seconds: i64) -> String {
    let exp = jsonwebtoken::get_current_timestamp() as i64 + seconds;
    let claims = json!({"id": id, "role": role, "exp": exp});
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::default(), &claims, &key).unwrap()
}

pub fn now_ms() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    since.as_millis() as i64
}

impl Rig {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut ServerSettings)) -> Self {
        Self::start_of(change, |bus| Arc::new(bus), None).await
    }

    /// With operations HTTP.
    pub async fn start_with_ops(ops: Option<Ops>) -> Self {
        Self::start_of(|_| {}, |bus| Arc::new(bus), ops).await
    }

    /// With another bus for the server than the one the tests publish on.
    pub async fn start_on_bus(bus: Arc<dyn EventBus>) -> Self {
        Self::start_of(|_| {}, |_| bus, None).await
    }

    async fn start_of(
        change: impl FnOnce(&mut ServerSettings),
        wrap: impl FnOnce(InProcessBus) -> Arc<dyn EventBus>,
        ops: Option<Ops>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = CatalogSettings::sqlite(folder.path().join("catalog.db"));
        let catalog = Catalog::connect(&settings).await.unwrap();
        catalog.migrate().await.unwrap();
        let store: Arc<dyn Store> =
            Arc::new(OpendalStore::local(&folder.path().join("vaults")).unwrap());
        let keyring = Keyring::new(KeyEncryptionKey::new([7; 32]), Vec::new());
        let (queue, bus) = (InProcessQueue::new(), InProcessBus::new());
        let mut settings = ServerSettings {
            jwt_secret: SECRET.to_owned(),
            server_drain: Duration::from_secs(5),
            ..ServerSettings::default()
        };
        change(&mut settings);
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin_address = admin.local_addr().unwrap();
        let parts = ServerParts {
            catalog: catalog.clone(),
            queue: Arc::new(queue.clone()),
            bus: wrap(bus.clone()),
            announcer: Arc::new(Nobody),
            destinations: Arc::new(
                Destinations::new(catalog.clone(), keyring.clone())
                    .with_store(destinations::DEFAULT, store.clone()),
            ),
            keyring: keyring.clone(),
            vault: VaultSettings::default(),
            settings,
            ops,
            admin: Some(admin),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(server::run(parts, listener, shutdown.clone()));
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        Self {
            address,
            admin_address,
            catalog,
            bus,
            queue,
            store,
            shutdown,
            server,
            keyring,
            channel,
            folder,
        }
    }

    /// The catalog as another process has it.
    pub async fn catalog_elsewhere(&self) -> Catalog {
        let settings = CatalogSettings::sqlite(self.folder.path().join("catalog.db"));
        Catalog::connect(&settings).await.unwrap()
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn called(&self, id: &str, role: &str) -> Called {
        let token = token(id, role, SECRET, 600);
        InterceptedService::new(self.channel.clone(), Bearer(token))
    }

    /// AdminService, on the listener for administrators.
    pub fn admin(&self, id: &str, role: &str) -> AdminServiceClient<Called> {
        let channel = Endpoint::from_shared(format!("http://{}", self.admin_address))
            .unwrap()
            .connect_lazy();
        let token = token(id, role, SECRET, 600);
        AdminServiceClient::new(InterceptedService::new(channel, Bearer(token)))
    }

    /// AdminService where it is not served.
    pub fn public_admin(&self, id: &str, role: &str) -> AdminServiceClient<Called> {
        AdminServiceClient::new(self.called(id, role))
    }

    pub fn with_token(&self, token: &str) -> BackupServiceClient<Called> {
        let called = InterceptedService::new(self.channel.clone(), Bearer(token.to_owned()));
        BackupServiceClient::new(called)
    }

    pub fn agents(&self, id: &str, role: &str) -> AgentServiceClient<Called> {
        AgentServiceClient::new(self.called(id, role))
    }

    pub fn backups(&self, id: &str) -> BackupServiceClient<Called> {
        BackupServiceClient::new(self.called(id, "user"))
    }

    pub fn backups_as(&self, id: &str, role: &str) -> BackupServiceClient<Called> {
        BackupServiceClient::new(self.called(id, role))
    }

    pub fn schedules(&self, id: &str) -> ScheduleServiceClient<Called> {
        ScheduleServiceClient::new(self.called(id, "user"))
    }

    pub fn restores(&self, id: &str) -> RestoreServiceClient<Called> {
        RestoreServiceClient::new(self.called(id, "user"))
    }

    /// Registers an agent whose source is a folder.
    pub async fn register(&self, agent_id: &str, owner_id: &str) {
        let agent = agent(agent_id, owner_id);
        let request = RegisterAgentRequest { agent: Some(agent) };
        self.agents("control", "service")
            .register_agent(request)
            .await
            .unwrap();
    }

    pub async fn create(&self, agent_id: &str, owner_id: &str) -> Backup {
        let request = CreateBackupRequest {
            agent_id: agent_id.to_owned(),
            ..CreateBackupRequest::default()
        };
        let answer = self.backups(owner_id).create_backup(request).await.unwrap();
        answer.into_inner().backup.unwrap()
    }

    /// Claims a backup's job, as a worker does.
    pub async fn claim(&self, backup_id: &str) -> Fence {
        let backup = self.catalog.get_backup(backup_id).await.unwrap().unwrap();
        let claim = self
            .catalog
            .claim_job(&backup.job_id, "test", 60_000, now_ms())
            .await;
        match claim.unwrap() {
            ClaimOutcome::Claimed(lease) => lease.fence(),
            other => panic!("not claimed: {other:?}"),
        }
    }

    /// Makes a backup and completes it with these files.
    pub async fn completed(&self, agent_id: &str, owner_id: &str, files: &[File]) -> Backup {
        self.completed_with(agent_id, owner_id, files, None).await
    }

    pub async fn completed_with(
        &self,
        agent_id: &str,
        owner_id: &str,
        files: &[File],
        runtime: Option<RuntimeDocument>,
    ) -> Backup {
        let backup = self.create(agent_id, owner_id).await;
        let fence = self.claim(&backup.backup_id).await;
        let agent = self.catalog.get_agent(agent_id).await.unwrap().unwrap();
        let spec = BackupSpec {
            backup_id: backup.backup_id.clone(),
            attempt: fence.attempt,
            agent_name: agent.display_name.clone(),
            owner_id: owner_id.to_owned(),
            workspace_id: agent.workspace_id.clone(),
            name: backup.name.clone(),
            source: agent.source.encode_to_vec(),
            integrations: Vec::new(),
            previous: None,
            previous_sequence: None,
            start_time_ms: now_ms(),
        };
        let vault = Vault::open_or_create(
            self.store.clone(),
            agent_id,
            &self.keyring,
            VaultSettings::default(),
        )
        .await
        .unwrap();
        let mut writer = vault
            .begin_backup(spec, CancellationToken::new(), Arc::default())
            .await
            .unwrap();
        let files: Vec<File> = files.to_vec();
        let committed = tokio::task::spawn_blocking(move || {
            for file in files {
                let content = file
                    .bytes
                    .map(|bytes| writer.write_content(&mut bytes.as_slice()).unwrap());
                writer.add(entry(&file.path, file.kind, content)).unwrap();
            }
            if let Some(runtime) = runtime {
                writer.set_runtime(runtime);
            }
            writer.finish(now_ms()).unwrap()
        })
        .await
        .unwrap();
        let result = BackupResult {
            manifest_attempt: committed.manifest.attempt,
            manifest_digest: committed.manifest.digest.unwrap(),
            sequence: committed.sequence,
            size_bytes: committed.statistics.size_bytes,
            stored_bytes: committed.statistics.stored_bytes,
            new_bytes: committed.statistics.new_bytes,
            entries: committed.statistics.entries,
            warnings: Vec::new(),
            warnings_total: 0,
            vault_bytes: committed.vault_bytes,
            progress: None,
        };
        self.catalog
            .complete_backup(&fence, result, now_ms())
            .await
            .unwrap();
        backup
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub fn agent(agent_id: &str, owner_id: &str) -> Agent {
    Agent {
        agent_id: agent_id.to_owned(),
        owner_id: owner_id.to_owned(),
        source: Some(Source {
            kind: Some(Kind::Directory(DirectorySource {
                path: format!("/agents/{agent_id}"),
            })),
        }),
        ..Agent::default()
    }
}

/// An entry of a backup.
#[derive(Clone)]
pub struct File {
    pub path: String,
    pub kind: EntryType,
    pub bytes: Option<Vec<u8>>,
}

pub fn file(path: &str, bytes: impl Into<Vec<u8>>) -> File {
    File {
        path: path.to_owned(),
        kind: EntryType::Regular,
        bytes: Some(bytes.into()),
    }
}

pub fn folder(path: &str) -> File {
    File {
        path: path.to_owned(),
        kind: EntryType::Directory,
        bytes: None,
    }
}

fn entry(path: &str, kind: EntryType, content: Option<Content>) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        r#type: kind.into(),
        mode: 0o644,
        content,
        ..Entry::default()
    }
}

/// Bytes that do not compress, the same each time.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

pub fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map_or_else(String::new, |info| info.reason)
}

/// The fields that an INVALID_ARGUMENT names.
pub fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    violations.into_iter().map(|field| field.field).collect()
}

/// Waits until something holds; fails when it does not for too long.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come about"));
}
