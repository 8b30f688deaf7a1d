//! Whoever has the key can seal anything: documents that are changed before they are
//! sealed reach the parsers. Nothing they hold makes a reader panic, hang or take
//! more than its bounds.

use std::{io::Cursor, sync::Arc};

use bytes::Bytes;
use proptest::{prelude::*, test_runner::TestRunner};
use prost::Message as _;
use proto::vault::v1::{Content, Entry, EntryType, Index, Manifest, TableOfContents};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{Recovery, contents};
use crate::{
    BackupSpec, CompactSpec, KeyEncryptionKey, Keyring, ManifestRef, Meter, Vault, VaultSettings,
    VerifyDepth,
    keyring::VaultKeys,
    pack::{pack_name, read_toc},
    seal::{Header, Kind, Sealer, open_document, seal_document},
    store::testing::{FaultPlan, MemoryStore},
};

/// A vault of one backup, and how to open it.
struct Bench {
    runtime: Runtime,
    store: Arc<MemoryStore>,
    keyring: Keyring,
}

fn settings() -> VaultSettings {
    VaultSettings {
        threads: 1,
        ..VaultSettings::default()
    }
}

impl Bench {
    fn new() -> Self {
        let this = Self {
            runtime: Runtime::new().unwrap(),
            store: MemoryStore::new(),
            keyring: Keyring::new(KeyEncryptionKey::new([7; 32]), vec![]),
        };
        let vault = this.vault(&this.store);
        let spec = BackupSpec {
            backup_id: "b".to_owned(),
            attempt: 1,
            ..BackupSpec::default()
        };
        let begin = vault.begin_backup(spec, CancellationToken::new(), Arc::default());
        let mut writer = this.runtime.block_on(begin).unwrap();
        for n in 0..30u8 {
            let bytes = vec![n; 100 * usize::from(n)];
            let content = writer.write_content(&mut Cursor::new(bytes)).unwrap();
            let entry = Entry {
                path: vec![b'a' + n % 26, b'a' + n],
                r#type: EntryType::Regular.into(),
                content: Some(content),
                ..Entry::default()
            };
            let _ = writer.add(entry);
        }
        writer.finish(1).unwrap();
        this
    }

    fn vault(&self, store: &Arc<MemoryStore>) -> Vault {
        let open = Vault::open_or_create(store.clone(), "a", &self.keyring, settings());
        self.runtime.block_on(open).unwrap()
    }

    /// The names of a folder's objects below the vault.
    fn names(&self, folder: &str) -> Vec<String> {
        let names = self.store.names().into_iter();
        names
            .filter_map(|name| Some(name.strip_prefix("vaults/a/")?.to_owned()))
            .filter(|name| name.starts_with(folder))
            .collect()
    }

    /// A document's plain text, and its salt.
    fn plain(&self, kind: Kind, name: &str) -> (Vec<u8>, [u8; 32]) {
        let vault = self.vault(&self.store);
        let mut sealed = self.object(name);
        let salt = Header::decode(kind, name, &sealed).unwrap().salt;
        let key = vault.keys.writing();
        let plain = open_document(key, kind, name, &mut sealed).unwrap();
        (plain.to_vec(), salt)
    }

    fn object(&self, name: &str) -> Vec<u8> {
        self.store
            .object(&format!("vaults/a/{name}"))
            .unwrap()
            .to_vec()
    }

    /// A fork in which a document is another one, sealed just as well.
    fn with_document(
        &self,
        kind: Kind,
        name: &str,
        salt: [u8; 32],
        plain: &[u8],
    ) -> Arc<MemoryStore> {
        let vault = self.vault(&self.store);
        let sealed = seal_document(vault.keys.writing(), kind, salt, name, plain).unwrap();
        let fork = self.store.fork(FaultPlan::default());
        fork.set_object(&format!("vaults/a/{name}"), Some(Bytes::from(sealed)));
        fork
    }

    /// Reads everything there is in every way there is.
    fn read_all(&self, store: &Arc<MemoryStore>) {
        let recovery = Recovery::new(store.clone(), self.keyring.clone(), settings());
        let found = self.runtime.block_on(recovery.look_at("a")).unwrap();
        assert!(found.locked.is_none());
        let vault = self.vault(store);
        let _ = self.runtime.block_on(contents::every_place(&vault));
        let at = ManifestRef {
            backup_id: "b".to_owned(),
            attempt: 1,
            digest: None,
        };
        let cancel = CancellationToken::new();
        if let Ok(reader) = self
            .runtime
            .block_on(vault.open_backup(&at, cancel.clone()))
        {
            let _ = reader.verify(VerifyDepth::Full, Arc::default());
            let _ = reader.export_tar(&crate::TarSpec::default(), &mut std::io::sink());
            let _ = reader.find(b"bb");
        }
        let recovered = self.runtime.block_on(recovery.open("a")).unwrap();
        let opened = recovered.open_salvaging(&at, cancel.clone());
        if let Ok((reader, _)) = self.runtime.block_on(opened) {
            let mut walk = reader.walk(Arc::new(Meter::default())).unwrap();
            while !walk.is_over() {
                match walk.next_entry() {
                    Ok(None) => break,
                    Ok(Some(_)) => while let Ok(Some(_)) = walk.next_data() {},
                    Err(_) => {}
                }
            }
        }
        let spec = CompactSpec {
            garbage: Default::default(),
            expected: Vec::new(),
            grace_ms: 1,
            may_remove: true,
            now_ms: 1,
        };
        let fork = store.fork(FaultPlan::default());
        let vault = self.vault(&fork);
        let _ = self
            .runtime
            .block_on(vault.compact(spec, cancel, Arc::default()));
    }
}

