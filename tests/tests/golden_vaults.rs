//! Golden vaults of every released format version are restored by the program as it is
//! now: into folders by `recover`, and through the service on a catalog that is made again.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use services::{
    cli::{command, said},
    fixture, place,
    standalone::Standalone,
};

/// One entry as `expected/` tells it.
struct Expected {
    path: PathBuf,
    kind: String,
    rest: String,
}

/// A path as it is written down: bytes that are no text stand as `\xNN`.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("\\x") {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        bytes.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).expect("two digits"));
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    PathBuf::from(OsStr::from_bytes(&bytes))
}

/// The entries of a backup, as they were written down when it was made.
fn expected(file: &Path) -> Result<Vec<Expected>> {
    const KINDS: [&str; 7] = [
        "DIRECTORY",
        "REGULAR",
        "HARD_LINK",
        "SYMLINK",
        "FIFO",
        "CHARACTER_DEVICE",
        "BLOCK_DEVICE",
    ];
    let text = fs::read_to_string(file)?;
    let mut entries = Vec::new();
    // What the backup says of itself takes three lines.
    for line in text.lines().skip(3) {
        let found = KINDS.iter().find_map(|kind| {
            let (path, rest) = line.split_once(&format!(" {kind} "))?;
            Some(Expected {
                path: unescaped(path),
                kind: (*kind).to_owned(),
                rest: rest.to_owned(),
            })
        });
        entries.push(found.with_context(|| line.to_owned())?);
    }
    Ok(entries)
}

/// Whether a restored folder holds an entry as it was written down.
fn expect_entry(root: &Path, entry: &Expected) -> Result<()> {
    let path = root.join(&entry.path);
    let what = || format!("{} {}", path.display(), entry.rest);
    let meta = fs::symlink_metadata(&path).with_context(what)?;
    let words: Vec<&str> = entry.rest.split(' ').collect();
    let mode = u32::from_str_radix(words[0], 8)?;
    let seconds: i64 = words[3].split('.').next().unwrap_or_default().parse()?;
    let nanoseconds: i64 = words[3].split('.').nth(1).unwrap_or_default().parse()?;
    let target = || entry.rest.split_once(" -> ").map(|(_, target)| target);
    if entry.kind != "SYMLINK" {
        ensure!(
            meta.mode() & 0o7777 == mode,
            "{}: {:o}",
            what(),
            meta.mode()
        );
        let time = (meta.mtime(), meta.mtime_nsec());
        ensure!(time == (seconds, nanoseconds), "{}: {time:?}", what());
    }
    match entry.kind.as_str() {
        "REGULAR" => {
            let bytes = fs::read(&path)?;
            ensure!(bytes.len().to_string() == words[4], "{}", what());
            let hash = blake3::hash(&bytes).to_hex().to_string();
            ensure!(words.contains(&&*hash), "{}: {hash}", what());
        }
        "HARD_LINK" => {
            let other = root.join(target().context("a target")?);
            ensure!(fs::metadata(other)?.ino() == meta.ino(), "{}", what());
        }
        "SYMLINK" => {
            let points_to = fs::read_link(&path)?;
            ensure!(points_to.to_str() == target(), "{}", what());
        }
        "DIRECTORY" => ensure!(meta.is_dir(), "{}", what()),
        _ => {}
    }
    Ok(())
}

#[tokio::test]
async fn every_golden_vault_is_restored() -> Result<()> {
    let mut seen = 0;
    for version in fs::read_dir(place::workspace_dir().join("tests/golden"))? {
        let version = version?.path();
        if version.is_dir() {
            restored(&version)
                .await
                .with_context(|| version.display().to_string())?;
            seen += 1;
        }
    }
    assert!(seen >= 1, "there is at least version 1");
    Ok(())
}

async fn restored(version: &Path) -> Result<()> {
    let mut standalone = Standalone::prepare("golden")?;
    fixture::copy_all(&version.join("destination"), &standalone.destination())?;
    let keys = fs::read_to_string(version.join("keys.txt"))?;
    let keys: Vec<&str> = keys.lines().collect();
    let (writing, previous) = (keys[0].to_owned(), keys[1..].join(","));
    let recover = |arguments: &[&str]| -> Result<String> {
        let output = command(&standalone.outside_dir("home"))?
            .env("NORA_BACKUP_DIR", standalone.destination())
            .env("NORA_BACKUP_ENCRYPTION_KEY", &writing)
            .env("NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS", &previous)
            .arg("recover")
            .args(arguments)
            .output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", said(&output));
        Ok(said(&output))
    };
    let vaults = fs::read_dir(version.join("destination/vaults"))?;
    let agents: Vec<String> = vaults
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    let agent = agents.first().context("an agent")?;
    recover(&["verify", agent, "--full"])?;
    let url = format!(
        "sqlite:{}",
        standalone.data_dir().join("catalog.db").display()
    );
    fs::create_dir_all(standalone.data_dir())?;
    recover(&["catalog", "--database-url", &url])?;
    let mut backups = Vec::new();
    for file in fs::read_dir(version.join("expected"))? {
        let file = file?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let entries = expected(&file)?;
        assert!(entries.len() > 5);
        let to = standalone.outside_dir(&format!("by-hand-{name}"));
        let backup = format!("{agent}@{name}");
        let to_text = to.to_str().context("UTF-8")?;
        recover(&["restore", &backup, "--to", to_text, "--devices"])?;
        for entry in &entries {
            expect_entry(&to, entry)?;
        }
        backups.push((name.into_owned(), entries));
    }

    standalone.set_env("NORA_BACKUP_ENCRYPTION_KEY", &writing);
    standalone.set_env("NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS", &previous);
    standalone.launch().await?;
    let mut admin = standalone.admin().await?;
    for (backup_id, entries) in &backups {
        assert!(admin.entries(backup_id).await?.len() >= entries.len() - 1);
        let was = admin.backup(backup_id).await?;
        if !was.agent_id.is_empty() && entries.iter().any(|e| e.kind.ends_with("DEVICE")) {
            // Of a container: it is restored into one.
            continue;
        }
        let to = standalone.agent_dir(&format!("restored-{backup_id}"));
        let name = format!("again-{backup_id}");
        admin.restore_directory(backup_id, &name, &to).await?;
        for entry in entries {
            expect_entry(&to, entry)?;
        }
    }
    Ok(())
}
