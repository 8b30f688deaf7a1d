//! A vault opened: its keys, its index, its manifests.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use prost::Message as _;
use proto::vault::v1::{Index, IndexedPack, RetiredPack, TableOfContents};
use tracing::warn;

use crate::{
    error::{Result, StoreErrorKind, VaultError},
    index::{ChunkIndex, PackAt},
    keyring::{DataKey, Keyring, VaultKeys},
    limits::DOCUMENT_BYTES_MAX,
    manifest::ManifestRef,
    pack::{check_toc, pack_name, read_toc},
    random,
    seal::{Header, Kind, open_document, seal_document},
    settings::VaultSettings,
    store::Store,
};

/// Longest key object that a reader accepts.
pub(crate) const KEY_OBJECT_BYTES_MAX: u64 = 1024 * 1024;

/// Everything stored for one agent at one destination.
#[derive(Debug, Clone)]
pub struct Vault {
    pub(crate) store: Arc<dyn Store>,
    /// `vaults/<agent_id>/`.
    pub(crate) root: String,
    pub(crate) agent_id: String,
    pub(crate) keys: Arc<VaultKeys>,
    pub(crate) settings: VaultSettings,
}

/// What the index objects, and packs that none of them lists, say together.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub chunks: Arc<RwLock<ChunkIndex>>,
    /// Packs that waited for their removal.
    pub retired: Vec<RetiredPack>,
    /// All packs that were retired, those too that are removed already: an index that
    /// still names one would hide a pack of the same id.
    pub retired_ids: HashSet<[u8; 32]>,
    /// Names of the index objects that were read.
    pub index_ids: Vec<[u8; 32]>,
    /// Index objects that others replace.
    pub superseded_ids: Vec<[u8; 32]>,
    /// Index objects that can't be read, with the reason.
    pub unreadable_indexes: Vec<([u8; 32], VaultError)>,
    /// Packs that were found in no index: what an interrupted attempt left.
    pub adopted: Vec<IndexedPack>,
    /// Packs whose table of contents could not be read, with the reason.
    pub unreadable: Vec<([u8; 32], String)>,
}

impl Contents {
    pub(crate) fn read_chunks(&self) -> RwLockReadGuard<'_, ChunkIndex> {
        self.chunks.read().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

impl Vault {
    /// Opens an agent's vault. The keys are checked before anything else.
    pub async fn open(
        store: Arc<dyn Store>,
        agent_id: &str,
        keyring: &Keyring,
        settings: VaultSettings,
    ) -> Result<Self> {
        let root = format!("vaults/{agent_id}/");
        let keys = load_keys(&*store, &root, agent_id, keyring).await?;
        let Some(keys) = keys else {
            if holds_data(&*store, &root).await? {
                return Err(VaultError::KeysGone {
                    agent_id: agent_id.to_owned(),
                });
            }
            return Err(VaultError::NoVault {
                agent_id: agent_id.to_owned(),
            });
        };
        Ok(Self {
            store,
            root,
            agent_id: agent_id.to_owned(),
            keys: Arc::new(keys),
            settings,
        })
    }

    /// Opens an agent's vault, or makes it.
    pub async fn open_or_create(
        store: Arc<dyn Store>,
        agent_id: &str,
        keyring: &Keyring,
        settings: VaultSettings,
    ) -> Result<Self> {
        match Self::open(store.clone(), agent_id, keyring, settings.clone()).await {
            Err(VaultError::NoVault { .. }) => {}
            other => return other,
        }
        let (_, name, object) = VaultKeys::create(agent_id, keyring, now_ms());
        store
            .put(&format!("vaults/{agent_id}/{name}"), Bytes::from(object))
            .await?;
        // Another first attempt may have made a key too: read what there is, so
        // that both agree on the oldest.
        Self::open(store, agent_id, keyring, settings).await
    }

    /// The agent's id.
    pub fn agent_id(&self) -> &str {
        &self.agent_id
    }

