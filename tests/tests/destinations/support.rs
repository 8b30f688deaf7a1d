//! Descriptions of destinations on the tests' servers, and what every test does with them.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use proto::backup::v1::{
    Agent, Backup, CreateDestinationRequest, CreateRestoreDraftRequest, DeregisterAgentRequest,
    Destination, DirectorySource, LocalDestination, S3Destination, Source, SshDestination,
    TestDestinationRequest, TestDestinationResponse, VerifyBackupRequest, WatchVerificationRequest,
    admin_service_client::AdminServiceClient, backup_copy, destination::Kind, restore, source,
    test_destination_request::Target, verify_backup_request::Depth,
};
use services::{
    api::{Api, Authorized, directory_plan},
    fixture,
    services::address,
    standalone::Standalone,
    tree::{assert_same, describe},
};

pub const OWNER: &str = "user-1";
const SETTLE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(50);

pub fn local(id: &str, path: &Path) -> Destination {
    described(
        id,
        Kind::Local(LocalDestination {
            path: path.display().to_string(),
        }),
    )
}

pub fn described(id: &str, kind: Kind) -> Destination {
    Destination {
        destination_id: id.to_owned(),
        kind: Some(kind),
        ..Destination::default()
    }
}

pub fn s3(id: &str) -> Destination {
    described(
        id,
        Kind::S3(S3Destination {
            bucket: address("NORA_TEST_S3_BUCKET"),
            region: address("NORA_TEST_S3_REGION"),
            endpoint: address("NORA_TEST_S3_ENDPOINT"),
            access_key_id: address("NORA_TEST_S3_ACCESS_KEY_ID"),
            secret_access_key: address("NORA_TEST_S3_SECRET_ACCESS_KEY"),
            prefix: format!("{id}-{:016x}", rand::random::<u64>()),
            ..S3Destination::default()
        }),
    )
}

/// A destination on S3 with something else.
pub fn changed_s3(
    mut destination: Destination,
    change: impl FnOnce(&mut S3Destination),
) -> Destination {
    if let Some(Kind::S3(s3)) = &mut destination.kind {
        change(s3);
    }
    destination
}

pub fn ssh(id: &str) -> Destination {
    let own = format!("test-{:016x}", rand::random::<u64>());
    described(
        id,
        Kind::Ssh(SshDestination {
            host: "127.0.0.1".to_owned(),
            port: address("NORA_TEST_SSH_PORT").parse().expect("a port"),
            username: "nora-password".to_owned(),
            password: address("NORA_TEST_SSH_PASSWORD"),
            remote_path: format!("/run/nora-homes/nora-password/data/{own}"),
            // Remembered in the catalog from the first connection on.
            trust_first_key: true,
            ..SshDestination::default()
        }),
    )
}

pub type Admin = AdminServiceClient<Authorized>;

pub async fn add(admin: &mut Admin, destination: &Destination) -> Result<Destination> {
    let request = CreateDestinationRequest {
        destination: Some(destination.clone()),
    };
    let added = admin.create_destination(request).await?.into_inner();
    added
        .destination
        .context("the answer holds the destination")
}

pub async fn try_out(admin: &mut Admin, target: Target) -> Result<TestDestinationResponse> {
    let request = TestDestinationRequest {
        target: Some(target),
    };
    Ok(admin.test_destination(request).await?.into_inner())
}

pub async fn register(
    standalone: &Standalone,
    agent_id: &str,
    first: &str,
    second: &str,
) -> Result<PathBuf> {
    let root = standalone.agent_dir(agent_id);
    let agent = Agent {
        agent_id: agent_id.to_owned(),
        owner_id: OWNER.to_owned(),
        source: Some(Source {
            kind: Some(source::Kind::Directory(DirectorySource {
                path: root.display().to_string(),
            })),
        }),
        destination_id: first.to_owned(),
        second_destination_id: second.to_owned(),
        ..Agent::default()
    };
    standalone.control_plane().await?.register(agent).await?;
    Ok(root)
}

/// Registers `agent` with a second destination, `second`; the agent's folder and that one's.
pub async fn register_with_second(standalone: &Standalone) -> Result<(PathBuf, PathBuf)> {
    let second = standalone.outside_dir("second");
    let mut admin = standalone.administrators().await?;
    add(&mut admin, &local("second", &second)).await?;
    let root = register(standalone, "agent", "", "second").await?;
    Ok((root, second))
}

