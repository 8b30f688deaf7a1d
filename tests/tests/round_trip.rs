//! What goes in comes out: every kind of entry, through the real program.

use std::{fs, path::Path, process::Command};

use anyhow::Result;
use proto::backup::v1::{backup, restore};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use services::{
    api::directory_plan,
    fixture,
    one_agent::{OWNER, start},
    place,
    standalone::Standalone,
    tree::{self, Tree, allocated_bytes, assert_same, describe},
};

/// A standalone with one agent, whose folder is made by `make`.
async fn with_agent(name: &str, make: impl Fn(&Path) -> Result<()>) -> Result<(Standalone, Tree)> {
    let standalone = Standalone::prepare(name)?.with_env("NORA_BACKUP_RESTORE_DEVICES", "true");
    with_agent_on(standalone, make).await
}

async fn with_agent_on(
    mut standalone: Standalone,
    make: impl Fn(&Path) -> Result<()>,
) -> Result<(Standalone, Tree)> {
    let root = standalone.agent_dir("agent");
    fs::create_dir_all(&root)?;
    make(&root)?;
    start(&mut standalone).await?;
    let tree = describe(&root)?;
    Ok((standalone, tree))
}

#[tokio::test]
async fn every_kind_of_entry_is_restored_as_it_was() -> Result<()> {
    let (standalone, before) = with_agent("kinds", |root| {
        fixture::devices(&root.join("devices"))?;
        fixture::every_kind(root)
    })
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    assert_eq!(backup.warnings_total, 0, "{:?}", backup.warnings);
    assert_eq!(backup.entries, before.len() as u64);
    let target = standalone.agent_dir("restored");
    let restored = user
        .restore_directory(&backup.backup_id, "agent-2", &target)
        .await?;
    assert!(restored.warnings.is_empty(), "{:?}", restored.warnings);
    assert_same(&before, &describe(&target)?);
    assert_same(&before, &describe(&standalone.agent_dir("agent"))?);
    let (was, is) = (
        standalone.agent_dir("agent").join(fixture::SPARSE_PATH),
        target.join(fixture::SPARSE_PATH),
    );
    assert!(
        allocated_bytes(&is)? <= allocated_bytes(&was)? + 256 * 1024,
        "holes are holes again"
    );
    Ok(())
}

#[tokio::test]
async fn a_second_backup_of_the_same_state_stores_next_to_nothing_and_restores_the_same()
-> Result<()> {
    let (standalone, before) = with_agent("again", fixture::every_kind).await?;
    let mut user = standalone.user(OWNER).await?;
    let first = user.complete_backup("agent").await?;
    let second = user.complete_backup("agent").await?;
    assert!(
        second.stored_bytes < 64 * 1024,
        "{} bytes stored after {}",
        second.stored_bytes,
        first.stored_bytes
    );
    assert_eq!(
        (first.size_bytes, first.entries),
        (second.size_bytes, second.entries)
    );
    let target = standalone.agent_dir("restored");
    user.restore_directory(&second.backup_id, "agent-2", &target)
        .await?;
    assert_same(&before, &describe(&target)?);
    Ok(())
}

#[tokio::test]
async fn a_restored_agent_is_registered_and_can_be_backed_up_at_once() -> Result<()> {
    let (standalone, before) = with_agent("anew", fixture::every_kind).await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    let restored = user
        .restore_directory(
            &backup.backup_id,
            "agent-2",
            &standalone.agent_dir("second"),
        )
        .await?;
    let again = user.complete_backup("agent-2").await?;
    assert_eq!(again.entries, before.len() as u64);
    user.restore_directory(&again.backup_id, "agent-3", &standalone.agent_dir("third"))
        .await?;
    assert_same(&before, &describe(&standalone.agent_dir("third"))?);
    let request = proto::backup::v1::GetAgentRequest {
        agent_id: "agent-2".to_owned(),
    };
    let agent = user
        .agents
        .get_agent(request)
        .await?
        .into_inner()
        .agent
        .unwrap_or_default();
    assert_eq!(
        (agent.owner_id.as_str(), agent.restore_id),
        (OWNER, restored.restore_id)
    );
    Ok(())
}

