//! Backs up a folder's regular files with the engine alone, reads the newest
//! backup back, and prints figures:
//!
//! ```sh
//! cargo run --release -p nora-backup-vault --example throughput -- SOURCE VAULTS [RUNS]
//! ```

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tokio_util::sync::CancellationToken;
use vault::{
    BackupSpec, BackupWriter, KeyEncryptionKey, Keyring, Meter, OpendalStore, Vault, VaultSettings,
    format::{Entry, EntryType},
};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Fallible<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: throughput SOURCE VAULTS [RUNS]";
    let source = PathBuf::from(args.next().ok_or(usage)?);
    let vaults = fs::canonicalize(args.next().ok_or(usage)?)?;
    let runs: u32 = args.next().map_or(Ok(1), |n| n.parse())?;
    let store = Arc::new(OpendalStore::local(&vaults)?);
    let keyring = Keyring::new(KeyEncryptionKey::new([7; 32]), vec![]);
    let mut previous = None;
    for run in 0..runs {
        let begun = Instant::now();
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let vault = Vault::open_or_create(
            store.clone(),
            "throughput",
            &keyring,
            VaultSettings::default(),
        )
        .await?;
        let spec = BackupSpec {
            backup_id: format!("run-{run}-{}", at.as_nanos()),
            attempt: 1,
            previous: previous.take(),
            ..BackupSpec::default()
        };
        let writer = vault
            .begin_backup(spec, CancellationToken::new(), Arc::new(Meter::default()))
            .await?;
        let source = source.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut writer = writer;
            add_folder(&mut writer, &source, b"")?;
            Fallible::Ok(writer.finish(at.as_millis() as i64)?)
        })
        .await??;
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{seconds:.2} s  {:.0} MB/s  {:?}",
            done.statistics.size_bytes as f64 / 1e6 / seconds,
            done.statistics
        );
        previous = Some(done.manifest);
    }
    let Some(newest) = previous else {
        return Ok(());
    };
    let begun = Instant::now();
    let vault = Vault::open(store, "throughput", &keyring, VaultSettings::default()).await?;
    let reader = vault.open_backup(&newest, CancellationToken::new()).await?;
    let (entries, bytes) = tokio::task::spawn_blocking(move || {
        let mut walk = reader.walk(Arc::new(Meter::default()))?;
        let (mut entries, mut bytes) = (0u64, 0u64);
        while walk.next_entry()?.is_some() {
            entries += 1;
            while let Some((data, _)) = walk.next_data()? {
                bytes += data.len() as u64;
            }
        }
        Fallible::Ok((entries, bytes))
    })
    .await??;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{seconds:.2} s  {:.0} MB/s  read back: {entries} entries, {bytes} bytes",
        bytes as f64 / 1e6 / seconds
    );
    Ok(())
}

fn add_folder(writer: &mut BackupWriter, folder: &Path, path: &[u8]) -> Fallible<()> {
    use std::os::unix::ffi::OsStrExt as _;
    writer.add(Entry {
        path: path.to_vec(),
        r#type: EntryType::Directory.into(),
        mode: 0o755,
        ..Entry::default()
    })?;
    let mut names = fs::read_dir(folder)?
        .map(|e| Ok(e?.file_name()))
        .collect::<std::io::Result<Vec<_>>>()?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    for name in names {
        let mut child = path.to_vec();
        if !child.is_empty() {
            child.push(b'/');
        }
        child.extend_from_slice(name.as_bytes());
        let at = folder.join(&name);
        let kind = fs::symlink_metadata(&at)?.file_type();
        if kind.is_dir() {
            add_folder(writer, &at, &child)?;
        } else if kind.is_file() {
            let content = writer.write_content(&mut fs::File::open(&at)?)?;
            writer.add(Entry {
                path: child,
                r#type: EntryType::Regular.into(),
                mode: 0o644,
                content: Some(content),
                ..Entry::default()
            })?;
        }
    }
    Ok(())
}
