//! kill -9 exactly between two durable effects: at each named failpoint the
//! program is paused, killed and started again, and what it had begun ends right.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use proto::backup::v1::{DeleteBackupRequest, RestoreInPlaceRequest, backup, restore};
use services::{
    api::{directory_plan, expect_state},
    fixture,
    one_agent::{OWNER, start},
    place,
    standalone::Standalone,
    tree::{assert_same, describe},
    vaults,
};

/// What brings the program to a failpoint.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Backup,
    Restore,
    /// A restore in place of the agent itself.
    InPlace,
    /// A delete and the compaction that follows it.
    Delete,
}

/// Where the program is paused and killed.
const FAILPOINTS: &[(&str, Work)] = &[
    ("dispatcher-before-publish", Work::Backup),
    ("dispatcher-before-mark", Work::Backup),
    ("worker-before-ack", Work::Backup),
    ("worker-claimed", Work::Backup),
    ("worker-captured", Work::Backup),
    ("vault-pack-stored", Work::Backup),
    ("vault-before-index", Work::Backup),
    ("vault-before-manifest", Work::Backup),
    ("vault-manifest-stored", Work::Backup),
    ("worker-committed", Work::Backup),
    ("worker-backup-completed", Work::Backup),
    ("worker-restore-written", Work::Restore),
    ("worker-restore-before-mark", Work::Restore),
    ("worker-restore-before-rename", Work::Restore),
    ("worker-restore-published", Work::Restore),
    ("worker-restore-completed", Work::Restore),
    ("worker-restore-written", Work::InPlace),
    ("worker-in-place-before-mark", Work::InPlace),
    ("worker-in-place-before-exchange", Work::InPlace),
    ("worker-restore-published", Work::InPlace),
    ("worker-restore-completed", Work::InPlace),
    ("worker-in-place-before-removal", Work::InPlace),
    ("worker-manifests-deleted", Work::Delete),
    ("compact-index-stored", Work::Delete),
    ("compact-index-removed", Work::Delete),
    ("compact-pack-removed", Work::Delete),
    ("worker-compact-completed", Work::Delete),
];

/// Failpoints after which the new folder of a restore has its name.
const PUBLISHED: &[&str] = &["worker-restore-published", "worker-restore-completed"];

/// Failpoints after which a restore in place has put the new folder in the old one's place.
const REPLACED: &[&str] = &[
    "worker-restore-published",
    "worker-restore-completed",
    "worker-in-place-before-removal",
];

/// What a backup is while the program is paused there; None: that depends on who
/// is faster.
fn state_at(failpoint: &str) -> Option<backup::State> {
    match failpoint {
        "dispatcher-before-publish" => Some(backup::State::Pending),
        "dispatcher-before-mark" => None,
        "worker-backup-completed" => Some(backup::State::Completed),
        _ => Some(backup::State::Running),
    }
}

/// Failpoints that other tests use: to slow work down (crash.rs, ending.rs), to be killed
/// at while keys are rotated or destroyed (keys.rs), to
/// stop at every call of the destination (vault/tests/compact; copies too), or to be killed at
/// while a backup is copied (destinations.rs), in a fleet (chaos.rs; one process has nobody
/// to announce to) or around a
/// container's commands (docker.rs), or while one is replaced (in_place.rs).
const ELSEWHERE: &[&str] = &[
    "vault-batch-decoding",
    "compact-manifest-removed",
    "compact-packs-copied",
    "compact-index-part-stored",
    "announcer-before-mark",
    "vault-copy-keys-stored",
    "vault-copy-pack-stored",
    "vault-copy-index-stored",
    "vault-copy-manifest-stored",
    "vault-rewrap-before-put",
    "vault-rewrap-stored",
    "worker-before-hook",
    "worker-copy-stored",
    "worker-copy-completed",
    "worker-hooked",
    "worker-rotate-vault",
    "worker-rotate-noted",
    "worker-rotate-before-complete",
    "worker-rotate-completed",
    "worker-erase-keys-noted",
    "worker-erase-keys-destroyed",
    "worker-erase-erased",
    "worker-in-place-aside",
    "worker-in-place-freed",
    "worker-in-place-put-back",
    "worker-in-place-removed",
    "worker-in-place-renamed",
    "worker-in-place-restarted",
    "worker-in-place-stopped",
];

#[test]
fn every_failpoint_of_the_program_is_in_the_table() {
    let mut found = BTreeSet::new();
    for part in [
        "vault",
        "catalog",
        "destinations",
        "queue",
        "worker",
        "server",
        "cli",
    ] {
        let mut folders: Vec<PathBuf> = vec![place::workspace_dir().join(part).join("src")];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder)
                .expect("read a folder")
                .flatten()
                .map(|entry| entry.path())
            {
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = fs::read_to_string(&path).expect("read a source file");
                for piece in text.split("fail_point!(").skip(1) {
                    let name = piece
                        .trim_start()
                        .strip_prefix('"')
                        .and_then(|rest| rest.split('"').next());
                    found.extend(name.map(str::to_owned));
                }
            }
        }
    }
    let known: BTreeSet<String> = FAILPOINTS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .chain(ELSEWHERE.iter().map(|name| (*name).to_owned()))
        .collect();
    assert_eq!(found, known, "left: in the sources, right: in the table");
}

#[tokio::test]
async fn a_kill_at_any_failpoint_of_a_backup_loses_nothing() -> Result<()> {
    at_each(Work::Backup).await
}