    /// Ids of the key-encryption keys that its data keys were wrapped under when it was
    /// opened.
    pub fn wrapped_under(&self) -> &[String] {
        self.keys.wrapped_under()
    }

    /// The backups whose manifests are stored, all attempts, in no order.
    pub async fn manifests(&self) -> Result<Vec<ManifestRef>> {
        let prefix = format!("{}backups/", self.root);
        let listed = self.store.list(&prefix).await?;
        Ok(listed
            .iter()
            .filter_map(|o| ManifestRef::from_name(o.name.strip_prefix(&prefix)?))
            .collect())
    }

    /// Removes a backup's manifests, of all attempts. What only it needed is
    /// removed by a later `compact`.
    pub async fn delete_backup(&self, backup_id: &str) -> Result<()> {
        for manifest in self.manifests().await? {
            if manifest.backup_id == backup_id {
                self.store
                    .delete(&format!("{}{}", self.root, manifest.name()))
                    .await?;
            }
        }
        Ok(())
    }

    /// Bytes of all the vault's objects at the destination.
    pub async fn stored_bytes(&self) -> Result<u64> {
        let mut sum = 0;
        for folder in ["keys/", "packs/", "indexes/", "backups/"] {
            let listed = self.store.list(&format!("{}{folder}", self.root)).await?;
            sum += listed.iter().map(|o| o.bytes).sum::<u64>();
        }
        Ok(sum)
    }

    /// Reads a sealed document of this vault and opens it. Returns the plain
    /// text and the digest of the object as stored.
    pub(crate) async fn read_document(
        &self,
        kind: Kind,
        name: &str,
    ) -> Result<(Vec<u8>, [u8; 32])> {
        let object = self
            .store
            .get(&format!("{}{name}", self.root), DOCUMENT_BYTES_MAX)
            .await;
        let mut sealed = match object {
            Ok(bytes) => bytes.to_vec(),
            Err(e) if e.kind == StoreErrorKind::NotFound => {
                return Err(VaultError::Missing {
                    object: name.to_owned(),
                });
            }
            Err(e) => return Err(e.into()),
        };
        let digest = *blake3::hash(&sealed).as_bytes();
        let header = Header::decode(kind, name, &sealed)?;
        let key = self.keys.by_id(&header.key_id, name)?;
        Ok((
            open_document(key, kind, name, &mut sealed)?.to_vec(),
            digest,
        ))
    }

    /// Seals a document and stores it. Returns the digest of the object.
    pub(crate) async fn write_document(
        &self,
        key: &DataKey,
        kind: Kind,
        salt: [u8; 32],
        name: &str,
        plain: &[u8],
    ) -> Result<([u8; 32], u64)> {
        let sealed = seal_document(key, kind, salt, name, plain)?;
        let (digest, bytes) = (*blake3::hash(&sealed).as_bytes(), sealed.len() as u64);
        self.store
            .put(&format!("{}{name}", self.root), Bytes::from(sealed))
            .await?;
        Ok((digest, bytes))
    }

    /// Stores an index over packs; several objects where they hold many chunks.
    /// The last object carries `retired` and `replaces`. Returns the bytes stored.
    pub(crate) async fn write_indexes(
        &self,
        packs: Vec<IndexedPack>,
        retired: Vec<RetiredPack>,
        replaces: Vec<[u8; 32]>,
    ) -> Result<(Vec<[u8; 32]>, u64)> {
        let mut documents = vec![Index::default()];
        let mut chunks = 0;
        for pack in packs {
            let toc = pack.table_of_contents.as_ref();
            let count: usize =
                toc.map_or(0, |t| t.segments.iter().map(|s| s.chunk_bytes.len()).sum());
            if chunks > 0 && chunks + count > self.settings.index_chunks_max {
                documents.push(Index::default());
                chunks = 0;
            }
            chunks += count;
            documents.last_mut().expect("never empty").packs.push(pack);
        }
        let last = documents.last_mut().expect("never empty");
        last.retired_packs = retired;
        last.replaces = replaces.iter().map(|id| id.to_vec()).collect();
        let (mut ids, mut stored) = (Vec::new(), 0);
        for document in documents {
            let id: [u8; 32] = random::bytes();
            let plain = document.encode_to_vec();
            let (_, bytes) = self
                .write_document(
                    self.keys.writing(),
                    Kind::Index,
                    id,
                    &index_name(&id),
                    &plain,
                )
                .await?;
            ids.push(id);
            stored += bytes;
        }
        Ok((ids, stored))
    }

