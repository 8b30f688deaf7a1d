//! Talks to the service over gRPC, with a token for any user and role.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use jsonwebtoken::{EncodingKey, Header};
use proto::backup::v1::{
    Agent, Backup, BackupEntry, CreateBackupRequest, CreateRestoreDraftRequest, DirectorySource,
    DirectoryTarget, DownloadBackupRequest, GetBackupRequest, ListBackupEntriesRequest,
    RegisterAgentRequest, Restore, RestorePlan, Source, StartRestoreRequest, WatchBackupRequest,
    WatchRestoreRequest, admin_service_client::AdminServiceClient,
    agent_service_client::AgentServiceClient, backup, backup_service_client::BackupServiceClient,
    restore, restore_plan, restore_service_client::RestoreServiceClient,
    schedule_service_client::ScheduleServiceClient, source,
};
use serde_json::json;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// The secret that signs the tests' tokens.
pub const JWT_SECRET: &str = "a secret of the tests, long enough for HS256";
/// How long a call may take to its answer (of a stream: to its beginning).
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a job may take, at the most, before a test gives up on it.
pub const JOB_MS_MAX: u64 = 240_000;
const TOKEN_SECONDS: u64 = 3_600;
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Adds the token to every call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A channel that carries a token.
pub type Authorized = InterceptedService<Channel, Bearer>;

/// The service, as one caller sees it.
#[derive(Clone)]
pub struct Api {
    /// Agents.
    pub agents: AgentServiceClient<Authorized>,
    /// Backups.
    pub backups: BackupServiceClient<Authorized>,
    /// Restores.
    pub restores: RestoreServiceClient<Authorized>,
    /// Schedules.
    pub schedules: ScheduleServiceClient<Authorized>,
    /// The platform; only at a server's administrators' address.
    pub admin: AdminServiceClient<Authorized>,
}

/// A token as Nora's control plane makes them.
pub fn token(user: &str, role: &str) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let claims = json!({ "sub": user, "role": role, "exp": now + TOKEN_SECONDS });
    jsonwebtoken::encode(
        &Header::default(),
        &claims,
        &EncodingKey::from_secret(JWT_SECRET.as_bytes()),
    )
    .expect("sign a token")
}

/// What only administrators can call, on their listener.
pub async fn administrators(url: &str) -> Result<AdminServiceClient<Authorized>> {
    let channel = Endpoint::from_shared(url.to_owned())?
        .timeout(CALL_TIMEOUT)
        .connect()
        .await
        .with_context(|| format!("connect to {url}"))?;
    let bearer = Bearer(format!("Bearer {}", token("the-admin", "admin")).parse()?);
    Ok(AdminServiceClient::with_interceptor(channel, bearer))
}

impl Api {
    /// Connects as this user.
    pub async fn connect(url: &str, user: &str, role: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(Duration::from_secs(10))
            .timeout(CALL_TIMEOUT)
            .connect()
            .await
            .with_context(|| format!("connect to {url}"))?;
        Self::over(channel, user, role)
    }

    /// The same without connecting yet, and with another time limit for a call.
    /// It connects again whenever the connection is gone.
    pub fn lazy(url: &str, user: &str, role: &str, call_timeout: Duration) -> Result<Self> {
        let channel = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(call_timeout)
            .timeout(call_timeout)
            .connect_lazy();
        Self::over(channel, user, role)
    }