#[tokio::test]
async fn a_kill_at_any_failpoint_of_a_restore_leaves_nothing_half_made() -> Result<()> {
    at_each(Work::Restore).await
}

#[tokio::test]
async fn a_kill_at_any_failpoint_of_a_restore_in_place_leaves_the_old_agent_or_the_new_one()
-> Result<()> {
    at_each(Work::InPlace).await
}

#[tokio::test]
async fn a_kill_at_any_failpoint_of_a_delete_or_compaction_loses_nothing_that_is_needed()
-> Result<()> {
    at_each(Work::Delete).await
}

async fn at_each(work: Work) -> Result<()> {
    for (name, _) in FAILPOINTS.iter().filter(|(_, of)| *of == work) {
        killed_at(name, work)
            .await
            .with_context(|| format!("killed at {name}"))?;
    }
    Ok(())
}

async fn killed_at(failpoint: &str, work: Work) -> Result<()> {
    let mut standalone =
        Standalone::prepare(failpoint)?.with_env("NORA_BACKUP_COMPACT_GRACE_MS", "0");
    let root = standalone.agent_dir("agent");
    fixture::every_kind(&root)?;
    fixture::random_files(&root.join("bulk"), 5, 8 << 20, 1)?;
    start(&mut standalone).await?;
    let first = standalone
        .user(OWNER)
        .await?
        .complete_backup("agent")
        .await?;
    let as_backed_up = describe(&root)?;
    fixture::random_files(&root.join("bulk"), 5, 8 << 20, 2)?;
    fs::remove_file(root.join("bulk/random-1-0000.bin"))?;
    let before = describe(&root)?;
    standalone.stop()?;

    standalone.set_env("FAILPOINTS", format!("{failpoint}=pause"));
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let target = standalone.agent_dir("restored");
    let id = match work {
        Work::Backup => user.create_backup("agent").await?.backup_id,
        Work::Restore => {
            let draft = user
                .draft_restore(&first.backup_id, directory_plan("agent-2", &target)?)
                .await?;
            user.start_restore(&draft.restore_id).await?.restore_id
        }
        Work::InPlace => {
            let restored = standalone
                .administrators()
                .await?
                .restore_in_place(RestoreInPlaceRequest {
                    agent_id: "agent".to_owned(),
                    backup_id: first.backup_id.clone(),
                    confirm_agent_id: "agent".to_owned(),
                    request_id: String::new(),
                })
                .await?
                .into_inner();
            restored.restore.context("a restore")?.restore_id
        }
        Work::Delete => {
            user.backups
                .delete_backup(DeleteBackupRequest {
                    backup_id: first.backup_id.clone(),
                })
                .await?;
            first.backup_id.clone()
        }
    };
    standalone.wait_until_quiet().await?;
    match work {
        Work::Backup => {
            if let Some(state) = state_at(failpoint) {
                expect_state(&user.backup(&id).await?, state).context("paused")?;
            }
        }
        Work::Restore => assert_eq!(
            target.exists(),
            PUBLISHED.contains(&failpoint),
            "the new folder has its name, or is not there"
        ),
        Work::InPlace => {
            let is = if REPLACED.contains(&failpoint) {
                &as_backed_up
            } else {
                &before
            };
            assert_same(is, &describe(&root)?);
        }
        Work::Delete => {}
    }
    standalone.kill()?;
    standalone.remove_env("FAILPOINTS");
    standalone.launch().await?;

    let mut user = standalone.user(OWNER).await?;
    let last = match work {
        Work::Backup => user.watch_backup(&id, |_| false).await?,
        Work::Restore => {
            let ended = user.watch_restore(&id, |_| false).await?;
            assert_eq!(
                ended.state(),
                restore::State::Completed,
                "{:?}",
                ended.failure
            );
            only_these_are_left(&standalone, &["agent", "restored"]).await?;
            user.complete_backup("agent").await?
        }
        Work::InPlace => {
            let ended = user.watch_restore(&id, |_| false).await?;
            assert_eq!(
                ended.state(),
                restore::State::Completed,
                "{:?}",
                ended.failure
            );
            assert_same(&as_backed_up, &describe(&root)?);
            only_these_are_left(&standalone, &["agent"]).await?;
            let safety = user.backup(&ended.safety_backup_id).await?;
            assert!(!safety.protected, "protected until it has succeeded");
            safety
        }
        Work::Delete => user.complete_backup("agent").await?,
    };
    expect_state(&last, backup::State::Completed)?;
    let again = standalone.agent_dir("again");
    user.restore_directory(&last.backup_id, "again", &again)
        .await?;
    assert_same(&before, &describe(&again)?);

    // Everything deleted, nothing stays but the key.
    for backup_id in [first.backup_id, last.backup_id] {
        if work == Work::Delete && backup_id == id {
            continue;
        }
        user.backups
            .delete_backup(DeleteBackupRequest { backup_id })
            .await?;
    }
    vaults::wait_until(&standalone.destination(), "agent", |objects| {
        objects.count("packs") == 0 && objects.count("backups") == 0 && objects.strays.is_empty()
    })
    .await?;
    Ok(())
}

/// What a worker that starts removes has no event.
async fn only_these_are_left(standalone: &Standalone, expected: &[&str]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let names = standalone.agent_names()?;
        if names == expected {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "left are {names:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
