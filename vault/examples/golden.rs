//! Makes a golden vault: `cargo run -p nora-backup-vault --example golden -- FOLDER`.
//!
//! FOLDER is made anew; see tests/golden/README.md. Ids and keys are random, so two
//! runs make two vaults: a golden one is made once, and never changed.

#[path = "../tests/golden/listing.rs"]
mod listing;

use std::{error::Error, fs, path::Path, sync::Arc, time::Duration};

use prost::Message as _;
use proto::backup::v1::{DirectorySource, Integration, Source, source::Kind};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use tokio_util::sync::CancellationToken;
use vault::{
    BackupSpec, BackupWriter, CompactSpec, KeyEncryptionKey, Keyring, ManifestRef, OpendalStore,
    Store, Vault, VaultSettings,
    format::{
        Content, DataRun, Entry, EntryType, KeyObject, MountDocument, RuntimeDocument, WrappedKey,
        Xattr,
    },
};

type Done<T> = Result<T, Box<dyn Error>>;

/// The published keys: the first wraps everything, the second one key besides.
const KEYS: [[u8; 32]; 2] = [[0x11; 32], [0x22; 32]];
const AGENT: &str = "golden-agent";
/// When the backups were made, milliseconds since 1970.
const T0: i64 = 1_767_225_600_000;

/// Blocks of the file that shall need lists of ids.
const MANY: usize = 700;
/// Said when it does not need them.
const NOT_DEEP: &str = "the file of many chunks needs no list of ids";

fn main() -> Done<()> {
    let folder = std::env::args_os()
        .nth(1)
        .ok_or("name the folder to make")?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder.parent().unwrap_or(Path::new(".")))?;
    loop {
        fs::create_dir(folder)?;
        match make(folder) {
            Err(error) if error.to_string() == NOT_DEEP => fs::remove_dir_all(folder)?,
            made => return made,
        }
    }
}

fn make(folder: &Path) -> Done<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let _on = runtime.enter();
    let store = Arc::new(OpendalStore::local(&folder.join("destination"))?);

    // Two first attempts at once made a data key each. The first backup knows the
    // younger one only, the later ones write with the older.
    let elsewhere = tempfile::tempdir()?;
    let other = Arc::new(OpendalStore::local(elsewhere.path())?);
    runtime.block_on(open(other.clone()))?;
    std::thread::sleep(Duration::from_millis(20));
    let first = runtime.block_on(open(store.clone()))?;
    let mut previous = back_up(&runtime, &first, "first", 1, None, fill_first)?;
    runtime.block_on(copy_keys(&*other, &*store))?;
    let vault = runtime.block_on(open(store.clone()))?;
    for (number, name) in [(2, "doomed"), (3, "second")] {
        let fill = if number == 2 {
            fill_doomed
        } else {
            fill_second
        };
        previous = back_up(&runtime, &vault, name, number, Some(previous), fill)?;
    }

    // One data key is wrapped under both keys, as in the middle of a rotation.
    runtime.block_on(rewrap(&*store))?;
    // What only the doomed backup needed waits for its removal.
    runtime.block_on(vault.delete_backup(&id(2)))?;
    let spec = CompactSpec {
        garbage: Default::default(),
        expected: Vec::new(),
        grace_ms: 3_600_000,
        may_remove: false,
        now_ms: T0 + 3_600_000,
    };
    let compact = vault.compact(spec, CancellationToken::new(), Arc::default());
    let report = runtime.block_on(compact)?;
    if report.waiting_packs == 0 {
        return Err(format!("no pack waits for its removal: {report:?}").into());
    }

    let keys = KEYS.map(hex::encode).join("\n");
    fs::write(folder.join("keys.txt"), keys + "\n")?;
    fs::create_dir(folder.join("expected"))?;
    for number in [1, 3] {
        let at = ManifestRef {
            backup_id: id(number),
            attempt: 1,
            digest: None,
        };
        let reader = runtime.block_on(vault.open_backup(&at, CancellationToken::new()))?;
        let text = listing::listing(&reader)?;
        fs::write(folder.join("expected").join(id(number)), text)?;
    }
    let bytes = runtime.block_on(vault.stored_bytes())?;
    println!("{bytes} bytes in {}", folder.display());
    Ok(())
}

fn id(number: i64) -> String {
    format!("019b0000-0000-7000-8000-{number:012}")
}

async fn open(store: Arc<dyn Store>) -> vault::Result<Vault> {
    let keyring = Keyring::new(KeyEncryptionKey::new(KEYS[0]), vec![]);
    Vault::open_or_create(store, AGENT, &keyring, VaultSettings::default()).await
}