    fn over(channel: Channel, user: &str, role: &str) -> Result<Self> {
        let bearer = Bearer(format!("Bearer {}", token(user, role)).parse()?);
        Ok(Self {
            agents: AgentServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            backups: BackupServiceClient::with_interceptor(channel.clone(), bearer.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            restores: RestoreServiceClient::with_interceptor(channel.clone(), bearer.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            schedules: ScheduleServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            admin: AdminServiceClient::with_interceptor(channel, bearer),
        })
    }

    /// Registers an agent whose state is a folder. Needs the role service or admin.
    pub async fn register_directory(
        &mut self,
        agent_id: &str,
        owner_id: &str,
        path: &std::path::Path,
    ) -> Result<Agent> {
        let directory = DirectorySource {
            path: path.to_str().context("a path in UTF-8")?.to_owned(),
        };
        let agent = Agent {
            agent_id: agent_id.to_owned(),
            owner_id: owner_id.to_owned(),
            workspace_id: "workspace-1".to_owned(),
            source: Some(Source {
                kind: Some(source::Kind::Directory(directory)),
            }),
            ..Agent::default()
        };
        self.register(agent).await
    }

    /// Registers an agent.
    pub async fn register(&mut self, agent: Agent) -> Result<Agent> {
        let answer = self
            .agents
            .register_agent(RegisterAgentRequest { agent: Some(agent) })
            .await?;
        answer
            .into_inner()
            .agent
            .context("the answer holds the agent")
    }

    /// Creates a backup and returns at once.
    pub async fn create_backup(&mut self, agent_id: &str) -> Result<Backup> {
        let request = CreateBackupRequest {
            agent_id: agent_id.to_owned(),
            ..CreateBackupRequest::default()
        };
        self.backups
            .create_backup(request)
            .await?
            .into_inner()
            .backup
            .context("the answer holds the backup")
    }

    /// The backup as it is.
    pub async fn backup(&mut self, backup_id: &str) -> Result<Backup> {
        let request = GetBackupRequest {
            backup_id: backup_id.to_owned(),
        };
        self.backups
            .get_backup(request)
            .await?
            .into_inner()
            .backup
            .context("the answer holds the backup")
    }

    /// Watches a backup until `enough` says so, or to its end; returns the last event.
    pub async fn watch_backup(
        &mut self,
        backup_id: &str,
        enough: impl Fn(&Backup) -> bool,
    ) -> Result<Backup> {
        let watch = async {
            let request = WatchBackupRequest {
                backup_id: backup_id.to_owned(),
            };
            let mut stream = self.backups.watch_backup(request).await?.into_inner();
            let mut last = None;
            while let Some(event) = stream.message().await? {
                let backup = event.backup.context("an event holds the backup")?;
                let done = enough(&backup);
                last = Some(backup);
                if done {
                    break;
                }
            }
            last.context("a watch begins with the present state")
        };
        in_time(watch)
            .await
            .with_context(|| format!("watch backup {backup_id}"))
    }

    /// Creates a backup and watches it to its end.
    pub async fn make_backup(&mut self, agent_id: &str) -> Result<Backup> {
        let created = self.create_backup(agent_id).await?;
        self.watch_backup(&created.backup_id, |_| false).await
    }

    /// The same, and it must be COMPLETED.
    pub async fn complete_backup(&mut self, agent_id: &str) -> Result<Backup> {
        let backup = self.make_backup(agent_id).await?;
        expect_state(&backup, backup::State::Completed)?;
        Ok(backup)
    }

    /// Plans a restore.
    pub async fn draft_restore(&mut self, backup_id: &str, plan: RestorePlan) -> Result<Restore> {
        let request = CreateRestoreDraftRequest {
            backup_id: backup_id.to_owned(),
            plan: Some(plan),
            ..CreateRestoreDraftRequest::default()
        };
        self.restores
            .create_restore_draft(request)
            .await?
            .into_inner()
            .restore
            .context("the answer holds the restore")
    }

    /// Starts a planned restore.
    pub async fn start_restore(&mut self, restore_id: &str) -> Result<Restore> {
        let request = StartRestoreRequest {
            restore_id: restore_id.to_owned(),
            ..StartRestoreRequest::default()
        };
        self.restores
            .start_restore(request)
            .await?
            .into_inner()
            .restore
            .context("the answer holds the restore")
    }

    /// Watches a restore until `enough` says so, or to its end; returns the last event.
    pub async fn watch_restore(
        &mut self,
        restore_id: &str,
        enough: impl Fn(&Restore) -> bool,
    ) -> Result<Restore> {
        let watch = async {
            let request = WatchRestoreRequest {
                restore_id: restore_id.to_owned(),
            };
            let mut stream = self.restores.watch_restore(request).await?.into_inner();
            let mut last = None;
            while let Some(event) = stream.message().await? {
                let restore = event.restore.context("an event holds the restore")?;
                let done = enough(&restore);
                last = Some(restore);
                if done {
                    break;
                }
            }
            last.context("a watch begins with the present state")
        };
        in_time(watch)
            .await
            .with_context(|| format!("watch restore {restore_id}"))
    }

    /// Restores a backup into a new folder, which must succeed.
    pub async fn restore_directory(
        &mut self,
        backup_id: &str,
        agent_id: &str,
        path: &std::path::Path,
    ) -> Result<Restore> {
        let draft = self
            .draft_restore(backup_id, directory_plan(agent_id, path)?)
            .await?;
        self.start_restore(&draft.restore_id).await?;
        let restore = self.watch_restore(&draft.restore_id, |_| false).await?;
        if restore.state() != restore::State::Completed {
            bail!(
                "restore {} is {:?}: {:?}",
                restore.restore_id,
                restore.state(),
                restore.failure
            );
        }
        Ok(restore)
    }

    /// Downloads a backup from an offset on; returns the bytes and the etag.
    pub async fn download(
        &mut self,
        backup_id: &str,
        offset: u64,
        etag: &str,
    ) -> Result<(Vec<u8>, String)> {
        let request = DownloadBackupRequest {
            backup_id: backup_id.to_owned(),
            offset,
            etag: etag.to_owned(),
            destination_id: String::new(),
        };
        self.receive(request).await
    }

    /// The same, as a request wants it.
    pub async fn receive(&mut self, request: DownloadBackupRequest) -> Result<(Vec<u8>, String)> {
        let (backup_id, offset) = (request.backup_id.clone(), request.offset);
        let download = async {
            let mut stream = self.backups.download_backup(request).await?.into_inner();
            let (mut bytes, mut etag, mut ended) = (Vec::new(), String::new(), false);
            while let Some(chunk) = stream.message().await? {
                if chunk.offset != offset + bytes.len() as u64 {
                    bail!(
                        "a chunk at {} follows byte {}",
                        chunk.offset,
                        offset + bytes.len() as u64
                    );
                }
                if !chunk.etag.is_empty() {
                    etag = chunk.etag;
                }
                bytes.extend_from_slice(&chunk.data);
                ended = chunk.last;
            }
            if !ended {
                bail!("the stream closed without a last chunk");
            }
            Ok((bytes, etag))
        };
        in_time(download)
            .await
            .with_context(|| format!("download backup {backup_id} from {offset}"))
    }

    /// Everything that a backup holds, page by page.
    pub async fn entries(&mut self, backup_id: &str) -> Result<Vec<BackupEntry>> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListBackupEntriesRequest {
                backup_id: backup_id.to_owned(),
                recursive: true,
                page_size: 1_000,
                page_token,
                ..ListBackupEntriesRequest::default()
            };
            let page = self
                .backups
                .list_backup_entries(request)
                .await?
                .into_inner();
            all.extend(page.entries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }
}

/// A plan that names the new agent and its folder.
pub fn directory_plan(agent_id: &str, path: &std::path::Path) -> Result<RestorePlan> {
    let path = path.to_str().context("a path in UTF-8")?.to_owned();
    Ok(RestorePlan {
        agent_id: agent_id.to_owned(),
        target: Some(restore_plan::Target::Directory(DirectoryTarget { path })),
        ..RestorePlan::default()
    })
}

/// Refuses another state, with the failure.
pub fn expect_state(backup: &Backup, state: backup::State) -> Result<()> {
    if backup.state() != state {
        bail!(
            "backup {} is {:?}, not {state:?}: {:?}",
            backup.backup_id,
            backup.state(),
            backup.failure
        );
    }
    Ok(())
}

/// The ErrorInfo reason of a status; empty when it has none.
pub fn reason(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_millis(JOB_MS_MAX), work)
        .await
        .with_context(|| format!("not ended after {} s", JOB_MS_MAX / 1_000))?
}
