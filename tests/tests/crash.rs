//! kill -9 in the middle: after the next start the work goes on by itself, ends
//! right, and leaves no garbage.

use std::fs;

use anyhow::{Context as _, Result};
use proto::backup::v1::{Backup, DeleteBackupRequest, Phase, Progress, Restore, backup, restore};
use rand::RngExt as _;
use services::{
    api::{Api, directory_plan, expect_state},
    fixture,
    one_agent::{OWNER, start},
    standalone::Standalone,
    tree::{assert_same, describe},
    vaults,
};

/// Enough that a kill meets the work in its middle.
const FILES: usize = 60;
const FILE_BYTES: usize = 4 << 20;

/// A standalone with one agent of some size. Retired packs go at once.
async fn with_agent(name: &str) -> Result<Standalone> {
    // Slowed down a little, so that there is a middle to be killed in.
    let mut standalone = Standalone::prepare(name)?
        .with_env("NORA_BACKUP_COMPACT_GRACE_MS", "0")
        .with_env("FAILPOINTS", "vault-pack-stored=sleep(50)");
    let root = standalone.agent_dir("agent");
    fixture::every_kind(&root)?;
    fixture::random_files(&root.join("bulk"), FILES, FILE_BYTES, 1)?;
    start(&mut standalone).await?;
    Ok(standalone)
}

fn is_moving(progress: Option<&Progress>) -> bool {
    progress
        .is_some_and(|progress| progress.phase() == Phase::Transferring && progress.bytes_done > 0)
}

fn is_backup_moving(backup: &Backup) -> bool {
    is_moving(backup.progress.as_ref())
}

fn is_restore_moving(restore: &Restore) -> bool {
    is_moving(restore.progress.as_ref())
}

async fn delete(user: &mut Api, backup_id: &str) -> Result<()> {
    user.backups
        .delete_backup(DeleteBackupRequest {
            backup_id: backup_id.to_owned(),
        })
        .await?;
    Ok(())
}

/// Deletes what is left, and nothing must stay but the key.
async fn nothing_stays(standalone: &Standalone, user: &mut Api, backup_ids: &[&str]) -> Result<()> {
    for backup_id in backup_ids {
        delete(user, backup_id).await?;
    }
    vaults::wait_until(&standalone.destination(), "agent", |objects| {
        objects.count("packs") == 0 && objects.count("backups") == 0 && objects.strays.is_empty()
    })
    .await
    .context("after every backup was deleted")?;
    Ok(())
}

#[tokio::test]
async fn a_backup_killed_in_its_middle_goes_on_and_completes() -> Result<()> {
    let mut standalone = with_agent("kill-backup").await?;
    let before = describe(&standalone.agent_dir("agent"))?;
    let mut user = standalone.user(OWNER).await?;
    let created = user.create_backup("agent").await?;
    let seen = user
        .watch_backup(&created.backup_id, is_backup_moving)
        .await?;
    expect_state(&seen, backup::State::Running)?;
    standalone.kill()?;

    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.watch_backup(&created.backup_id, |_| false).await?;
    expect_state(&backup, backup::State::Completed)?;
    assert!(
        backup
            .progress
            .as_ref()
            .is_some_and(|progress| progress.attempt >= 2),
        "{:?}",
        backup.progress
    );
    let target = standalone.agent_dir("restored");
    user.restore_directory(&backup.backup_id, "agent-2", &target)
        .await?;
    assert_same(&before, &describe(&target)?);
    let objects = vaults::objects(&standalone.destination(), "agent")?;
    assert_eq!(
        (objects.count("backups"), objects.strays.len()),
        (1, 0),
        "{objects:#?}"
    );
    nothing_stays(&standalone, &mut user, &[&backup.backup_id]).await
}

#[tokio::test]
async fn a_backup_killed_again_and_again_fails_in_the_end_or_completes_and_the_next_one_succeeds()
-> Result<()> {
    let mut standalone = with_agent("kill-often").await?;
    let created = standalone.user(OWNER).await?.create_backup("agent").await?;
    // As often as a job is tried at the most.
    for _ in 0..3 {
        let mut user = standalone.user(OWNER).await?;
        user.watch_backup(&created.backup_id, is_backup_moving)
            .await?;
        standalone.kill()?;
        standalone.launch().await?;
    }
    let mut user = standalone.user(OWNER).await?;
    let ended = user.watch_backup(&created.backup_id, |_| false).await?;
    if ended.state() != backup::State::Completed {
        let failure = ended.failure.clone().unwrap_or_default();
        assert_eq!(
            (ended.state(), failure.reason.as_str()),
            (backup::State::Failed, "WORKER_LOST"),
            "{failure:?}"
        );
    }
    let next = user.complete_backup("agent").await?;
    let target = standalone.agent_dir("restored");
    user.restore_directory(&next.backup_id, "agent-2", &target)
        .await?;
    assert_same(
        &describe(&standalone.agent_dir("agent"))?,
        &describe(&target)?,
    );
    nothing_stays(&standalone, &mut user, &[&ended.backup_id, &next.backup_id]).await
}