    pub(crate) async fn read_index(&self, id: &[u8; 32]) -> Result<Index> {
        let name = index_name(id);
        let (plain, _) = self.read_document(Kind::Index, &name).await?;
        let index = Index::decode(&*plain).map_err(|_| VaultError::corrupt(&name, "malformed"))?;
        for pack in &index.packs {
            let toc = pack.table_of_contents.as_ref();
            let end = toc
                .and_then(|t| t.segments.last())
                .map(|s| s.offset_bytes.saturating_add(u64::from(s.stored_bytes)));
            match (toc, end) {
                (Some(toc), Some(end)) if pack.pack_id.len() == 32 && pack.key_id.len() == 16 => {
                    check_toc(&name, toc, end)?;
                }
                _ => {
                    return Err(VaultError::corrupt(
                        &name,
                        "it lists a pack without contents",
                    ));
                }
            }
        }
        Ok(index)
    }

    /// Loads what the vault holds: the indexes, and the tables of contents of
    /// packs that are in no index. A damaged index is no obstacle: its packs are
    /// read instead.
    pub(crate) async fn load_contents(&self) -> Result<Contents> {
        let mut contents = Contents::default();
        let mut chunks = ChunkIndex::default();
        let index_ids = self.list_ids("indexes/").await?;
        let mut loaded: Vec<([u8; 32], Index)> = Vec::with_capacity(index_ids.len());
        for (id, _) in index_ids {
            match self.read_index(&id).await {
                Ok(index) => loaded.push((id, index)),
                // Another job replaced it between the listing and the reading.
                Err(VaultError::Missing { .. }) => {}
                Err(error @ (VaultError::Corrupt { .. } | VaultError::Version { .. })) => {
                    warn!(agent_id = %self.agent_id, %error, "index is not readable; its packs are read instead");
                    contents.unreadable_indexes.push((id, error));
                }
                Err(error) => return Err(error),
            }
        }
        let replaced: HashSet<Vec<u8>> = loaded
            .iter()
            .flat_map(|(_, index)| index.replaces.iter().cloned())
            .collect();
        let on_store: HashMap<[u8; 32], u64> = self.list_ids("packs/").await?.into_iter().collect();
        let mut known: HashSet<[u8; 32]> = HashSet::new();
        let (superseded, current): (Vec<_>, Vec<_>) = loaded
            .into_iter()
            .partition(|(id, _)| replaced.contains(&id[..]));
        contents.superseded_ids = superseded.into_iter().map(|(id, _)| id).collect();
        contents.index_ids = current.iter().map(|(id, _)| *id).collect();
        // Retired first: what one index retires, no other brings back.
        for retired in current.iter().flat_map(|(_, index)| &index.retired_packs) {
            if let Ok(id) = <[u8; 32]>::try_from(&retired.pack_id[..])
                && known.insert(id)
                && contents.retired_ids.insert(id)
                && on_store.contains_key(&id)
            {
                contents.retired.push(retired.clone());
            }
        }
        for (_, index) in current {
            for pack in index.packs {
                let id: [u8; 32] = pack.pack_id[..].try_into().expect("checked by read_index");
                // A pack that is not there can't be read from, and must not be
                // taken for granted by the next backup.
                if on_store.get(&id) == Some(&pack.pack_bytes) && known.insert(id) {
                    let key_id: [u8; 16] =
                        pack.key_id[..].try_into().expect("checked by read_index");
                    let toc = pack
                        .table_of_contents
                        .as_ref()
                        .expect("checked by read_index");
                    chunks.add_pack(
                        PackAt {
                            id,
                            key_id,
                            bytes: pack.pack_bytes,
                        },
                        toc,
                    );
                }
            }
        }
        for (id, bytes) in on_store {
            if known.contains(&id) {
                continue;
            }
            match read_toc(&*self.store, &self.root, &self.keys, &id, bytes).await {
                Ok((toc, key_id)) => {
                    chunks.add_pack(PackAt { id, key_id, bytes }, &toc);
                    contents.adopted.push(IndexedPack {
                        pack_id: id.to_vec(),
                        pack_bytes: bytes,
                        table_of_contents: Some(toc),
                        key_id: key_id.to_vec(),
                    });
                }
                Err(error @ (VaultError::Corrupt { .. } | VaultError::Version { .. })) => {
                    contents.unreadable.push((id, error.to_string()));
                }
                Err(VaultError::Store(e)) if e.kind == StoreErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        contents.chunks = Arc::new(RwLock::new(chunks));
        Ok(contents)
    }

    /// Reads what packs hold that wait for their removal. Those that are gone, or
    /// can't be read, are left out.
    pub(crate) async fn read_retired(
        &self,
        retired: &[RetiredPack],
    ) -> Result<Vec<(PackAt, TableOfContents)>> {
        let mut packs = Vec::new();
        for pack in retired {
            let Ok(id) = <[u8; 32]>::try_from(&pack.pack_id[..]) else {
                continue;
            };
            let full = format!("{}{}", self.root, pack_name(&id));
            let Some(bytes) = self.store.stat(&full).await? else {
                continue;
            };
            match read_toc(&*self.store, &self.root, &self.keys, &id, bytes).await {
                Ok((toc, key_id)) => packs.push((PackAt { id, key_id, bytes }, toc)),
                Err(error @ (VaultError::Corrupt { .. } | VaultError::Version { .. })) => {
                    warn!(agent_id = %self.agent_id, %error, "retired pack is not readable");
                }
                Err(VaultError::Store(e)) if e.kind == StoreErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(packs)
    }

    /// The objects of a folder whose names are ids, with their lengths.
    pub(crate) async fn list_ids(&self, folder: &str) -> Result<Vec<([u8; 32], u64)>> {
        let prefix = format!("{}{folder}", self.root);
        let mut ids = Vec::new();
        for object in self.store.list(&prefix).await? {
            let mut id = [0; 32];
            let name = object.name.strip_prefix(&prefix).unwrap_or_default();
            if hex::decode_to_slice(name, &mut id).is_ok() {
                ids.push((id, object.bytes));
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

/// An index object's name below the vault.
pub(crate) fn index_name(id: &[u8; 32]) -> String {
    format!("indexes/{}", hex::encode(id))
}

async fn load_keys(
    store: &dyn Store,
    root: &str,
    agent_id: &str,
    keyring: &Keyring,
) -> Result<Option<VaultKeys>> {
    let mut objects = Vec::new();
    for listed in store.list(&format!("{root}keys/")).await? {
        let bytes = store.get(&listed.name, KEY_OBJECT_BYTES_MAX).await?;
        let name = listed
            .name
            .strip_prefix(root)
            .unwrap_or(&listed.name)
            .to_owned();
        objects.push((name, bytes.to_vec()));
    }
    if objects.is_empty() {
        return Ok(None);
    }
    VaultKeys::open(agent_id, keyring, &objects).map(Some)
}

/// Whether there is anything that keys would open.
pub(crate) async fn holds_data(store: &dyn Store, root: &str) -> Result<bool> {
    for folder in ["backups/", "packs/"] {
        if !store.list(&format!("{root}{folder}")).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
