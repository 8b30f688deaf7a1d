//! Golden vaults of every released format version are read for ever: each backup is
//! verified, listed and exported, and compared with what was written down when it was
//! made. Changed in any way, they are never taken for right, and nothing panics.

mod listing;
mod mutations;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use vault::{KeyEncryptionKey, Keyring, OpendalStore, Recovery, VaultSettings, VerifyDepth};

use crate::listing::listing;

/// A golden vault, copied: reading must not be able to change the original.
pub(crate) struct Golden {
    pub(crate) version: String,
    folder: PathBuf,
    pub(crate) copy: tempfile::TempDir,
    pub(crate) keys: Vec<KeyEncryptionKey>,
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// All of them, by version.
pub(crate) fn all() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_type().unwrap().is_dir() {
            continue;
        }
        let keys = fs::read_to_string(entry.path().join("keys.txt")).unwrap();
        let keys = keys
            .lines()
            .map(|key| KeyEncryptionKey::from_hex(key).unwrap());
        let copy = tempfile::tempdir().unwrap();
        copy_tree(&entry.path().join("destination"), copy.path());
        found.push(Golden {
            version: entry.file_name().into_string().unwrap(),
            folder: entry.path(),
            copy,
            keys: keys.collect(),
        });
    }
    assert!(found.iter().any(|golden| golden.version == "v1"));
    found
}

impl Golden {
    pub(crate) fn recovery(&self, keys: &[KeyEncryptionKey]) -> Recovery {
        let store = Arc::new(OpendalStore::local(self.copy.path()).unwrap());
        let keyring = Keyring::new(keys[0].clone(), keys[1..].to_vec());
        let settings = VaultSettings {
            threads: 2,
            ..VaultSettings::default()
        };
        Recovery::new(store, keyring, settings)
    }

    /// What was written down of a backup.
    pub(crate) fn expected(&self, backup_id: &str) -> String {
        let path = self.folder.join("expected").join(backup_id);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn expected_ids(&self) -> Vec<String> {
        let listed = fs::read_dir(self.folder.join("expected")).unwrap();
        let mut ids: Vec<String> = listed
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        ids.sort();
        ids
    }
}

#[test]
fn every_golden_vault_is_what_was_written_down() {
    let runtime = Runtime::new().unwrap();
    for golden in all() {
        let recovery = golden.recovery(&golden.keys);
        let mut seen = Vec::new();
        for agent_id in runtime.block_on(recovery.agent_ids()).unwrap() {
            let vault = runtime.block_on(recovery.open(&agent_id)).unwrap();
            assert!(vault.damage().is_empty());
            for found in runtime.block_on(vault.backups()).unwrap() {
                assert!(found.damage.is_empty(), "{found:?}");
                let at = found.at.unwrap();
                let opened = vault.open_strictly(&at, CancellationToken::new());
                let reader = runtime.block_on(opened).unwrap();
                let report = reader.verify(VerifyDepth::Full, Arc::default()).unwrap();
                assert!(report.faults.is_empty(), "{:?}", report.faults);
                let expected = golden.expected(&found.backup_id);
                assert_eq!(listing(&reader).unwrap(), expected, "{}", golden.version);
                let opened = vault.open_salvaging(&at, CancellationToken::new());
                let (reader, damage) = runtime.block_on(opened).unwrap();
                assert!(damage.is_empty(), "{damage:?}");
                assert_eq!(listing(&reader).unwrap(), expected, "{}", golden.version);
                let mut archive = Vec::new();
                reader
                    .export_tar_zst(&vault::TarSpec::default(), &mut archive)
                    .unwrap();
                let tar = zstd::decode_all(&archive[..]).unwrap();
                let hash = blake3::hash(&tar).to_hex().to_string();
                assert!(expected.contains(&format!("\ntar {hash}\n")));
                seen.push(found.backup_id);
            }
        }
        assert_eq!(seen, golden.expected_ids(), "{}", golden.version);
    }
}

#[test]
fn the_first_golden_vault_holds_what_it_is_there_for() {
    let goldens = all();
    let golden = goldens
        .iter()
        .find(|golden| golden.version == "v1")
        .unwrap();
    let all: String = golden
        .expected_ids()
        .iter()
        .map(|id| golden.expected(id))
        .collect();
    for (what, sign) in [
        ("a hard link", " HARD_LINK "),
        ("a link", " SYMLINK "),
        ("a pipe", " FIFO "),
        ("a device", " CHARACTER_DEVICE "),
        ("another device", " BLOCK_DEVICE "),
        ("a list of ids", " depth 1 "),
        ("holes", " 4096+8192 "),
        ("a file that is one hole", " 0+0"),
        ("attributes", " user.note="),
        ("a name that is not text", "\\xff"),
        ("a time before 1970", " -1."),
        ("set-user-id", " 6755 "),
    ] {
        assert!(all.contains(sign), "no {what}: {sign:?}");
    }
    // One data key is wrapped under the second key too, the other is not.
    let runtime = Runtime::new().unwrap();
    let second = golden.recovery(&golden.keys[1..]);
    let agent = &runtime.block_on(second.agent_ids()).unwrap()[0];
    let vault = runtime.block_on(second.open(agent)).unwrap();
    let backups = runtime.block_on(vault.backups()).unwrap();
    assert!(backups.iter().any(|found| found.at.is_some()));
    let locked = backups.iter().find(|found| found.at.is_none()).unwrap();
    let why = locked.damage[0].to_string();
    assert!(why.contains(&golden.keys[0].id()), "{why}");
    let root = golden.copy.path().join("vaults").join(agent);
    assert_eq!(fs::read_dir(root.join("keys")).unwrap().count(), 2);
    assert!(size_of_tree(&golden.folder) < 300 * 1024);
}

fn size_of_tree(folder: &Path) -> u64 {
    let sizes = fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            size_of_tree(&entry.path())
        } else {
            entry.metadata().unwrap().len()
        }
    });
    sizes.sum()
}
