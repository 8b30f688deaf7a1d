//! A fresh database, and the shortest ways to what tests begin with.

use catalog::{
    Agent, Backup, BackupResult, Catalog, CatalogSettings, ClaimOutcome, Failure, Fence, Lease,
    NewAgent, NewBackup, NewDraft, RequestKey, Trigger,
};
use proto::backup::v1::{DirectorySource, RestoreDecision, RestorePlan, Source, source};
use sea_orm::ConnectionTrait as _;
use tempfile::TempDir;

/// When tests happen.
pub const NOW: i64 = 1_800_000_000_000;
/// How long leases hold in tests.
pub const LEASE_MS: i64 = 30_000;

/// A catalog of its own, and what goes with it.
pub struct Fixture {
    pub catalog: Catalog,
    pub settings: CatalogSettings,
    url: String,
    pub folder: TempDir,
}

impl Fixture {
    /// An empty, migrated catalog.
    pub async fn new() -> Self {
        Self::new_in(tempfile::tempdir().unwrap()).await
    }

    /// The same where no disk is waited for, for tests of very many transactions.
    pub async fn in_memory() -> Self {
        let memory = std::path::Path::new("/dev/shm");
        if memory.is_dir() {
            Self::new_in(tempfile::tempdir_in(memory).unwrap()).await
        } else {
            Self::new().await
        }
    }

    async fn new_in(folder: TempDir) -> Self {
        let url = if env!("CARGO_CRATE_NAME") == "contract_postgres" {
            let url = std::env::var("NORA_TEST_POSTGRES_URL").expect(
                "NORA_TEST_POSTGRES_URL names a PostgreSQL server: run `make test`, or start one with `make services`",
            );
            fresh_database(&url).await
        } else {
            let path = folder.path().join("catalog.db");
            format!("sqlite:{}", path.display())
        };
        let settings = CatalogSettings::new(url.parse().unwrap());
        let catalog = Catalog::connect(&settings).await.unwrap();
        catalog.migrate().await.unwrap();
        Self {
            catalog,
            settings,
            url,
            folder,
        }
    }

    /// With an agent "agent" of "owner".
    pub async fn with_agent() -> Self {
        let fixture = Self::new().await;
        fixture.agent("agent").await;
        fixture
    }

    /// The database's URL, to look at it from outside.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub async fn agent(&self, agent_id: &str) -> Agent {
        let registered = self
            .catalog
            .register_agent(new_agent(agent_id), None, NOW)
            .await;
        registered.unwrap().0
    }

    pub async fn backup(&self, agent_id: &str) -> Backup {
        let created = self.catalog.create_backup(new_backup(agent_id), NOW).await;
        created.unwrap()
    }

    /// Claims a job that nothing hinders.
    pub async fn claim(&self, job_id: &str, now_ms: i64) -> Lease {
        let outcome = self.catalog.claim_job(job_id, "worker-1", LEASE_MS, now_ms);
        match outcome.await.unwrap() {
            ClaimOutcome::Claimed(lease) => *lease,
            other => panic!("not claimed: {other:?}"),
        }
    }

    /// A COMPLETED backup of this number.
    pub async fn completed(&self, agent_id: &str, sequence: u64) -> Backup {
        let backup = self.backup(agent_id).await;
        let fence = self.claim(&backup.job_id, NOW).await.fence();
        let completed = self
            .catalog
            .complete_backup(&fence, result(sequence), NOW)
            .await;
        completed.unwrap()
    }

    /// The only job that is to be dispatched.
    pub async fn only_due_job(&self, now_ms: i64) -> String {
        let due = self.catalog.undispatched_jobs(10, now_ms).await.unwrap();
        assert_eq!(due.len(), 1, "{due:?}");
        due[0].job_id.clone()
    }

    pub async fn get_backup(&self, backup_id: &str) -> Backup {
        self.catalog.get_backup(backup_id).await.unwrap().unwrap()
    }

    /// Lets an attempt fail in a way that may be tried again.
    pub async fn fail(&self, fence: &Fence, now_ms: i64) -> catalog::FailOutcome {
        let failed = self.catalog.fail_job(fence, unavailable(), true, now_ms);
        failed.await.unwrap()
    }
}

/// A database nobody else uses, beside the one the URL names.
async fn fresh_database(url: &str) -> String {
    let admin = sea_orm::Database::connect(url).await.expect("PostgreSQL");
    let name = format!("nora_test_{}", uuid::Uuid::new_v4().simple());
    let create = format!("CREATE DATABASE {name}");
    admin.execute_unprepared(&create).await.unwrap();
    let (server, _) = url.rsplit_once('/').expect("the URL ends in /<database>");
    format!("{server}/{name}")
}

pub fn new_agent(agent_id: &str) -> NewAgent {
    NewAgent {
        agent_id: agent_id.to_owned(),
        display_name: format!("Agent {agent_id}"),
        owner_id: "owner".to_owned(),
        workspace_id: "workspace".to_owned(),
        source: Source {
            kind: Some(source::Kind::Directory(DirectorySource {
                path: format!("/agents/{agent_id}"),
            })),
        },
        integrations: Vec::new(),
        pool: "default".to_owned(),
        patterns: Vec::new(),
        size_warning_bytes: 0,
        destination_id: String::new(),
        second_destination_id: String::new(),
    }
}

pub fn new_backup(agent_id: &str) -> NewBackup {
    NewBackup {
        agent_id: agent_id.to_owned(),
        owner_id: "owner".to_owned(),
        name: "a backup".to_owned(),
        trigger: Trigger::Manual,
        request: None,
    }
}

pub fn request(request_id: &str, fingerprint: &[u8]) -> RequestKey {
    RequestKey {
        caller: "owner".to_owned(),
        request_id: request_id.to_owned(),
        fingerprint: fingerprint.to_vec(),
    }
}

pub fn result(sequence: u64) -> BackupResult {
    BackupResult {
        manifest_attempt: 1,
        manifest_digest: [sequence as u8; 32],
        sequence,
        size_bytes: 1_000,
        stored_bytes: 100,
        new_bytes: 200,
        entries: 10,
        warnings: Vec::new(),
        warnings_total: 0,
        vault_bytes: 100 * sequence,
        progress: None,
    }
}

pub fn draft(backup_id: &str, new_agent_id: &str) -> NewDraft {
    NewDraft {
        backup_id: backup_id.to_owned(),
        owner_id: "owner".to_owned(),
        plan: RestorePlan {
            agent_id: new_agent_id.to_owned(),
            ..RestorePlan::default()
        },
        decisions: vec![RestoreDecision {
            decision_id: "port:80/tcp".to_owned(),
            options: vec!["drop".to_owned(), "same".to_owned()],
            required: true,
            ..RestoreDecision::default()
        }],
        warnings: Vec::new(),
        destination_id: String::new(),
        request: None,
    }
}

pub fn unavailable() -> Failure {
    Failure {
        reason: "DESTINATION_UNAVAILABLE".to_owned(),
        message: "the destination does not answer".to_owned(),
    }
}