async fn copy_keys(from: &dyn Store, to: &dyn Store) -> Done<()> {
    for object in from.list(&format!("vaults/{AGENT}/keys/")).await? {
        let bytes = from.get(&object.name, 1 << 20).await?;
        to.put(&object.name, bytes).await?;
    }
    Ok(())
}

/// Wraps the oldest data key under the second key too, as docs/format.md says.
async fn rewrap(store: &dyn Store) -> Done<()> {
    let cipher = |key: [u8; 32]| -> Done<LessSafeKey> {
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| "a key")?;
        Ok(LessSafeKey::new(key))
    };
    let mut objects = Vec::new();
    for listed in store.list(&format!("vaults/{AGENT}/keys/")).await? {
        let bytes = store.get(&listed.name, 1 << 20).await?;
        objects.push((listed.name, KeyObject::decode(bytes)?));
    }
    objects.sort_by_key(|(_, object)| object.create_time_ms);
    let (name, object) = objects.first_mut().ok_or("no key")?;
    let mut aad = b"nora-vault v1 wrap".to_vec();
    aad.extend_from_slice(&object.vault_id);
    aad.extend_from_slice(&object.key_id);
    aad.extend_from_slice(&object.commitment);
    aad.extend_from_slice(&object.create_time_ms.to_be_bytes());
    aad.extend_from_slice(object.agent_id.as_bytes());
    let wrapped = &object.wrapped_keys[0];
    let nonce = Nonce::try_assume_unique_for_key(&wrapped.nonce).map_err(|_| "a nonce")?;
    let mut secret = wrapped.ciphertext.clone();
    let opened = cipher(KEYS[0])?.open_in_place(nonce, Aad::from(&aad), &mut secret);
    let mut secret = opened.map_err(|_| "the key does not open")?.to_vec();
    let nonce = [0x5a; 12];
    cipher(KEYS[1])?
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&aad),
            &mut secret,
        )
        .map_err(|_| "seal")?;
    let id = KeyEncryptionKey::new(KEYS[1]).id();
    object.wrapped_keys.push(WrappedKey {
        key_encryption_key_id: hex::decode(id)?,
        nonce: nonce.to_vec(),
        ciphertext: secret,
    });
    store.put(name, object.encode_to_vec().into()).await?;
    Ok(())
}

fn back_up(
    runtime: &tokio::runtime::Runtime,
    vault: &Vault,
    name: &str,
    number: i64,
    previous: Option<ManifestRef>,
    fill: fn(&mut BackupWriter) -> Done<()>,
) -> Done<ManifestRef> {
    let path = "/srv/agents/golden".to_owned();
    let source = Source {
        kind: Some(Kind::Directory(DirectorySource { path })),
    };
    let integration = Integration {
        r#type: "slack".to_owned(),
        name: "support".to_owned(),
        config_json: r#"{"channel":"C1"}"#.to_owned(),
    };
    let spec = BackupSpec {
        backup_id: id(number),
        attempt: 1,
        agent_name: "A golden agent".to_owned(),
        owner_id: "user-1".to_owned(),
        workspace_id: "workspace-1".to_owned(),
        name: name.to_owned(),
        source: source.encode_to_vec(),
        integrations: vec![integration.encode_to_vec()],
        previous,
        previous_sequence: None,
        start_time_ms: T0 + number * 1000,
    };
    let begin = vault.begin_backup(spec, CancellationToken::new(), Arc::default());
    let mut writer = runtime.block_on(begin)?;
    fill(&mut writer)?;
    Ok(writer.finish(T0 + number * 1000 + 500)?.manifest)
}

fn entry(path: &[u8], entry_type: EntryType) -> Entry {
    Entry {
        path: path.to_vec(),
        r#type: entry_type.into(),
        mode: if entry_type == EntryType::Directory {
            0o755
        } else {
            0o644
        },
        uid: 1000,
        gid: 1001,
        user_name: "agent".to_owned(),
        group_name: "agents".to_owned(),
        mtime_seconds: 1_700_000_000,
        mtime_nanos: 123_456_789,
        ..Entry::default()
    }
}

fn file(path: &[u8], content: Content) -> Entry {
    Entry {
        content: Some(content),
        ..entry(path, EntryType::Regular)
    }
}

fn add(writer: &mut BackupWriter, path: &str, mut data: &[u8]) -> Done<()> {
    let content = writer.write_content(&mut data)?;
    writer.add(file(path.as_bytes(), content))?;
    Ok(())
}

fn folder(writer: &mut BackupWriter, path: &str) -> Done<()> {
    Ok(writer.add(entry(path.as_bytes(), EntryType::Directory))?)
}

/// Bytes that do not compress.
fn noise(seed: u8, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new_keyed(&[seed; 32])
        .finalize_xof()
        .fill(&mut out);
    out
}

