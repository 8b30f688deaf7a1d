//! Small backups in a vault in memory.

use std::{
    collections::{BTreeMap, HashSet},
    io::{Cursor, Read as _},
    sync::Arc,
};

use tokio_util::sync::CancellationToken;
use vault::{
    BackupSpec, CompactReport, CompactSpec, CopyReport, KeyEncryptionKey, Keyring, ManifestRef,
    Result, Store, Vault, VaultSettings,
    format::{Entry, EntryType},
    store::testing::{FaultPlan, MemoryStore},
};

pub const MINUTE: i64 = 60_000;
pub const HOUR: i64 = 60 * MINUTE;
pub const GRACE: u64 = HOUR as u64;
/// When tests begin.
pub const T0: i64 = 1_800_000_000_000;

/// Paths and contents.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// Bytes that do not compress, always the same for a seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

pub fn tree<const N: usize>(files: [(&str, u64, usize); N]) -> Tree {
    files
        .map(|(name, seed, bytes)| (name.to_owned(), noise(seed, bytes)))
        .into()
}

/// With an object of this name in the store, an index takes several objects.
const SHORT_INDEXES: &str = "test/short-indexes";

/// Lets every index from now on take several objects.
pub fn shorten_indexes(store: &MemoryStore) {
    store.set_object(SHORT_INDEXES, Some(bytes::Bytes::new()));
}

/// The key-encryption key whose bytes are all this one.
pub fn key(byte: u8) -> KeyEncryptionKey {
    KeyEncryptionKey::new([byte; 32])
}

/// What the vaults of these tests are under.
pub fn keyring() -> Keyring {
    Keyring::new(key(5), vec![])
}

pub async fn open(store: Arc<MemoryStore>) -> Result<Vault> {
    let mut settings = VaultSettings {
        threads: 1,
        ..VaultSettings::default()
    };
    if store.object(SHORT_INDEXES).is_some() {
        settings.index_chunks_max = 2;
    }
    Vault::open_or_create(store as Arc<dyn Store>, "a1", &keyring(), settings).await
}

/// A vault that exists, in a store whose clock stands at [`T0`].
pub async fn new_store() -> Arc<MemoryStore> {
    let store = MemoryStore::new();
    store.set_now_ms(T0);
    open(store.clone()).await.unwrap();
    store
}

pub fn at(id: &str, attempt: u32) -> ManifestRef {
    ManifestRef {
        backup_id: id.to_owned(),
        attempt,
        digest: None,
    }
}

/// Backs a tree up: opens the vault, writes, commits.
pub async fn back_up(
    store: &Arc<MemoryStore>,
    id: &str,
    attempt: u32,
    tree: &Tree,
) -> Result<ManifestRef> {
    let vault = open(store.clone()).await?;
    let spec = BackupSpec {
        backup_id: id.to_owned(),
        attempt,
        ..BackupSpec::default()
    };
    let writer = vault.begin_backup(spec, CancellationToken::new(), Arc::default());
    let mut writer = writer.await?;
    let tree = tree.clone();
    let work = move || {
        for (name, bytes) in tree {
            let content = writer.write_content(&mut Cursor::new(bytes))?;
            writer.add(Entry {
                path: name.into_bytes(),
                r#type: EntryType::Regular.into(),
                content: Some(content),
                ..Entry::default()
            })?;
        }
        Ok(writer.finish(T0)?.manifest)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Copies a backup to another store.
pub async fn copy(
    from: &Arc<MemoryStore>,
    to: &Arc<MemoryStore>,
    at: &ManifestRef,
) -> Result<CopyReport> {
    copy_with(from, to, at, &keyring()).await
}

/// The same with other keys.
pub async fn copy_with(
    from: &Arc<MemoryStore>,
    to: &Arc<MemoryStore>,
    at: &ManifestRef,
    keyring: &Keyring,
) -> Result<CopyReport> {
    let settings = VaultSettings {
        threads: 1,
        ..VaultSettings::default()
    };
    let vault = Vault::open(from.clone(), "a1", keyring, settings).await?;
    let cancel = CancellationToken::new();
    vault
        .copy_backup(at, to.clone(), keyring, cancel, Arc::default())
        .await
}

/// Everything that a backup holds.
pub async fn restore(store: &Arc<MemoryStore>, at: &ManifestRef) -> Result<Tree> {
    let vault = open(store.clone()).await?;
    let reader = vault.open_backup(at, CancellationToken::new()).await?;
    let work = move || {
        let mut tree = Tree::new();
        for entry in reader.entries(None)? {
            let entry = entry?;
            let mut bytes = Vec::new();
            let content = entry.content.as_ref().expect("files only");
            if let Err(error) = reader.content(content, 0)?.read_to_end(&mut bytes) {
                return Err(error.downcast().unwrap_or_else(vault::VaultError::Sink));
            }
            tree.insert(String::from_utf8(entry.path).expect("text"), bytes);
        }
        Ok(tree)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

pub fn spec(now_ms: i64) -> CompactSpec {
    CompactSpec {
        garbage: HashSet::new(),
        expected: Vec::new(),
        grace_ms: GRACE,
        may_remove: true,
        now_ms,
    }
}

/// Compacts at a time.
pub async fn compact_as(store: &Arc<MemoryStore>, spec: CompactSpec) -> Result<CompactReport> {
    store.set_now_ms(spec.now_ms);
    let vault = open(store.clone()).await?;
    vault
        .compact(spec, CancellationToken::new(), Arc::default())
        .await
}

pub async fn compact(store: &Arc<MemoryStore>, now_ms: i64) -> Result<CompactReport> {
    compact_as(store, spec(now_ms)).await
}

/// Compacts as if nobody else could be there.
pub async fn compact_fully(store: &Arc<MemoryStore>, now_ms: i64) -> Result<CompactReport> {
    let spec = CompactSpec {
        grace_ms: 0,
        ..spec(now_ms)
    };
    compact_as(store, spec).await
}

pub async fn delete(store: &Arc<MemoryStore>, id: &str) {
    let vault = open(store.clone()).await.unwrap();
    vault.delete_backup(id).await.unwrap();
}

/// The names of the objects in a folder of the vault.
pub fn folder(store: &MemoryStore, folder: &str) -> Vec<String> {
    let prefix = format!("vaults/a1/{folder}/");
    let names = store.names();
    names
        .into_iter()
        .filter(|n| n.starts_with(&prefix))
        .collect()
}

pub fn packs(store: &MemoryStore) -> usize {
    folder(store, "packs").len()
}

/// Checks that backups hold what they should.
pub async fn assert_holds(store: &Arc<MemoryStore>, backups: &[(ManifestRef, Tree)], when: &str) {
    let sound = store.client(FaultPlan::default());
    for (at, tree) in backups {
        let read = restore(&sound, at).await;
        let read = read.unwrap_or_else(|e| panic!("{when}: {}: {e}", at.name()));
        assert!(read == *tree, "{when}: {} holds something else", at.name());
    }
}