#[tokio::test]
async fn a_restore_killed_in_its_middle_goes_on_and_leaves_nothing_half_made() -> Result<()> {
    let mut standalone = with_agent("kill-restore").await?;
    let before = describe(&standalone.agent_dir("agent"))?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    // Slowed down, so that there is a middle to be killed in.
    standalone.stop()?;
    standalone.set_env("FAILPOINTS", "vault-batch-decoding=sleep(200)".to_owned());
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let target = standalone.agent_dir("restored");
    let draft = user
        .draft_restore(&backup.backup_id, directory_plan("agent-2", &target)?)
        .await?;
    user.start_restore(&draft.restore_id).await?;
    let seen = user
        .watch_restore(&draft.restore_id, is_restore_moving)
        .await?;
    assert_eq!(seen.state(), restore::State::Running);
    standalone.kill()?;
    assert!(
        !target.join("bulk").exists(),
        "the new agent's folder appears whole or not at all"
    );

    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let ended = user.watch_restore(&draft.restore_id, |_| false).await?;
    assert_eq!(
        ended.state(),
        restore::State::Completed,
        "{:?}",
        ended.failure
    );
    assert_same(&before, &describe(&target)?);
    assert_same(&before, &describe(&standalone.agent_dir("agent"))?);
    assert_eq!(standalone.agent_names()?, ["agent", "restored"]);
    user.complete_backup("agent-2").await?;
    Ok(())
}

#[tokio::test]
async fn compactions_killed_at_any_time_lose_nothing_and_leave_nothing() -> Result<()> {
    const ROUNDS: u64 = 5;
    let mut standalone = with_agent("kill-compact").await?;
    let root = standalone.agent_dir("agent");
    let mut user = standalone.user(OWNER).await?;
    let mut last = user.complete_backup("agent").await?;
    for round in 0..ROUNDS {
        // Most files change, so that packs are rewritten and others go whole.
        fixture::random_files(&root.join("bulk"), FILES / 4, FILE_BYTES, 1)?;
        fs::remove_file(root.join(format!(
            "bulk/random-1-{:04}.bin",
            FILES - 1 - round as usize
        )))?;
        fixture::random_files(&root.join("bulk"), 8, FILE_BYTES, 100 + round)?;
        let next = user.complete_backup("agent").await?;
        delete(&mut user, &last.backup_id).await?;
        last = next;
        // A time within what a compaction takes; the seed is the clock.
        let wait_ms = rand::rng().random_range(0..400);
        tokio::time::sleep(std::time::Duration::from_millis(wait_ms)).await;
        standalone.kill()?;
        standalone.launch().await?;
        user = standalone.user(OWNER).await?;
    }
    let target = standalone.agent_dir("restored");
    user.restore_directory(&last.backup_id, "agent-2", &target)
        .await?;
    assert_same(&describe(&root)?, &describe(&target)?);
    vaults::wait_until(&standalone.destination(), "agent", |objects| {
        objects.count("backups") == 1 && objects.strays.is_empty()
    })
    .await
    .context("only the last backup stays")?;
    nothing_stays(&standalone, &mut user, &[&last.backup_id]).await
}

#[tokio::test]
async fn a_stop_in_the_middle_hands_the_work_back_and_the_next_start_goes_on() -> Result<()> {
    let standalone = with_agent("stop").await?;
    let mut standalone = standalone.with_env("NORA_BACKUP_DRAIN_MS", "0");
    standalone.stop()?;
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let created = user.create_backup("agent").await?;
    user.watch_backup(&created.backup_id, is_backup_moving)
        .await?;
    let status = standalone.stop()?;
    assert!(status.success(), "{status}\n{}", standalone.log());
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.watch_backup(&created.backup_id, |_| false).await?;
    expect_state(&backup, backup::State::Completed)
}