#[tokio::test]
async fn a_download_unpacks_with_tar_to_the_same_folder() -> Result<()> {
    let (standalone, before) = with_agent("download", |root| {
        fixture::devices(&root.join("devices"))?;
        fixture::every_kind(root)
    })
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    let (bytes, _) = user.download(&backup.backup_id, 0, "").await?;
    let archive = standalone.outside_dir("agent.tar.zst");
    fs::write(&archive, &bytes)?;
    let target = standalone.outside_dir("unpacked");
    fs::create_dir(&target)?;
    let output = Command::new("tar")
        .args([
            "--zstd",
            "-x",
            "--same-owner",
            "--numeric-owner",
            "-p",
            "--xattrs",
            "--xattrs-include=*",
            "-C",
        ])
        .arg(&target)
        .arg("-f")
        .arg(&archive)
        .output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // The archive may hold everything under one folder of the agent's name.
    let inside: Vec<_> = fs::read_dir(&target)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let root = if inside.len() == 1 {
        inside[0].clone()
    } else {
        target
    };
    let (mut expected, mut found) = (before, describe(&root)?);
    expected.remove(&Vec::new());
    found.remove(&Vec::new());
    assert_same(&expected, &found);
    Ok(())
}

#[tokio::test]
async fn a_path_longer_than_a_system_call_takes_is_restored() -> Result<()> {
    let (standalone, before) =
        with_agent("deep", |root| fixture::deep(root, "deeper", 60, 200)).await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    let target = standalone.agent_dir("restored");
    user.restore_directory(&backup.backup_id, "agent-2", &target)
        .await?;
    assert_same(&before, &describe(&target)?);
    Ok(())
}

#[tokio::test]
async fn a_hundred_thousand_small_files_are_restored() -> Result<()> {
    let (standalone, before) =
        with_agent("many", |root| fixture::many_small_files(root, 100_000)).await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    assert_eq!(backup.entries, before.len() as u64);
    let target = standalone.agent_dir("restored");
    user.restore_directory(&backup.backup_id, "agent-2", &target)
        .await?;
    assert_same(&before, &describe(&target)?);
    Ok(())
}

#[tokio::test]
async fn devices_are_not_made_where_they_are_not_allowed() -> Result<()> {
    let standalone = Standalone::prepare("no-devices")?;
    let (standalone, _) = with_agent_on(standalone, |root| {
        fs::write(root.join("file"), "content")?;
        fixture::devices(&root.join("devices"))
    })
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    let target = standalone.agent_dir("restored");
    let draft = user
        .draft_restore(&backup.backup_id, directory_plan("agent-2", &target)?)
        .await?;
    user.start_restore(&draft.restore_id).await?;
    let restore = user.watch_restore(&draft.restore_id, |_| false).await?;
    if restore.state() == restore::State::Completed {
        let warnings = &restore.warnings;
        assert!(
            warnings.iter().any(|line| line.contains("devices/null")),
            "{warnings:?}"
        );
        assert!(!target.join("devices/null").exists());
        assert_eq!(fs::read(target.join("file"))?, b"content");
    } else {
        let failure = restore.failure.unwrap_or_default();
        assert_eq!(failure.reason, "ENTRY_REFUSED", "{failure:?}");
        assert!(!target.exists(), "nothing half-made stays");
    }
    Ok(())
}