/// A few changes of bytes: overwritten, cut, inserted.
fn changed(plain: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let one = (
        any::<prop::sample::Index>(),
        0..4u8,
        prop::collection::vec(any::<u8>(), 1..12),
    );
    prop::collection::vec(one, 1..4).prop_map(move |changes| {
        let mut bytes = plain.clone();
        for (at, how, new) in changes {
            let at = at.index(bytes.len() + 1);
            match how {
                0 => drop(bytes.splice(at..at, new)),
                1 => bytes.truncate(at),
                2 => drop(bytes.drain(at..(at + new.len()).min(bytes.len()))),
                _ => {
                    for (byte, new) in bytes[at..].iter_mut().zip(new) {
                        *byte = new;
                    }
                }
            }
        }
        bytes
    })
}

fn each(strategy: impl Strategy<Value = Vec<u8>>, check: impl Fn(&[u8])) {
    let config = ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(&strategy, |bytes| {
        check(&bytes);
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn indexes() {
    let bench = Bench::new();
    let name = bench.names("indexes/").remove(0);
    let (plain, salt) = bench.plain(Kind::Index, &name);
    assert!(Index::decode(&*plain).is_ok());
    each(changed(plain), |plain| {
        bench.read_all(&bench.with_document(Kind::Index, &name, salt, plain));
    });
}

#[test]
fn manifests() {
    let bench = Bench::new();
    let name = bench.names("backups/").remove(0);
    let (plain, salt) = bench.plain(Kind::Manifest, &name);
    each(changed(plain), |plain| {
        bench.read_all(&bench.with_document(Kind::Manifest, &name, salt, plain));
    });
}

#[test]
fn entry_streams() {
    let bench = Bench::new();
    let name = bench.names("backups/").remove(0);
    let (plain, salt) = bench.plain(Kind::Manifest, &name);
    let manifest = Manifest::decode(&*plain).unwrap();
    let vault = bench.vault(&bench.store);
    let at = ManifestRef {
        backup_id: "b".to_owned(),
        attempt: 1,
        digest: None,
    };
    let open = vault.open_backup(&at, CancellationToken::new());
    let reader = bench.runtime.block_on(open).unwrap();
    let mut stream = Vec::new();
    for entry in reader.entries(None).unwrap() {
        let record = entry.unwrap().encode_length_delimited_to_vec();
        if stream.len() + record.len() < 480 {
            stream.extend_from_slice(&record);
        }
    }
    assert!(stream.len() > 100);
    each(changed(stream), |stream| {
        let changed = Manifest {
            entries: Some(Content {
                size_bytes: stream.len() as u64,
                inline: stream.to_vec(),
                ..Content::default()
            }),
            ..manifest.clone()
        };
        let plain = changed.encode_to_vec();
        bench.read_all(&bench.with_document(Kind::Manifest, &name, salt, &plain));
    });
}

#[test]
fn tables_of_contents() {
    let bench = Bench::new();
    let name = bench.names("packs/").remove(0);
    let pack = bench.object(&name);
    let vault = bench.vault(&bench.store);
    let id: [u8; 32] = hex::decode(&name["packs/".len()..])
        .unwrap()
        .try_into()
        .unwrap();
    assert_eq!(pack_name(&id), name);
    let read = read_toc(
        &*bench.store,
        "vaults/a/",
        &vault.keys,
        &id,
        pack.len() as u64,
    );
    let (toc, key_id) = bench.runtime.block_on(read).unwrap();
    let header = Header {
        kind: Kind::Pack,
        key_id,
        salt: id,
    };
    let sealer = Sealer::new(vault.keys.writing(), &header, &name);
    let end = toc.segments.last().unwrap();
    let segments = (end.offset_bytes + u64::from(end.stored_bytes)) as usize;
    let plain = TableOfContents::encode_to_vec(&toc);
    each(changed(plain), |plain| {
        let mut changed = pack[..segments].to_vec();
        sealer.seal_into(&mut changed, plain, u64::MAX, true);
        let length = (changed.len() - segments) as u32;
        changed.extend_from_slice(&length.to_le_bytes());
        let fork = bench.store.fork(FaultPlan::default());
        fork.set_object(&format!("vaults/a/{name}"), Some(Bytes::from(changed)));
        for index in bench.names("indexes/") {
            fork.set_object(&format!("vaults/a/{index}"), None);
        }
        bench.read_all(&fork);
    });
}

#[test]
fn key_objects() {
    let bench = Bench::new();
    let name = bench.names("keys/").remove(0);
    let object = bench.object(&name);
    let right = bench.vault(&bench.store);
    each(changed(object), |object| {
        let objects = [(name.clone(), object.to_vec())];
        if let Ok((keys, _)) = VaultKeys::open_what_opens("a", &bench.keyring, &objects) {
            assert_eq!(keys.writing().secret(), right.keys.writing().secret());
        }
        let fork = bench.store.fork(FaultPlan::default());
        let full = format!("vaults/a/{name}");
        fork.set_object(&full, Some(Bytes::copy_from_slice(object)));
        let recovery = Recovery::new(fork, bench.keyring.clone(), settings());
        let _ = bench.runtime.block_on(recovery.look_at("a"));
    });
}
