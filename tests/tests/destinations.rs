//! Destinations added at run time, through the whole program: tried, used by agents, copied
//! to, and another default in the environment. Nothing secret comes out.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use proto::backup::v1::{
    Agent, Backup, CreateDestinationRequest, CreateRestoreDraftRequest, DeleteBackupRequest,
    DeleteDestinationRequest, DeregisterAgentRequest, Destination, DirectorySource,
    GetDestinationRequest, ListDestinationsRequest, LocalDestination, S3Destination, Source,
    SshDestination, TestDestinationRequest, TestDestinationResponse, UpdateDestinationRequest,
    VerifyBackupRequest, WatchVerificationRequest, admin_service_client::AdminServiceClient,
    backup_copy, destination::Kind, job, restore, source, test_destination_request::Target,
    verify_backup_request::Depth,
};
use services::{
    api::{Api, Authorized, directory_plan, reason},
    fixture,
    services::address,
    standalone::Standalone,
    tree::{assert_same, describe},
    vaults,
};

const OWNER: &str = "user-1";
const SETTLE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(50);

fn local(id: &str, path: &Path) -> Destination {
    described(
        id,
        Kind::Local(LocalDestination {
            path: path.display().to_string(),
        }),
    )
}

fn described(id: &str, kind: Kind) -> Destination {
    Destination {
        destination_id: id.to_owned(),
        kind: Some(kind),
        ..Destination::default()
    }
}