/// Registers agents, each with its first and its second destination, and makes a backup of
/// each; copies are waited for.
pub async fn backed_up(
    standalone: &Standalone,
    agents: &[(&str, &str, &str)],
) -> Result<Vec<String>> {
    let mut user = standalone.user(OWNER).await?;
    let mut backups = Vec::new();
    for (n, (agent_id, first, second)) in agents.iter().enumerate() {
        let root = register(standalone, agent_id, first, second).await?;
        fixture::random_files(&root, 3, 100_000, n as u64 + 1)?;
        let backup_id = user.complete_backup(agent_id).await?.backup_id;
        if !second.is_empty() {
            copied(&mut user, &backup_id).await?;
        }
        backups.push(backup_id);
    }
    Ok(backups)
}

/// What becomes of the backups of an agent that goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backups {
    Kept,
    Deleted,
    /// Their data keys first.
    Erased,
}

pub async fn deregister(standalone: &Standalone, agent_id: &str, backups: Backups) -> Result<()> {
    let request = DeregisterAgentRequest {
        agent_id: agent_id.to_owned(),
        delete_backups: backups == Backups::Deleted,
        crypto_erase: backups == Backups::Erased,
        ..DeregisterAgentRequest::default()
    };
    let mut agents = standalone.control_plane().await?.agents;
    agents.deregister_agent(request).await?;
    Ok(())
}

/// Looks until it is so: what has no event of its own.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + SETTLE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{what}: not so in time");
        tokio::time::sleep(LOOK).await;
    }
}

/// The backup once its only copy has come to an end.
pub async fn copied(user: &mut Api, backup_id: &str) -> Result<Backup> {
    until("the copy ends", async || {
        let backup = user.backup(backup_id).await?;
        let [copy] = &backup.copies[..] else {
            return Ok(None);
        };
        let ended = copy.state() != backup_copy::State::Pending;
        Ok(ended.then_some(backup))
    })
    .await
}

/// Restores what is read at a destination: the state of `agent` as it is now.
pub async fn restores_from(
    standalone: &Standalone,
    user: &mut Api,
    backup_id: &str,
    destination_id: &str,
) -> Result<()> {
    restores(standalone, user, ("agent", backup_id), destination_id).await
}

/// The same, of any agent.
pub async fn restores(
    standalone: &Standalone,
    user: &mut Api,
    (agent_id, backup_id): (&str, &str),
    destination_id: &str,
) -> Result<()> {
    let name = format!("restored-{:08x}", rand::random::<u32>());
    let target = standalone.agent_dir(&name);
    let request = CreateRestoreDraftRequest {
        backup_id: backup_id.to_owned(),
        plan: Some(directory_plan(&name, &target)?),
        destination_id: destination_id.to_owned(),
        ..CreateRestoreDraftRequest::default()
    };
    let draft = user.restores.create_restore_draft(request).await?;
    let draft = draft.into_inner().restore.context("a draft")?;
    user.start_restore(&draft.restore_id).await?;
    let ended = user.watch_restore(&draft.restore_id, |_| false).await?;
    ensure!(
        ended.state() == restore::State::Completed,
        "{:?}",
        ended.failure
    );
    assert_same(
        &describe(&standalone.agent_dir(agent_id))?,
        &describe(&target)?,
    );
    Ok(())
}

/// Whether every byte that is read at a destination is right.
pub async fn verify(user: &mut Api, backup_id: &str, destination_id: &str) -> Result<bool> {
    let request = VerifyBackupRequest {
        backup_id: backup_id.to_owned(),
        depth: Depth::Full.into(),
        destination_id: destination_id.to_owned(),
        ..VerifyBackupRequest::default()
    };
    let begun = user.backups.verify_backup(request).await?.into_inner();
    let request = WatchVerificationRequest {
        backup_id: backup_id.to_owned(),
        verification_id: begun.verification_id,
    };
    let mut events = user.backups.watch_verification(request).await?.into_inner();
    let mut last = None;
    while let Some(event) = events.message().await? {
        last = Some(event);
    }
    let last = last.context("a watch begins with the present state")?;
    Ok(last.failure.is_none())
}
