//! Agents whose state is gone where it lived: what was backed up comes back all the same,
//! and a backup of nothing says what is missing.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use proto::backup::v1::{
    Backup, Consistency, DockerTarget, RestorePlan, StartRestoreRequest, VerifyBackupRequest,
    WatchVerificationRequest, backup, restore, restore_plan, verify_backup_request::Depth,
};
use services::{
    api::{Api, expect_state},
    containers::{self, Agents},
    fixture,
    standalone::Standalone,
    tree::{assert_same, describe},
};

/// A backup of what is not there any more fails and names it; earlier ones are right.
async fn expect_gone(user: &mut Api, first: &Backup, name: &str) -> Result<()> {
    let failed = user.make_backup(&first.agent_id).await?;
    expect_state(&failed, backup::State::Failed)?;
    let failure = failed.failure.context("a failure")?;
    assert_eq!(failure.reason, "SOURCE_NOT_FOUND", "{}", failure.message);
    assert!(failure.message.contains(name), "{}", failure.message);
    let backup_id = first.backup_id.clone();
    let request = VerifyBackupRequest {
        backup_id: backup_id.clone(),
        depth: Depth::Full.into(),
        ..VerifyBackupRequest::default()
    };
    let begun = user.backups.verify_backup(request).await?.into_inner();
    let request = WatchVerificationRequest {
        backup_id,
        verification_id: begun.verification_id,
    };
    let mut stream = user.backups.watch_verification(request).await?.into_inner();
    while stream.message().await?.is_some() {}
    let verified = user.backup(&first.backup_id).await?;
    ensure!(
        verified.verify_failure.is_none(),
        "{:?}",
        verified.verify_failure
    );
    ensure!(verified.verify_time.is_some(), "{verified:?}");
    Ok(())
}

#[tokio::test]
async fn an_agent_whose_container_was_removed_comes_back_as_a_new_one() -> Result<()> {
    const PATHS: &[&str] = &["/data", "/etc", "/opt", "/home"];
    let (original, again) = ("nora-gone", "nora-gone-again");
    let mut agents = Agents::connect()?;
    agents.create(original).await?;
    agents.names.push(again.to_owned());
    let standalone = containers::standalone("gone-docker").await?;
    let mut control = standalone.control_plane().await?;
    let live = Consistency::Live;
    containers::register(&mut control, "boxed", original, &[], live, None).await?;
    let mut user = standalone.user(containers::OWNER).await?;
    let outcome = async {
        let before = agents.describe(original, PATHS).await?;
        let first = user.complete_backup("boxed").await?;
        // With its volumes, as when the machine was lost.
        agents.remove_one(original).await?;
        ensure!(agents.inspect(original).await.is_err(), "it is still there");
        expect_gone(&mut user, &first, original).await?;

        let target = DockerTarget {
            container_name: again.to_owned(),
            start: true,
            ..DockerTarget::default()
        };
        let plan = RestorePlan {
            agent_id: "boxed-again".to_owned(),
            target: Some(restore_plan::Target::Docker(target)),
            ..RestorePlan::default()
        };
        let draft = user.draft_restore(&first.backup_id, plan).await?;
        let request = StartRestoreRequest {
            restore_id: draft.restore_id.clone(),
            choices: [("port:8080/tcp".to_owned(), "random".to_owned())].into(),
        };
        user.restores.start_restore(request).await?;
        let ended = user.watch_restore(&draft.restore_id, |_| false).await?;
        ensure!(
            ended.state() == restore::State::Completed,
            "{:?}",
            ended.failure
        );
        let found = agents.describe(again, PATHS).await?;
        for (path, text) in &before {
            assert_eq!(found.get(path), Some(text), "{path}");
        }
        let next = user.complete_backup("boxed-again").await?;
        assert!(next.size_bytes > 0);
        anyhow::Ok(())
    }
    .await;
    agents.remove().await?;
    outcome
}

#[tokio::test]
async fn an_agent_whose_folder_is_gone_comes_back_where_it_was_or_elsewhere() -> Result<()> {
    const OWNER: &str = "user-1";
    let standalone = Standalone::start("gone").await?;
    let root = standalone.agent_dir("home").join("agent");
    fixture::every_kind(&root)?;
    fixture::random_files(&root.join("bulk"), 4, 1 << 20, 1)?;
    let before = describe(&root)?;
    let mut control = standalone.control_plane().await?;
    control.register_directory("agent", OWNER, &root).await?;
    let mut user = standalone.user(OWNER).await?;
    let first = user.complete_backup("agent").await?;
    fs::remove_dir_all(standalone.agent_dir("home"))?;
    expect_gone(&mut user, &first, "agent").await?;

    let elsewhere = standalone.agent_dir("elsewhere");
    user.restore_directory(&first.backup_id, "elsewhere", &elsewhere)
        .await?;
    assert_same(&before, &describe(&elsewhere)?);
    // In its own place, once the folder above is there again; the agent goes on.
    fs::create_dir(standalone.agent_dir("home"))?;
    user.restore_directory(&first.backup_id, "agent-again", &root)
        .await?;
    assert_same(&before, &describe(&root)?);
    let next = user.complete_backup("agent").await?;
    assert!(next.stored_bytes < 200_000, "{}", next.stored_bytes);
    Ok(())
}
