//! Small vaults to read from.

use std::{collections::BTreeMap, io::Read, path::PathBuf, sync::Arc};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use vault::{
    BackupReader, BackupSpec, BackupWriter, KeyEncryptionKey, Keyring, ManifestRef, Meter,
    OpendalStore, Result, Store, Vault, VaultSettings,
    format::{Content, DataRun, Entry, EntryType},
};

/// A vault in a folder of its own, on a runtime of its own.
pub struct Bench {
    pub runtime: tokio::runtime::Runtime,
    pub folder: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            folder: TempDir::new().unwrap(),
        }
    }

    pub fn open(&self) -> Result<Vault> {
        self.open_at(Arc::new(OpendalStore::local(self.folder.path()).unwrap()))
    }

    pub fn open_at(&self, store: Arc<dyn Store>) -> Result<Vault> {
        let keyring = Keyring::new(KeyEncryptionKey::new([3; 32]), vec![]);
        let settings = VaultSettings {
            threads: 2,
            ..VaultSettings::default()
        };
        self.runtime
            .block_on(Vault::open_or_create(store, "a1", &keyring, settings))
    }

    /// Makes a backup of what `fill` adds.
    pub fn back_up(&self, id: &str, fill: impl FnOnce(&mut BackupWriter)) -> ManifestRef {
        self.back_up_to(&self.open().unwrap(), id, fill)
    }

    pub fn back_up_to(
        &self,
        vault: &Vault,
        id: &str,
        fill: impl FnOnce(&mut BackupWriter),
    ) -> ManifestRef {
        let spec = BackupSpec {
            backup_id: id.to_owned(),
            attempt: 1,
            ..BackupSpec::default()
        };
        let begin = vault.begin_backup(spec, CancellationToken::new(), Arc::default());
        let mut writer = self.runtime.block_on(begin).unwrap();
        fill(&mut writer);
        writer.finish(1).unwrap().manifest
    }

    pub fn reader(&self, at: &ManifestRef) -> Result<BackupReader> {
        self.reader_until(at, CancellationToken::new())
    }

    pub fn reader_until(
        &self,
        at: &ManifestRef,
        cancel: CancellationToken,
    ) -> Result<BackupReader> {
        let vault = self.open()?;
        self.runtime.block_on(vault.open_backup(at, cancel))
    }

    /// The objects of the vault: name below it, path of the file.
    pub fn objects(&self) -> BTreeMap<String, PathBuf> {
        let root = self.folder.path().join("vaults/a1");
        let mut objects = BTreeMap::new();
        for folder in ["keys", "packs", "indexes", "backups"] {
            let Ok(listed) = std::fs::read_dir(root.join(folder)) else {
                continue;
            };
            for file in listed {
                let file = file.unwrap();
                let name = format!("{folder}/{}", file.file_name().to_str().unwrap());
                objects.insert(name, file.path());
            }
        }
        objects
    }
}

/// Bytes that do not compress and differ by seed.
pub fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for eight in out.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        eight.copy_from_slice(&state.to_le_bytes()[..eight.len()]);
    }
    out
}

pub fn folder(path: &str) -> Entry {
    Entry {
        path: path.into(),
        r#type: EntryType::Directory.into(),
        mode: 0o755,
        mtime_seconds: 1_700_000_000,
        ..Entry::default()
    }
}

pub fn file(path: &str, content: Content) -> Entry {
    Entry {
        path: path.into(),
        r#type: EntryType::Regular.into(),
        mode: 0o644,
        mtime_seconds: 1_700_000_000,
        mtime_nanos: 5,
        content: Some(content),
        ..Entry::default()
    }
}

pub fn add_file(writer: &mut BackupWriter, path: &str, mut data: &[u8]) {
    let content = writer.write_content(&mut data).unwrap();
    writer.add(file(path, content)).unwrap();
}

/// Adds a sparse file of runs (offset, bytes).
pub fn add_sparse(writer: &mut BackupWriter, path: &str, size: u64, runs: &[(u64, Vec<u8>)]) {
    let data: Vec<u8> = runs.iter().flat_map(|(_, data)| data.clone()).collect();
    let runs: Vec<DataRun> = runs
        .iter()
        .map(|(offset_bytes, data)| DataRun {
            offset_bytes: *offset_bytes,
            length_bytes: data.len() as u64,
        })
        .collect();
    let content = writer.write_sparse(size, &runs, &mut &data[..]).unwrap();
    assert_eq!(content.size_bytes, size);
    writer.add(file(path, content)).unwrap();
}

pub fn read_content(reader: &BackupReader, content: &Content, offset: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut content = reader.content(content, offset).unwrap();
    content.read_to_end(&mut out).unwrap();
    out
}

/// Everything by `walk`: paths with the bytes of regular files, holes as zeros.
pub fn walk_all(reader: &BackupReader) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut walk = reader.walk(Arc::new(Meter::default()))?;
    let mut all = Vec::new();
    while let Some(entry) = walk.next_entry()? {
        let size = entry.content.as_ref().map_or(0, |c| c.size_bytes as usize);
        let mut data = vec![0; size];
        while let Some((bytes, offset)) = walk.next_data()? {
            data[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        all.push((entry.path, data));
    }
    Ok(all)
}