fn s3(id: &str) -> Destination {
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

fn ssh(id: &str) -> Destination {
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

type Admin = AdminServiceClient<Authorized>;

async fn add(admin: &mut Admin, destination: &Destination) -> Result<Destination> {
    let request = CreateDestinationRequest {
        destination: Some(destination.clone()),
    };
    let added = admin.create_destination(request).await?.into_inner();
    added
        .destination
        .context("the answer holds the destination")
}

async fn try_out(admin: &mut Admin, target: Target) -> Result<TestDestinationResponse> {
    let request = TestDestinationRequest {
        target: Some(target),
    };
    Ok(admin.test_destination(request).await?.into_inner())
}

async fn register(
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

/// Looks until it is so: what has no event of its own.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
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
async fn copied(user: &mut Api, backup_id: &str) -> Result<Backup> {
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

/// Restores what is read at a destination.
async fn restores_from(
    standalone: &Standalone,
    user: &mut Api,
    backup_id: &str,
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
        &describe(&standalone.agent_dir("agent"))?,
        &describe(&target)?,
    );
    Ok(())
}

#[tokio::test]
async fn a_destination_added_at_run_time_is_tried_used_and_forgotten() -> Result<()> {
    let mut standalone = Standalone::prepare("destinations-added")?
        .with_env("NORA_BACKUP_COMPACT_GRACE_MS", "0")
        .with_env("RUST_LOG", "trace,h2=info,sqlx=info,tonic=info,hyper=info");
    standalone.launch().await?;
    fixture::random_files(&standalone.agent_dir("agent"), 4, 1 << 20, 1)?;
    let more = standalone.outside_dir("more");
    for destination in [local("more", &more), s3("bucket"), ssh("far")] {
        let id = destination.destination_id.clone();
        one_destination(&mut standalone, &destination)
            .await
            .with_context(|| id)?;
    }
    for secret in [
        address("NORA_TEST_S3_SECRET_ACCESS_KEY"),
        address("NORA_TEST_SSH_PASSWORD"),
    ] {
        assert!(!standalone.log().contains(&secret), "a secret in the log");
    }
    Ok(())
}

async fn one_destination(standalone: &mut Standalone, destination: &Destination) -> Result<()> {
    let id = destination.destination_id.as_str();
    let mut admin = standalone.administrators().await?;
    // Before it is saved, and after.
    let tried = try_out(&mut admin, Target::Destination(destination.clone())).await?;
    assert!(tried.ok, "{tried:?}");
    let added = add(&mut admin, destination).await?;
    let tried = try_out(&mut admin, Target::DestinationId(id.to_owned())).await?;
    let names: Vec<&str> = tried.steps.iter().map(|step| step.name.as_str()).collect();
    assert!(tried.ok, "{tried:?}");
    assert_eq!(names[..4], ["connect", "write", "read", "list"]);
    assert_eq!(names.last(), Some(&"delete"));
    let twice = add(&mut admin, destination).await.unwrap_err();
    let twice = twice.downcast_ref().context("a status")?;
    assert_eq!(reason(twice), "DESTINATION_EXISTS");

    let request = GetDestinationRequest {
        destination_id: id.to_owned(),
    };
    let shown = admin.get_destination(request).await?.into_inner();
    let shown = shown.destination.context("a destination")?;
    assert_eq!(shown, added);
    match shown.kind.clone().context("a kind")? {
        Kind::S3(s3) => assert_eq!(s3.secret_access_key, ""),
        Kind::Ssh(ssh) => assert_eq!(ssh.password, ""),
        Kind::Local(_) | Kind::R2(_) => {}
    }
    // Secrets that are left out stay.
    let request = UpdateDestinationRequest {
        destination: Some(Destination {
            display_name: "Another name".to_owned(),
            ..shown
        }),
        update_mask: None,
    };
    let updated = admin.update_destination(request).await?.into_inner();
    let updated = updated.destination.context("a destination")?;
    assert_eq!(updated.display_name, "Another name");
    assert_ne!(updated.etag, added.etag);

    register(standalone, "agent", id, "").await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    assert_eq!(backup.destination_id, id);
    restores_from(standalone, &mut user, &backup.backup_id, "").await?;
    let verified = verify(&mut user, &backup.backup_id, "").await?;
    assert!(verified, "verified");
    assert!(!standalone.destination().join("vaults").exists());

    let request = DeleteDestinationRequest {
        destination_id: id.to_owned(),
        etag: String::new(),
    };
    let refused = admin.delete_destination(request.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "DESTINATION_IN_USE");
    for named in ["agent", backup.backup_id.as_str()] {
        assert!(refused.message().contains(named), "{refused:?}");
    }
    standalone
        .control_plane()
        .await?
        .agents
        .deregister_agent(DeregisterAgentRequest {
            agent_id: "agent".to_owned(),
            delete_backups: true,
            ..DeregisterAgentRequest::default()
        })
        .await?;
    // What was restored is at the same destination as what it was restored from.
    for name in standalone.agent_names()? {
        if name != "agent" {
            forget(standalone, &name).await?;
        }
    }
    until("it can be forgotten", async || {
        match admin.delete_destination(request.clone()).await {
            Ok(_) => Ok(Some(())),
            Err(refused) if reason(&refused) == "DESTINATION_IN_USE" => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    let listed = admin
        .list_destinations(ListDestinationsRequest::default())
        .await?
        .into_inner();
    let ids: Vec<&str> = listed
        .destinations
        .iter()
        .map(|one| one.destination_id.as_str())
        .collect();
    assert_eq!(ids, ["default"]);
    Ok(())
}

async fn forget(standalone: &Standalone, agent_id: &str) -> Result<()> {
    standalone
        .control_plane()
        .await?
        .agents
        .deregister_agent(DeregisterAgentRequest {
            agent_id: agent_id.to_owned(),
            ..DeregisterAgentRequest::default()
        })
        .await?;
    std::fs::remove_dir_all(standalone.agent_dir(agent_id))?;
    Ok(())
}

/// Whether every byte that is read at a destination is right.
async fn verify(user: &mut Api, backup_id: &str, destination_id: &str) -> Result<bool> {
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

#[tokio::test]
async fn a_test_names_the_step_that_failed_and_the_remedy() -> Result<()> {
    let standalone = Standalone::start("destinations-tried").await?;
    let mut admin = standalone.administrators().await?;
    let with_s3 = |change: &dyn Fn(&mut S3Destination)| {
        let mut destination = s3("bucket");
        if let Some(Kind::S3(s3)) = &mut destination.kind {
            change(s3);
        }
        destination
    };
    let with_ssh = |change: &dyn Fn(&mut SshDestination)| {
        let mut destination = ssh("far");
        if let Some(Kind::Ssh(ssh)) = &mut destination.kind {
            change(ssh);
        }
        destination
    };
    let cases = [
        (
            with_s3(&|s3| s3.secret_access_key = "not-the-secret".to_owned()),
            "DESTINATION_DENIED",
            "s3.secret_access_key is not the secret of the access key",
        ),
        (
            with_s3(&|s3| s3.bucket = "nora-not-there".to_owned()),
            "DESTINATION_MISCONFIGURED",
            "nora-not-there",
        ),
        (
            with_ssh(&|ssh| ssh.password = "not-the-password".to_owned()),
            "DESTINATION_DENIED",
            "password",
        ),
        (
            with_ssh(&|ssh| ssh.remote_path = "/proc/nora".to_owned()),
            "",
            "remote_path",
        ),
        (
            with_ssh(&|ssh| ssh.host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHqf".to_owned()),
            "",
            "",
        ),
        (local("nowhere", Path::new("/proc/nora")), "", ""),
    ];
    for (destination, expected, named) in cases {
        let id = destination.destination_id.clone();
        let tried = match try_out(&mut admin, Target::Destination(destination)).await {
            Ok(tried) => tried,
            // A description that can't be one is refused as such.
            Err(error) => {
                let status: &tonic::Status = error.downcast_ref().context("a status")?;
                assert_eq!(reason(status), "INVALID_FIELD", "{id}: {status:?}");
                continue;
            }
        };
        let last = tried.steps.last().context("a step")?;
        println!("{id}: {} {}: {}", last.name, last.reason, last.message);
        assert!(!tried.ok && !last.ok, "{id}: {tried:?}");
        assert!(last.reason.starts_with("DESTINATION_"), "{id}: {last:?}");
        if !expected.is_empty() {
            assert_eq!(last.reason, expected, "{id}: {last:?}");
        }
        assert!(last.message.contains(named), "{id}: {last:?}");
        assert!(last.message.len() > 20, "{id}: {last:?}");
        for secret in ["not-the-secret", "not-the-password"] {
            assert!(!last.message.contains(secret), "{id}: {last:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn another_default_moves_nothing_and_breaks_nothing() -> Result<()> {
    let mut standalone =
        Standalone::prepare("destinations-default")?.with_env("NORA_BACKUP_COMPACT_GRACE_MS", "0");
    standalone.launch().await?;
    let root = register(&standalone, "agent", "", "").await?;
    fixture::random_files(&root, 4, 1 << 20, 1)?;
    let mut user = standalone.user(OWNER).await?;
    let first = user.complete_backup("agent").await?;
    assert_eq!(first.destination_id, "default");
    standalone.stop()?;

    let (former, other) = (standalone.destination(), standalone.outside_dir("other"));
    standalone.set_env("NORA_BACKUP_DIR", other.display().to_string());
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let shown = user.backup(&first.backup_id).await?;
    assert_eq!(shown.destination_id, "former-1");
    restores_from(&standalone, &mut user, &first.backup_id, "").await?;
    user.download(&first.backup_id, 0, "").await?;
    let second = user.complete_backup("agent").await?;
    assert_eq!(second.destination_id, "default");
    assert!(vaults::objects(&other, "agent")?.count("backups") == 1);
    assert!(vaults::objects(&former, "agent")?.count("backups") == 1);
    restores_from(&standalone, &mut user, &second.backup_id, "").await?;
    user.backups
        .delete_backup(DeleteBackupRequest {
            backup_id: first.backup_id.clone(),
        })
        .await?;
    vaults::wait_until(&former, "agent", |objects| {
        objects.count("backups") == 0 && objects.count("packs") == 0
    })
    .await?;
    assert!(verify(&mut user, &second.backup_id, "").await?);

    // And back again.
    standalone.stop()?;
    standalone.set_env("NORA_BACKUP_DIR", former.display().to_string());
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let shown = user.backup(&second.backup_id).await?;
    assert_eq!(shown.destination_id, "former-2");
    restores_from(&standalone, &mut user, &second.backup_id, "").await?;
    user.complete_backup("agent").await?;
    Ok(())
}

#[tokio::test]
async fn a_copy_outlives_the_first_place_and_goes_with_its_backup() -> Result<()> {
    let mut standalone =
        Standalone::prepare("destinations-copy")?.with_env("NORA_BACKUP_COMPACT_GRACE_MS", "0");
    standalone.launch().await?;
    let second = standalone.outside_dir("second");
    add(
        &mut standalone.administrators().await?,
        &local("second", &second),
    )
    .await?;
    let root = register(&standalone, "agent", "", "second").await?;
    fixture::random_files(&root, 4, 1 << 20, 1)?;
    let mut user = standalone.user(OWNER).await?;
    let first = user.complete_backup("agent").await?.backup_id;
    fixture::random_files(&root, 4, 1 << 20, 2)?;
    let last = user.complete_backup("agent").await?.backup_id;
    for backup_id in [&first, &last] {
        let backup = copied(&mut user, backup_id).await?;
        let copy = &backup.copies[0];
        assert_eq!(copy.destination_id, "second");
        assert_eq!(
            copy.state(),
            backup_copy::State::Completed,
            "{:?}",
            copy.failure
        );
    }
    let refused = verify(&mut user, &last, "nowhere").await.unwrap_err();
    let refused = refused.downcast_ref().context("a status")?;
    assert_eq!(reason(refused), "COPY_NOT_COMPLETED");
    assert!(verify(&mut user, &last, "second").await?);

    std::fs::remove_dir_all(standalone.destination().join("vaults"))?;
    restores_from(&standalone, &mut user, &last, "second").await?;
    assert!(verify(&mut user, &last, "second").await?);
    for backup_id in [first, last] {
        user.backups
            .delete_backup(DeleteBackupRequest { backup_id })
            .await?;
    }
    vaults::wait_until(&second, "agent", |objects| {
        objects.count("backups") == 0 && objects.count("packs") == 0
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_copy_that_cannot_be_made_says_why_and_leaves_the_backup_alone() -> Result<()> {
    let mut standalone =
        Standalone::prepare("destinations-uncopied")?.with_env("NORA_BACKUP_JOB_RETRIES", "1");
    standalone.launch().await?;
    let mut unreachable = s3("second");
    if let Some(Kind::S3(s3)) = &mut unreachable.kind {
        s3.secret_access_key = "not-the-secret".to_owned();
    }
    let mut admin = standalone.administrators().await?;
    add(&mut admin, &unreachable).await?;
    let root = register(&standalone, "agent", "", "second").await?;
    fixture::random_files(&root, 2, 1 << 16, 1)?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    let shown = copied(&mut user, &backup.backup_id).await?;
    assert_eq!(shown.copies[0].state(), backup_copy::State::Failed);
    let failure = shown.copies[0].failure.clone().context("why")?;
    assert_eq!(failure.reason, "DESTINATION_DENIED", "{failure:?}");
    restores_from(&standalone, &mut user, &backup.backup_id, "").await?;

    // The right secret, and a new try.
    let request = UpdateDestinationRequest {
        destination: Some(Destination {
            kind: unreachable.kind.clone().map(|kind| match kind {
                Kind::S3(s3) => Kind::S3(S3Destination {
                    secret_access_key: address("NORA_TEST_S3_SECRET_ACCESS_KEY"),
                    ..s3
                }),
                other => other,
            }),
            ..unreachable
        }),
        update_mask: None,
    };
    admin.update_destination(request).await?;
    let jobs = admin
        .list_jobs(proto::backup::v1::ListJobsRequest {
            kind: job::Kind::Copy.into(),
            ..Default::default()
        })
        .await?
        .into_inner()
        .jobs;
    let failed = jobs.first().context("a copy job")?;
    admin
        .retry_job(proto::backup::v1::RetryJobRequest {
            job_id: failed.job_id.clone(),
        })
        .await?;
    let shown = copied(&mut user, &backup.backup_id).await?;
    assert_eq!(shown.copies[0].state(), backup_copy::State::Completed);
    assert!(verify(&mut user, &backup.backup_id, "second").await?);
    Ok(())
}

/// Where the program is killed while it copies.
const KILLED_AT: &[&str] = &[
    "catalog-after-commit-complete-backup",
    "vault-copy-keys-stored",
    "vault-copy-pack-stored",
    "vault-copy-index-stored",
    "vault-copy-manifest-stored",
    "worker-copy-stored",
    "worker-copy-completed",
];

#[tokio::test]
async fn a_kill_at_any_failpoint_of_a_copy_loses_neither_backup_nor_copy() -> Result<()> {
    for failpoint in KILLED_AT {
        killed_at(failpoint)
            .await
            .with_context(|| format!("killed at {failpoint}"))?;
    }
    Ok(())
}

async fn killed_at(failpoint: &str) -> Result<()> {
    let mut standalone = Standalone::prepare("destinations-killed")?;
    standalone.launch().await?;
    let second = standalone.outside_dir("second");
    add(
        &mut standalone.administrators().await?,
        &local("second", &second),
    )
    .await?;
    let root = register(&standalone, "agent", "", "second").await?;
    fixture::random_files(&root, 3, 1 << 20, 1)?;
    standalone.stop()?;
    standalone.set_env("FAILPOINTS", format!("{failpoint}=pause"));
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let id = user.create_backup("agent").await?.backup_id;
    standalone.wait_until_quiet().await?;
    standalone.kill()?;
    standalone.remove_env("FAILPOINTS");
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = copied(&mut user, &id).await?;
    assert_eq!(backup.copies[0].state(), backup_copy::State::Completed);
    restores_from(&standalone, &mut user, &id, "second").await?;
    restores_from(&standalone, &mut user, &id, "").await
}
