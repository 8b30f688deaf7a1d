//! Destinations that fill up or refuse, and keys that do not fit: the cause is
//! named, earlier backups stay, and the next attempt succeeds.

use std::fs;

use anyhow::{Context as _, Result};
use proto::backup::v1::{Failure, backup, restore};
use services::{
    api::{Api, directory_plan, reason},
    fixture,
    one_agent::{OWNER, launch},
    standalone::{KEY, Standalone},
    tree::{Tree, assert_same, describe},
    vaults,
};

const OTHER_KEY: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

async fn with_agent(standalone: Standalone) -> Result<(Standalone, Api, Tree)> {
    let (standalone, user) = launch(standalone, 4).await?;
    let tree = describe(&standalone.agent_dir("agent"))?;
    Ok((standalone, user, tree))
}

/// A failure as people need it: its reason, and words.
fn expect_reason(failure: Option<&Failure>, reason: &str) {
    let failure = failure.unwrap_or_else(|| panic!("no failure, where {reason} was expected"));
    assert_eq!(failure.reason, reason, "{failure:?}");
    assert!(
        failure.message.len() > 20 && !failure.message.contains("Error {"),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_disk_that_fills_up_fails_the_backup_and_nothing_else() -> Result<()> {
    let standalone = Standalone::prepare("full")?.with_small_destination(24)?;
    let (standalone, mut user, before) = with_agent(standalone).await?;
    let first = user.complete_backup("agent").await?;

    fixture::random_files(&standalone.agent_dir("agent"), 40, 1 << 20, 2)?;
    let full = user.make_backup("agent").await?;
    assert_eq!(full.state(), backup::State::Failed);
    expect_reason(full.failure.as_ref(), "DESTINATION_FULL");
    // The earlier one is as it was, even while the disk is full.
    user.restore_directory(
        &first.backup_id,
        "earlier",
        &standalone.agent_dir("earlier"),
    )
    .await?;
    assert_same(&before, &describe(&standalone.agent_dir("earlier"))?);

    standalone.disk()?.resize(200)?;
    let next = user.complete_backup("agent").await?;
    user.restore_directory(&next.backup_id, "later", &standalone.agent_dir("later"))
        .await?;
    assert_same(
        &describe(&standalone.agent_dir("agent"))?,
        &describe(&standalone.agent_dir("later"))?,
    );
    vaults::wait_until(&standalone.destination(), "agent", |objects| {
        objects.strays.is_empty() && objects.count("backups") == 2 && objects.bytes() < 60 << 20
    })
    .await
    .context("what the failed attempt left is used or swept")?;
    Ok(())
}

#[tokio::test]
async fn a_destination_that_refuses_writing_fails_the_backup_with_the_cause() -> Result<()> {
    let standalone = Standalone::prepare("refusing")?.with_small_destination(64)?;
    let (standalone, mut user, before) = with_agent(standalone).await?;
    let first = user.complete_backup("agent").await?;
    fixture::random_files(&standalone.agent_dir("agent"), 2, 1 << 20, 2)?;

    standalone.disk()?.set_read_only(true)?;
    let refused = user.make_backup("agent").await?;
    assert_eq!(refused.state(), backup::State::Failed);
    expect_reason(refused.failure.as_ref(), "DESTINATION_DENIED");
    user.restore_directory(
        &first.backup_id,
        "earlier",
        &standalone.agent_dir("earlier"),
    )
    .await?;
    assert_same(&before, &describe(&standalone.agent_dir("earlier"))?);

    standalone.disk()?.set_read_only(false)?;
    user.complete_backup("agent").await?;
    Ok(())
}

#[tokio::test]
async fn objects_that_are_damaged_or_gone_are_named_and_never_restored() -> Result<()> {
    let (standalone, mut user, _) = with_agent(Standalone::prepare("damaged")?).await?;
    let backup = user.complete_backup("agent").await?;
    let packs = standalone.destination().join("vaults/agent/packs");
    let objects = vaults::objects(&standalone.destination(), "agent")?;
    let (name, _) = objects.folders["packs"]
        .iter()
        .max_by_key(|(_, size)| **size)
        .context("a pack")?;
    let whole = fs::read(packs.join(name))?;
    for (what, bytes, reason) in [
        (
            "flipped",
            Some([&whole[..1000], &[whole[1000] ^ 1], &whole[1001..]].concat()),
            "OBJECT_CORRUPT",
        ),
        (
            "cut short",
            Some(whole[..whole.len() / 2].to_vec()),
            "OBJECT_CORRUPT",
        ),
        ("removed", None, "OBJECT_MISSING"),
    ] {
        match bytes {
            Some(bytes) => fs::write(packs.join(name), bytes)?,
            None => fs::remove_file(packs.join(name))?,
        }
        let target = standalone.agent_dir("restored");
        // The damage may be seen while planning, or while restoring.
        match user
            .draft_restore(&backup.backup_id, directory_plan("agent-2", &target)?)
            .await
        {
            Err(cause) => assert!(format!("{cause:#}").contains(name), "{what}: {cause:#}"),
            Ok(draft) => {
                user.start_restore(&draft.restore_id).await?;
                let ended = user.watch_restore(&draft.restore_id, |_| false).await?;
                assert_eq!(ended.state(), restore::State::Failed, "{what}");
                expect_reason(ended.failure.as_ref(), reason);
                assert!(
                    ended.failure.unwrap_or_default().message.contains(name),
                    "{what}: names the object"
                );
            }
        }
        assert!(!target.exists(), "{what}: nothing half-made stays");
        assert!(
            user.download(&backup.backup_id, 0, "").await.is_err(),
            "{what}: a download breaks off"
        );
    }
    fs::write(packs.join(name), &whole)?;
    user.restore_directory(&backup.backup_id, "agent-3", &standalone.agent_dir("whole"))
        .await?;
    Ok(())
}

#[tokio::test]
async fn with_another_key_nothing_is_read_or_written_and_the_key_needed_is_named() -> Result<()> {
    let (mut standalone, mut user, before) = with_agent(Standalone::prepare("other-key")?).await?;
    let first = user.complete_backup("agent").await?;
    let objects = vaults::objects(&standalone.destination(), "agent")?;
    standalone.stop()?;
    standalone.set_env("NORA_BACKUP_ENCRYPTION_KEY", OTHER_KEY);
    if standalone.launch().await.is_ok() {
        let mut user = standalone.user(OWNER).await?;
        let refused = user.make_backup("agent").await?;
        assert_eq!(refused.state(), backup::State::Failed);
        expect_reason(refused.failure.as_ref(), "KEY_NOT_CONFIGURED");
        let plan = directory_plan("agent-2", &standalone.agent_dir("restored"))?;
        let draft = user
            .draft_restore(&first.backup_id, plan)
            .await
            .expect_err("no restore without the key");
        let status = draft.downcast_ref::<tonic::Status>().context("a status")?;
        assert_eq!(reason(status), "KEY_NOT_CONFIGURED", "{status:?}");
        standalone.stop()?;
    }
    assert_eq!(
        vaults::objects(&standalone.destination(), "agent")?,
        objects,
        "nothing was written"
    );
    for key in [KEY, OTHER_KEY] {
        assert!(!standalone.log().contains(key), "a key reached the log");
    }

    // With the right one among the previous keys everything is there again.
    standalone.set_env("NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS", KEY);
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    user.restore_directory(
        &first.backup_id,
        "agent-2",
        &standalone.agent_dir("restored"),
    )
    .await?;
    assert_same(&before, &describe(&standalone.agent_dir("restored"))?);
    user.complete_backup("agent").await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_setting_stops_the_start_with_one_line_that_names_it() -> Result<()> {
    for (variable, value) in [
        ("NORA_BACKUP_ENCRYPTION_KEY", "not-a-key-but-a-secret"),
        ("NORA_BACKUP_JOB_TIMEOUT_MS", "soon"),
        ("BACKUP_WORKER_CONCURRENCY", "0"),
        ("NORA_BACKUP_STORAGE", "tape"),
        ("JWT_SECRET", "short"),
    ] {
        let mut standalone = Standalone::prepare("wrong")?.with_env(variable, value);
        let (status, said) = standalone.launch_refused()?;
        assert!(!status.success(), "{variable}={value} was taken");
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| line.contains(variable))
            .collect();
        assert!(!lines.is_empty(), "{variable}={value} is not named: {said}");
        assert!(
            !said.contains("panicked") && !said.contains("Error {"),
            "{said}"
        );
        if variable.contains("KEY") || variable.contains("SECRET") {
            assert!(!said.contains(value), "a secret is shown: {said}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_standalone_whose_key_file_is_gone_says_so_and_makes_no_new_key() -> Result<()> {
    let mut standalone = Standalone::prepare("lost-key")?;
    standalone.remove_env("NORA_BACKUP_ENCRYPTION_KEY");
    let (mut standalone, mut user, before) = with_agent(standalone).await?;
    let backup = user.complete_backup("agent").await?;
    standalone.stop()?;
    let key_file = secret_file(&standalone, "key")?;
    let aside = standalone.outside_dir("key-aside");
    fs::rename(&key_file, &aside)?;
    let (status, said) = standalone.launch_refused()?;
    assert!(
        !status.success(),
        "it started without the key of its backups: {said}"
    );
    assert!(
        said.contains("NORA_BACKUP_ENCRYPTION_KEY") || said.contains(&*key_file.to_string_lossy()),
        "{said}"
    );
    assert!(!key_file.exists(), "no new key in its place");
    fs::rename(&aside, &key_file)?;
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    user.restore_directory(
        &backup.backup_id,
        "agent-2",
        &standalone.agent_dir("restored"),
    )
    .await?;
    assert_same(&before, &describe(&standalone.agent_dir("restored"))?);
    Ok(())
}

#[tokio::test]
async fn secrets_of_a_standalone_are_for_its_user_alone() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut standalone = Standalone::prepare("modes")?;
    standalone.remove_env("NORA_BACKUP_ENCRYPTION_KEY");
    standalone.launch().await?;
    for name in ["key", "token"] {
        let path = secret_file(&standalone, name)?;
        assert_eq!(
            path.metadata()?.permissions().mode() & 0o777,
            0o600,
            "{}",
            path.display()
        );
        let secret = fs::read_to_string(&path)?;
        assert!(
            !standalone.log().contains(secret.trim()),
            "{name} reached the log"
        );
    }
    Ok(())
}

/// A file of the data directory whose name holds this word.
fn secret_file(standalone: &Standalone, word: &str) -> Result<std::path::PathBuf> {
    let mut files = fs::read_dir(standalone.data_dir())?
        .flatten()
        .map(|entry| entry.path());
    files
        .find(|path| {
            path.is_file()
                && path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().contains(word))
        })
        .with_context(|| {
            format!(
                "no file with {word:?} in its name in {}",
                standalone.data_dir().display()
            )
        })
}
