//! What is left of a damaged vault is read without a catalog, and the rest named.

use std::{collections::BTreeMap, fs, sync::Arc};

use tokio_util::sync::CancellationToken;
use vault::{
    BackupReader, BackupWriter, CompactSpec, KeyEncryptionKey, Keyring, ManifestRef, Meter,
    OpendalStore, RecoveredVault, Recovery, VaultSettings,
};

use crate::support::{Bench, add_file, folder, noise};

type Files = BTreeMap<String, Vec<u8>>;

fn keyring(byte: u8) -> Keyring {
    Keyring::new(KeyEncryptionKey::new([byte; 32]), vec![])
}

fn recovery(bench: &Bench, keyring: Keyring) -> Recovery {
    let store = Arc::new(OpendalStore::local(bench.folder.path()).unwrap());
    Recovery::new(store, keyring, VaultSettings::default())
}

fn open(bench: &Bench) -> RecoveredVault {
    let recovery = recovery(bench, keyring(3));
    bench.runtime.block_on(recovery.open("a1")).unwrap()
}

/// What is read of a backup, and what is said of the rest: paths, or "" for
/// entries that are not known.
fn salvage(bench: &Bench, at: &ManifestRef) -> (Files, BTreeMap<String, String>) {
    let vault = open(bench);
    let opened = vault.open_salvaging(at, CancellationToken::new());
    let (reader, _) = bench.runtime.block_on(opened).unwrap();
    read_all(&reader)
}

fn read_all(reader: &BackupReader) -> (Files, BTreeMap<String, String>) {
    let mut walk = reader.walk(Arc::new(Meter::default())).unwrap();
    let (mut files, mut lost) = (Files::new(), BTreeMap::new());
    loop {
        let entry = match walk.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return (files, lost),
            Err(error) => {
                assert!(!walk.is_over(), "{error}");
                lost.insert(String::new(), error.to_string());
                continue;
            }
        };
        let path = String::from_utf8(entry.path).unwrap();
        let mut data = vec![0; entry.content.map_or(0, |c| c.size_bytes as usize)];
        loop {
            match walk.next_data() {
                Ok(Some((bytes, offset))) => {
                    data[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
                }
                Ok(None) => {
                    files.insert(path, data);
                    break;
                }
                Err(error) => {
                    assert!(!walk.is_over(), "{error}");
                    lost.insert(path, error.to_string());
                    break;
                }
            }
        }
    }
}

/// Forty files of noise in a few packs.
fn fill(writer: &mut BackupWriter) {
    writer.add(folder("")).unwrap();
    for n in 0..40 {
        add_file(writer, &format!("f{n:02}"), &noise(n + 1, 1_000_000));
    }
}

fn packs(bench: &Bench) -> Vec<std::path::PathBuf> {
    let objects = bench.objects().into_iter();
    let mut packs: Vec<_> = objects
        .filter(|(name, _)| name.starts_with("packs/"))
        .map(|(_, path)| path)
        .collect();
    packs.sort_by_key(|path| fs::metadata(path).unwrap().len());
    packs
}

fn check_right(files: &Files) {
    for (path, data) in files {
        if let Some(number) = path.strip_prefix('f') {
            let number: u32 = number.parse().unwrap();
            assert!(*data == noise(number + 1, 1_000_000), "{path}");
        }
    }
}

#[test]
fn without_any_index_everything_is_read() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let whole = salvage(&bench, &at);
    assert!(whole.1.is_empty());
    for (name, path) in bench.objects() {
        if name.starts_with("indexes/") {
            fs::write(path, b"not an index").unwrap();
        }
    }
    assert!(salvage(&bench, &at) == whole);
    for (name, path) in bench.objects() {
        if name.starts_with("indexes/") {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(salvage(&bench, &at) == whole);
    assert_eq!(whole.0.len(), 41);
    check_right(&whole.0);
}

#[test]
fn a_damaged_segment_costs_the_files_in_it_and_a_missing_pack_those_in_it() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let pack = packs(&bench).pop().unwrap();
    let whole = fs::read(&pack).unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap();

    let mut flipped = whole.clone();
    flipped[5_000_000] ^= 1;
    fs::write(&pack, flipped).unwrap();
    let (files, lost) = salvage(&bench, &at);
    check_right(&files);
    assert!((1..=4).contains(&lost.len()), "{lost:?}");
    assert_eq!(files.len() + lost.len(), 41);
    assert!(lost.values().all(|why| why.contains(name)), "{lost:?}");

    // Cut short, it still holds what lies before the cut.
    fs::write(&pack, &whole[..9_000_000]).unwrap();
    let (files, cut) = salvage(&bench, &at);
    check_right(&files);
    assert_eq!(files.len() + cut.len(), 41);
    assert!((4..=14).contains(&cut.len()), "{}", cut.len());

    fs::remove_file(&pack).unwrap();
    let (files, gone) = salvage(&bench, &at);
    check_right(&files);
    assert_eq!(files.len() + gone.len(), 41);
    assert!(gone.len() > cut.len());
    assert!(
        gone.values().all(|why| why.contains("is missing")),
        "{gone:?}"
    );
}

