//! Work that is told to end: cancel and timeout end the work, not only the
//! waiting.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::Result;
use proto::backup::v1::{
    Backup, CancelBackupRequest, CancelRestoreRequest, Phase, Progress, backup, restore,
};
use services::{
    api::directory_plan,
    fixture,
    one_agent::{OWNER, start},
    standalone::Standalone,
    vaults,
};
use tokio::sync::Mutex;

const CANCEL_MAX: Duration = Duration::from_secs(2);
const FILE_BYTES: usize = 8 << 20;

/// These measure time: one after the other.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn with_agent(mut standalone: Standalone, mib: usize) -> Result<Standalone> {
    let root = standalone.agent_dir("agent");
    fixture::random_files(&root, mib * (1 << 20) / FILE_BYTES, FILE_BYTES, 1)?;
    start(&mut standalone).await?;
    Ok(standalone)
}

fn is_moving(progress: Option<&Progress>) -> bool {
    progress
        .is_some_and(|progress| progress.phase() == Phase::Transferring && progress.bytes_done > 0)
}

/// A program whose work takes long enough to be ended in its middle.
fn slowed(name: &str, failpoint: &str) -> Result<Standalone> {
    Ok(Standalone::prepare(name)?.with_env("FAILPOINTS", failpoint))
}

fn is_backup_moving(backup: &Backup) -> bool {
    is_moving(backup.progress.as_ref())
}

#[tokio::test]
async fn a_running_backup_is_canceled_within_two_seconds() -> Result<()> {
    let _alone = ALONE.lock().await;
    let standalone = with_agent(
        slowed("cancel-backup", "vault-pack-stored=sleep(300)")?,
        160,
    )
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let created = user.create_backup("agent").await?;
    let seen = user
        .watch_backup(&created.backup_id, is_backup_moving)
        .await?;
    assert_eq!(seen.state(), backup::State::Running);
    let asked = Instant::now();
    user.backups
        .cancel_backup(CancelBackupRequest {
            backup_id: created.backup_id.clone(),
        })
        .await?;
    let ended = user.watch_backup(&created.backup_id, |_| false).await?;
    let took = asked.elapsed();
    assert_eq!(
        ended.state(),
        backup::State::Canceled,
        "{:?}",
        ended.failure
    );
    assert!(took < CANCEL_MAX, "{took:?}");
    // Canceling again says that it is over.
    let again = user
        .backups
        .cancel_backup(CancelBackupRequest {
            backup_id: created.backup_id,
        })
        .await;
    assert_eq!(
        again
            .map_err(|status| services::api::reason(&status))
            .err()
            .as_deref(),
        Some("ALREADY_ENDED")
    );
    user.complete_backup("agent").await?;
    Ok(())
}

#[tokio::test]
async fn a_waiting_backup_is_canceled_at_once() -> Result<()> {
    let _alone = ALONE.lock().await;
    let standalone = with_agent(
        slowed("cancel-waiting", "vault-pack-stored=sleep(500)")?,
        160,
    )
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let first = user.create_backup("agent").await?;
    user.watch_backup(&first.backup_id, is_backup_moving)
        .await?;
    // One job of an agent at a time: this one waits.
    let second = user.create_backup("agent").await?;
    let request = CancelBackupRequest {
        backup_id: second.backup_id.clone(),
    };
    let answer = user
        .backups
        .cancel_backup(request)
        .await?
        .into_inner()
        .backup
        .unwrap_or_default();
    assert_eq!(answer.state(), backup::State::Canceled);
    let ended = user.watch_backup(&first.backup_id, |_| false).await?;
    assert_eq!(
        ended.state(),
        backup::State::Completed,
        "the other one goes on: {:?}",
        ended.failure
    );
    Ok(())
}

#[tokio::test]
async fn a_running_restore_is_canceled_within_two_seconds_and_leaves_nothing() -> Result<()> {
    let _alone = ALONE.lock().await;
    let standalone = with_agent(
        slowed("cancel-restore", "vault-batch-decoding=sleep(300)")?,
        160,
    )
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    let target = standalone.agent_dir("restored");
    let draft = user
        .draft_restore(&backup.backup_id, directory_plan("agent-2", &target)?)
        .await?;
    user.start_restore(&draft.restore_id).await?;
    user.watch_restore(&draft.restore_id, |restore| {
        is_moving(restore.progress.as_ref())
    })
    .await?;
    let asked = Instant::now();
    user.restores
        .cancel_restore(CancelRestoreRequest {
            restore_id: draft.restore_id.clone(),
        })
        .await?;
    let ended = user.watch_restore(&draft.restore_id, |_| false).await?;
    let took = asked.elapsed();
    assert_eq!(
        ended.state(),
        restore::State::Canceled,
        "{:?}",
        ended.failure
    );
    assert!(took < CANCEL_MAX, "{took:?}");
    assert_eq!(
        standalone.agent_names()?,
        ["agent"],
        "nothing half-made stays"
    );
    // The same name can be used again.
    user.restore_directory(&backup.backup_id, "agent-2", &target)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_backup_that_takes_too_long_fails_and_its_work_ends() -> Result<()> {
    let _alone = ALONE.lock().await;
    let standalone = slowed("timeout", "vault-pack-stored=sleep(300)")?
        .with_env("NORA_BACKUP_JOB_TIMEOUT_MS", "1000");
    let standalone = with_agent(standalone, 160).await?;
    let small = standalone.agent_dir("small");
    fs::create_dir(&small)?;
    fs::write(small.join("file"), "content")?;
    standalone
        .control_plane()
        .await?
        .register_directory("small", OWNER, &small)
        .await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.make_backup("agent").await?;
    let failure = backup.failure.clone().unwrap_or_default();
    assert_eq!(
        (backup.state(), failure.reason.as_str()),
        (backup::State::Failed, "JOB_TIMEOUT"),
        "{failure:?}"
    );
    // Nothing is written any more while another agent is served.
    let then = vaults::objects(&standalone.destination(), "agent")?;
    user.complete_backup("small").await?;
    let now = vaults::objects(&standalone.destination(), "agent")?;
    assert!(
        now.count("packs") <= then.count("packs"),
        "{then:#?}, later {now:#?}"
    );
    Ok(())
}