fn text(lines: usize) -> Vec<u8> {
    let line = |n| format!("line {n}: {}\n", hex::encode(noise(n as u8, n % 40)));
    (0..lines).flat_map(|n| line(n).into_bytes()).collect()
}

fn fill_first(writer: &mut BackupWriter) -> Done<()> {
    folder(writer, "")?;
    add(writer, "empty", b"")?;
    folder(writer, "links")?;
    add(writer, "links/a", &text(300))?;
    let hard = Entry {
        link_target: b"links/a".to_vec(),
        ..entry(b"links/b", EntryType::HardLink)
    };
    writer.add(hard)?;
    for (name, target) in [("dangling", "../nowhere"), ("soft", "a")] {
        let soft = Entry {
            link_target: target.into(),
            mode: 0o777,
            ..entry(format!("links/{name}").as_bytes(), EntryType::Symlink)
        };
        writer.add(soft)?;
    }
    add(writer, "noise", &noise(7, 20_000))?;
    add(writer, "short", b"stands inside its entry")?;
    add(writer, "text", &text(2000))?;
    Ok(())
}

fn fill_doomed(writer: &mut BackupWriter) -> Done<()> {
    folder(writer, "")?;
    add(writer, "doomed", &noise(9, 9_000))
}

fn fill_second(writer: &mut BackupWriter) -> Done<()> {
    let mut root = entry(b"", EntryType::Directory);
    root.mode = 0o750;
    writer.add(root)?;
    folder(writer, "devices")?;
    for (name, entry_type, major) in [
        ("block", EntryType::BlockDevice, 7),
        ("character", EntryType::CharacterDevice, 1),
        ("pipe", EntryType::Fifo, 0),
    ] {
        let device = Entry {
            device_major: major,
            device_minor: major * 3,
            ..entry(format!("devices/{name}").as_bytes(), entry_type)
        };
        writer.add(device)?;
    }
    let many = many_chunks(writer)?;
    writer.add(file(b"many-chunks", many))?;
    let old = Entry {
        mode: 0o6755,
        mtime_seconds: -1,
        mtime_nanos: 1,
        ..file(
            b"names \xff\xfe",
            writer.write_content(&mut &b"not UTF-8"[..])?,
        )
    };
    writer.add(old)?;
    add(writer, "noise", &noise(7, 20_000))?;
    folder(writer, "sparse")?;
    let content = writer.write_sparse(1 << 20, &[], &mut &b""[..])?;
    writer.add(file(b"sparse/hole", content))?;
    let runs = [(4096, 8192), (1 << 20, 4096)].map(|(offset_bytes, length_bytes)| DataRun {
        offset_bytes,
        length_bytes,
    });
    let data = text(500);
    let content = writer.write_sparse(3 << 20, &runs, &mut &data[..12288])?;
    writer.add(file(b"sparse/runs", content))?;
    add(writer, "text", &text(2100))?;
    let mut attributes = file(
        b"xattrs",
        writer.write_content(&mut &b"with attributes"[..])?,
    );
    for (name, value) in [("user.empty", &b""[..]), ("user.note", b"\x00\x01 bytes")] {
        attributes.xattrs.push(Xattr {
            name: name.into(),
            value: value.to_vec(),
        });
    }
    writer.add(attributes)?;
    writer.set_runtime(runtime());
    Ok(())
}

/// A content of so many chunks that it needs lists of ids: blocks of the same text,
/// each with its own number.
fn many_chunks(writer: &mut BackupWriter) -> Done<Content> {
    let block: Vec<u8> = noise(3, 4096)
        .iter()
        .flat_map(|byte| [0, 2, 4, 6].map(|shift| b'a' + (byte >> shift & 3)))
        .collect();
    let mut data = Vec::with_capacity(block.len() * MANY);
    for number in 0..MANY {
        data.extend_from_slice(&block);
        data.extend_from_slice(&(number as u32).to_be_bytes());
    }
    let content = writer.write_content(&mut &data[..])?;
    if content.depth > 0 {
        return Ok(content);
    }
    // Where a list ends depends on ids, and these on keys that are random.
    Err(NOT_DEEP.into())
}

fn runtime() -> RuntimeDocument {
    RuntimeDocument {
        image: "example/agent:1".to_owned(),
        image_id: "sha256:0000".to_owned(),
        container_name: "golden".to_owned(),
        inspect_json: br#"{"Config":{"Env":["A=1"]}}"#.to_vec(),
        mounts: vec![MountDocument {
            r#type: "volume".to_owned(),
            source: "data".to_owned(),
            target: "/data".to_owned(),
            driver: "local".to_owned(),
            captured: true,
            ..MountDocument::default()
        }],
        captured_paths: vec![b"/data".to_vec()],
        was_running: true,
        ..RuntimeDocument::default()
    }
}