#[test]
fn a_lost_part_of_the_entry_stream_costs_the_entries_in_it_only() {
    let bench = Bench::new();
    let fill = |writer: &mut BackupWriter| {
        writer.add(folder("")).unwrap();
        for n in 0..4000 {
            let path = format!("{n:04}-{}", "x".repeat(n % 100));
            add_file(writer, &path, &noise(n as u32 + 1, 100));
        }
    };
    let at = bench.back_up("b1", fill);
    let (all, lost) = salvage(&bench, &at);
    assert_eq!((all.len(), lost.len()), (4001, 0));
    // All lies in one pack, the entries in its own segments: spoil one after another.
    let pack = packs(&bench).pop().unwrap();
    let whole = fs::read(&pack).unwrap();
    let mut partial = 0;
    for place in (100..whole.len() - 200).step_by(whole.len() / 12) {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x40;
        fs::write(&pack, flipped).unwrap();
        let (some, lost) = salvage(&bench, &at);
        for (path, data) in &some {
            assert!(all.get(path) == Some(data), "{path}");
        }
        assert!(some.len() < 4001 && !lost.is_empty(), "{place}");
        partial += usize::from(!some.is_empty());
    }
    // One segment holds all entries here: then nothing is left, and that is said.
    assert!(partial < 13);
}

#[test]
fn chunks_of_a_damaged_pack_are_read_from_a_retired_one() {
    let bench = Bench::new();
    // Small packs are put together by a compaction; the old ones wait for removal.
    let mut all = Vec::new();
    for number in 0..12u32 {
        all.push(bench.back_up(&format!("b{number}"), |writer| {
            writer.add(folder("")).unwrap();
            for n in 0..=number {
                add_file(writer, &format!("n{n:02}"), &noise(n + 70, 400_000));
            }
        }));
    }
    let before: Vec<_> = packs(&bench);
    let vault = bench.open().unwrap();
    let spec = CompactSpec {
        garbage: Default::default(),
        expected: Vec::new(),
        grace_ms: 3_600_000,
        may_remove: false,
        now_ms: 1_800_000_000_000,
    };
    let compact = vault.compact(spec, CancellationToken::new(), Arc::default());
    let report = bench.runtime.block_on(compact).unwrap();
    assert!(report.retired_packs > 1, "{report:?}");
    let made = packs(&bench).into_iter().find(|p| !before.contains(p));
    let made = made.unwrap();
    let at = all.last().unwrap();
    let whole = salvage(&bench, at);
    assert!(whole.1.is_empty() && whole.0.len() == 13);
    let mut bytes = fs::read(&made).unwrap();
    for place in (64..bytes.len()).step_by(1000) {
        bytes[place] ^= 1;
    }
    fs::write(&made, bytes).unwrap();
    assert!(salvage(&bench, at) == whole);
}

#[test]
fn a_lower_attempt_counts_when_the_highest_is_damaged() {
    let bench = Bench::new();
    let at = bench.back_up("b1", |writer| writer.add(folder("")).unwrap());
    let objects = bench.objects();
    let second = objects["backups/b1.1"].with_file_name("b1.2");
    fs::write(&second, b"nothing of the kind").unwrap();
    let vault = open(&bench);
    let found = bench.runtime.block_on(vault.backups()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].at.as_ref(), Some(&at));
    let damage: Vec<String> = found[0].damage.iter().map(ToString::to_string).collect();
    assert!(damage[0].contains("backups/b1.2"), "{damage:?}");
    fs::remove_file(&objects["backups/b1.1"]).unwrap();
    let found = bench.runtime.block_on(vault.backups()).unwrap();
    assert!(found[0].at.is_none() && found[0].damage.len() == 1);
}

#[test]
fn vaults_are_listed_with_the_key_that_each_needs() {
    let bench = Bench::new();
    bench.back_up("b1", |writer| writer.add(folder("")).unwrap());
    let mine = recovery(&bench, keyring(3));
    let ids = bench.runtime.block_on(mine.agent_ids()).unwrap();
    assert_eq!(ids, ["a1"]);
    let found = bench.runtime.block_on(mine.look_at("a1")).unwrap();
    assert!(found.locked.is_none() && found.backups == 1 && found.stored_bytes > 0);
    assert_eq!(found.key_ids, [KeyEncryptionKey::new([3; 32]).id()]);
    assert!(found.newest.is_some());
    let other = recovery(&bench, keyring(4));
    let found = bench.runtime.block_on(other.look_at("a1")).unwrap();
    let why = found.locked.unwrap().to_string();
    assert!(why.contains(&KeyEncryptionKey::new([3; 32]).id()), "{why}");
    assert!(found.newest.is_none() && found.backups == 1);
    let error = bench.runtime.block_on(other.open("nobody")).unwrap_err();
    assert!(
        error.to_string().contains("no vault of agent nobody"),
        "{error}"
    );
}
