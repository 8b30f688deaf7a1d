//! Copies of backups at a second destination.

use anyhow::{Context as _, Result};
use proto::backup::v1::{
    DeleteBackupRequest, DownloadBackupRequest, UpdateDestinationRequest, backup_copy, job,
};
use services::{api::reason, cli::Cli, fixture, services::address, standalone::Standalone, vaults};

use crate::support::{
    OWNER, add, changed_s3, copied, register, register_with_second, restores_from, s3, verify,
};

#[tokio::test]
async fn a_copy_outlives_the_first_place_and_goes_with_its_backup() -> Result<()> {
    let mut standalone =
        Standalone::prepare("destinations-copy")?.with_env("NORA_BACKUP_COMPACT_GRACE_MS", "0");
    standalone.launch().await?;
    let (root, second) = register_with_second(&standalone).await?;
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

    let request = |destination_id: &str| DownloadBackupRequest {
        backup_id: last.clone(),
        destination_id: destination_id.to_owned(),
        ..DownloadBackupRequest::default()
    };
    let whole = user.receive(request("")).await?;
    let refused = user.receive(request("nowhere")).await.unwrap_err();
    let refused = refused.downcast_ref().context("a status")?;
    assert_eq!(reason(refused), "COPY_NOT_COMPLETED");

    std::fs::remove_dir_all(standalone.destination().join("vaults"))?;
    assert!(user.receive(request("")).await.is_err());
    assert!(
        user.receive(request("second")).await? == whole,
        "other bytes"
    );
    let cli = Cli::new(&standalone, OWNER, "user");
    let listed = cli.ok(&["backup", "files", &last, "--from", "second"])?;
    let name = listed.split_whitespace().last().context("a file")?;
    let got = standalone.outside_dir("got");
    let to = got.to_str().context("UTF-8")?;
    cli.ok(&["backup", "get", &last, name, "--from", "second", "-o", to])?;
    assert!(
        std::fs::read(&got)? == std::fs::read(root.join(name))?,
        "{name}"
    );
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
    let unreachable = changed_s3(s3("second"), |s3| {
        "not-the-secret".clone_into(&mut s3.secret_access_key);
    });
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
        destination: Some(changed_s3(unreachable, |s3| {
            s3.secret_access_key = address("NORA_TEST_S3_SECRET_ACCESS_KEY");
        })),
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
    let (root, _) = register_with_second(&standalone).await?;
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