#[tokio::test]
async fn a_source_that_is_gone_or_not_allowed_fails_with_the_cause() -> Result<()> {
    let (standalone, _) = with_agent("no-source", |root| {
        Ok(fs::write(root.join("file"), "content")?)
    })
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let mut control_plane = standalone.control_plane().await?;
    let outside = standalone.outside_dir("elsewhere");
    fs::create_dir(&outside)?;
    std::os::unix::fs::symlink(&outside, standalone.agent_dir("a-way-out"))?;
    for (agent_id, path, reason) in [
        (
            "gone",
            standalone.agent_dir("never-there"),
            "SOURCE_NOT_FOUND",
        ),
        ("outside", outside, "SOURCE_DENIED"),
        (
            "by-link",
            standalone.agent_dir("a-way-out"),
            "SOURCE_DENIED",
        ),
        (
            "dots",
            standalone.agent_dir("agent/../../elsewhere"),
            "SOURCE_DENIED",
        ),
    ] {
        if control_plane
            .register_directory(agent_id, OWNER, &path)
            .await
            .is_err()
        {
            assert_eq!(
                agent_id, "dots",
                "only a path that is no plain path is refused at once"
            );
            continue;
        }
        let backup = user.make_backup(agent_id).await?;
        let failure = backup.failure.clone().unwrap_or_default();
        assert_eq!(
            (backup.state(), failure.reason.as_str()),
            (backup::State::Failed, reason),
            "{agent_id}: {failure:?}"
        );
    }
    Ok(())
}

/// Ten rounds of random edits: each backup restores to what was there when it
/// was made, also after all later ones.
#[tokio::test]
async fn after_random_edits_every_backup_restores_its_own_state() -> Result<()> {
    const ROUNDS: usize = 10;
    let seed: u64 = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random);
    eprintln!("repeat with SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (standalone, _) = with_agent("edits", |root| {
        fixture::random_files(root, 20, 100_000, seed)
    })
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let root = standalone.agent_dir("agent");
    let mut made = Vec::new();
    for _ in 0..ROUNDS {
        for _ in 0..random.random_range(0..12) {
            edit(&root, &mut random)?;
        }
        let tree = describe(&root)?;
        made.push((user.complete_backup("agent").await?, tree));
    }
    for (number, (backup, tree)) in made.iter().enumerate() {
        let target = standalone.agent_dir(&format!("restored-{number}"));
        user.restore_directory(&backup.backup_id, &format!("restored-{number}"), &target)
            .await?;
        let found = describe(&target)?;
        assert!(
            tree::differences(tree, &found).is_empty(),
            "SEED={seed} round {number}: {:#?}",
            tree::differences(tree, &found)
        );
    }
    Ok(())
}

/// One random change: a file written, changed in place, extended, cut, removed,
/// renamed, linked, or turned into a folder.
fn edit(root: &Path, random: &mut StdRng) -> Result<()> {
    let mut files: Vec<_> = describe(root)?
        .into_iter()
        .filter(|(_, node)| matches!(node.kind, tree::Kind::File { .. }))
        .collect();
    let fresh = root.join(format!("new-{:08x}", random.random::<u32>()));
    if files.is_empty() {
        return Ok(fs::write(fresh, "first")?);
    }
    let (name, _) = files.swap_remove(random.random_range(0..files.len()));
    let path = root.join(String::from_utf8(name)?);
    let mut content = fs::read(&path)?;
    match random.random_range(0..8) {
        0 => {
            let mut bytes = vec![0; random.random_range(0..400_000)];
            random.fill_bytes(&mut bytes);
            fs::write(fresh, bytes)?;
        }
        1 if !content.is_empty() => {
            // Same length: only times tell.
            let at = random.random_range(0..content.len());
            content[at] ^= 1;
            fs::write(&path, content)?;
        }
        2 => {
            let at = random.random_range(0..=content.len());
            content.splice(
                at..at,
                (0..random.random_range(1..5_000)).map(|n: u32| n.to_le_bytes()[0]),
            );
            fs::write(&path, content)?;
        }
        3 => {
            content.truncate(random.random_range(0..=content.len()));
            fs::write(&path, content)?;
        }
        4 => fs::remove_file(&path)?,
        5 => fs::rename(&path, fresh)?,
        6 => fs::hard_link(&path, fresh)?,
        _ => {
            fs::remove_file(&path)?;
            fs::create_dir(&path)?;
            fs::write(path.join("inside"), content)?;
        }
    }
    Ok(())
}

#[test]
fn the_program_is_there() {
    place::program().expect("the program under test");
}
