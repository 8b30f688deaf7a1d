//! Stored objects changed at random: read back they are right, or refused.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use vault::Meter;

use crate::{Golden, all};

/// What is done to an object.
#[derive(Debug, Clone)]
enum Change {
    Flip {
        at: f64,
        bit: u8,
    },
    Cut {
        at: f64,
    },
    Append {
        bytes: Vec<u8>,
    },
    Overwrite {
        at: f64,
        bytes: Vec<u8>,
    },
    /// The bytes of another object.
    Swap {
        with: prop::sample::Index,
    },
    Remove,
}

fn change() -> impl Strategy<Value = Change> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..64);
    prop_oneof![
        4 => (0.0..1.0f64, 0..8u8).prop_map(|(at, bit)| Change::Flip { at, bit }),
        2 => (0.0..1.0f64).prop_map(|at| Change::Cut { at }),
        1 => bytes().prop_map(|bytes| Change::Append { bytes }),
        2 => (0.0..1.0f64, bytes()).prop_map(|(at, bytes)| Change::Overwrite { at, bytes }),
        1 => any::<prop::sample::Index>().prop_map(|with| Change::Swap { with }),
        1 => Just(Change::Remove),
    ]
}

fn objects(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(objects(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn apply(change: &Change, path: &Path, objects: &[PathBuf]) {
    let mut bytes = fs::read(path).unwrap();
    let place = |at: f64| ((bytes.len() as f64 * at) as usize).min(bytes.len().saturating_sub(1));
    match change {
        Change::Flip { at, bit } => {
            let at = place(*at);
            bytes[at] ^= 1 << bit;
        }
        Change::Cut { at } => bytes.truncate(place(*at)),
        Change::Append { bytes: more } => bytes.extend_from_slice(more),
        Change::Overwrite { at, bytes: other } => {
            let at = place(*at);
            for (byte, other) in bytes[at..].iter_mut().zip(other) {
                *byte = *other;
            }
        }
        Change::Swap { with } => bytes = fs::read(with.get(objects)).unwrap(),
        Change::Remove => {
            fs::remove_file(path).unwrap();
            return;
        }
    }
    fs::write(path, bytes).unwrap();
}

type Files = BTreeMap<(String, Vec<u8>), blake3::Hash>;

/// Everything that a salvaging reader hands out, by backup and path.
fn read(runtime: &Runtime, golden: &Golden) -> Files {
    let recovery = golden.recovery(&golden.keys);
    let mut files = Files::new();
    for agent_id in runtime.block_on(recovery.agent_ids()).unwrap() {
        let Ok(vault) = runtime.block_on(recovery.open(&agent_id)) else {
            continue;
        };
        for found in runtime.block_on(vault.backups()).unwrap() {
            let Some(at) = found.at else { continue };
            let opened = vault.open_salvaging(&at, CancellationToken::new());
            let Ok((reader, _)) = runtime.block_on(opened) else {
                continue;
            };
            let mut walk = reader.walk(Arc::new(Meter::default())).unwrap();
            loop {
                let entry = match walk.next_entry() {
                    Ok(Some(entry)) => entry,
                    Ok(None) => break,
                    Err(error) => {
                        assert!(!walk.is_over(), "{error}");
                        continue;
                    }
                };
                let mut hash = blake3::Hasher::new();
                hash.update(&entry.mode.to_le_bytes());
                hash.update(&entry.link_target);
                let whole = loop {
                    match walk.next_data() {
                        Ok(Some((data, offset))) => {
                            hash.update(&offset.to_le_bytes());
                            hash.update(&data);
                        }
                        Ok(None) => break true,
                        Err(error) => {
                            assert!(!walk.is_over(), "{error}");
                            break false;
                        }
                    }
                };
                if whole {
                    let id = (found.backup_id.clone(), entry.path);
                    files.insert(id, hash.finalize());
                }
            }
        }
    }
    files
}

#[test]
fn changed_objects_never_give_wrong_bytes_and_nothing_panics() {
    let runtime = Runtime::new().unwrap();
    for golden in all() {
        let right = read(&runtime, &golden);
        assert!(right.len() > 20);
        let objects = objects(golden.copy.path());
        let originals: Vec<Vec<u8>> = objects.iter().map(|path| fs::read(path).unwrap()).collect();
        let changes = prop::collection::vec((any::<prop::sample::Index>(), change()), 1..4);
        let mut runner = TestRunner::new(Config {
            cases: 40,
            failure_persistence: None,
            ..Config::default()
        });
        let outcome = runner.run(&changes, |changes| {
            for (object, change) in &changes {
                let path = object.get(&objects);
                if path.exists() {
                    let present: Vec<PathBuf> = objects
                        .iter()
                        .filter(|path| path.exists())
                        .cloned()
                        .collect();
                    apply(change, path, &present);
                }
            }
            let some = read(&runtime, &golden);
            for (path, bytes) in objects.iter().zip(&originals) {
                fs::write(path, bytes).unwrap();
            }
            for (id, hash) in &some {
                prop_assert_eq!(Some(hash), right.get(id), "{:?}", id);
            }
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{}: {error}", golden.version));
    }
}
