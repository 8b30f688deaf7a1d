//! What backups must survive at every destination: each call fails once.

use std::{collections::BTreeMap, io::Cursor, io::Read as _, sync::Arc};

use futures::{StreamExt as _, stream};
use proto::vault::v1::{Entry, EntryType};
use tokio_util::sync::CancellationToken;

use super::{
    super::Store,
    faulty::FaultyStore,
    plan::{Call, Calls, Fault, FaultPlan, Rule, When},
};
use crate::{
    BackupSpec, KeyEncryptionKey, Keyring, ManifestRef, Result, Vault, VaultError, VaultSettings,
};

/// Vaults at work at once.
const CASES_AT_ONCE: usize = 6;

type Tree = BTreeMap<String, Vec<u8>>;

/// Makes a backup of a small vault again and again, each time with another one of its
/// calls failing (an error, a timeout; of those that change something, also when they
/// were done). Checks that what failed says that it may be tried again, that the backup
/// before it is whole, that the next attempt succeeds, and that it stores no pack again.
/// Returns how many calls failed.
///
/// # Panics
///
/// When it is otherwise.
pub async fn each_call_fails_once(store: Arc<dyn Store>) -> usize {
    let mut failed = 0;
    // How many calls there are shows when a fault finds none.
    for first in (0..).step_by(CASES_AT_ONCE) {
        let numbers = first..first + CASES_AT_ONCE;
        let cases = numbers.map(|number| call_fails(&store, number));
        let met: Vec<usize> = stream::iter(cases)
            .buffer_unordered(CASES_AT_ONCE)
            .collect()
            .await;
        failed += met.iter().sum::<usize>();
        if met.contains(&0) {
            break;
        }
    }
    failed
}

/// The faults of one call; how many there were.
async fn call_fails(store: &Arc<dyn Store>, number: usize) -> usize {
    let faults = [
        Fault::Error,
        Fault::Timeout,
        Fault::ErrorButDone,
        Fault::TimeoutButDone,
    ];
    let mut met = 0;
    for (sort, fault) in faults.into_iter().enumerate() {
        let shown = format!("call {number}: {fault:?}");
        let agent = format!("f{number}-{sort}");
        let Some(call) = one_case(store, &agent, number, fault, &shown).await else {
            break;
        };
        met += 1;
        // A read that was done and is told to have failed is one that failed.
        if !matches!(call, Call::Put | Call::Delete) && sort == 1 {
            break;
        }
    }
    met
}

async fn one_case(
    store: &Arc<dyn Store>,
    agent: &str,
    number: usize,
    fault: Fault,
    shown: &str,
) -> Option<Call> {
    let tree = |files: &[(&str, u64, usize)]| -> Tree {
        let file = |(name, seed, bytes): &(&str, u64, usize)| {
            let mut content = vec![0; *bytes];
            blake3::Hasher::new()
                .update(&seed.to_le_bytes())
                .finalize_xof()
                .fill(&mut content);
            ((*name).to_owned(), content)
        };
        files.iter().map(file).collect()
    };
    let earlier = tree(&[("a", 1, 60_000), ("b", 2, 60_000)]);
    let later = tree(&[("a", 1, 60_000), ("c", 3, 90_000), ("d", 4, 100)]);
    let first = back_up(store, agent, "one", 1, &earlier).await;
    let first = first.unwrap_or_else(|e| panic!("{shown}, before it: {e}"));

    let when = When::Nth(number as u64);
    let plan = FaultPlan::once(Rule::new(Calls::Any, when, fault));
    let faulty = FaultyStore::new(store.clone(), plan);
    let attempt = back_up(&(faulty.clone() as _), agent, "two", 1, &later).await;
    let call = faulty.struck().first().map(|(call, _)| *call);
    let shown = format!("{shown} ({:?})", faulty.struck());
    let last = match attempt {
        Ok(done) => done,
        Err(error) => {
            assert!(call.is_some(), "{shown}: {error}");
            assert!(error.is_retryable(), "{shown}: {error}");
            assert_holds(store, agent, &first, &earlier, &shown).await;
            let again = back_up(store, agent, "two", 2, &later).await;
            let again = again.unwrap_or_else(|e| panic!("{shown}, again: {e}"));
            // A pack that was there already is used.
            assert_eq!(packs(store, agent).await, 2, "{shown}");
            again
        }
    };
    assert_holds(store, agent, &first, &earlier, &shown).await;
    assert_holds(store, agent, &last, &later, &shown).await;
    call
}

async fn packs(store: &Arc<dyn Store>, agent: &str) -> usize {
    let listed = store.list(&format!("vaults/{agent}/packs/")).await;
    listed.expect("list").len()
}

async fn open(store: &Arc<dyn Store>, agent: &str) -> Result<Vault> {
    let keyring = Keyring::new(KeyEncryptionKey::new([5; 32]), vec![]);
    let settings = VaultSettings {
        threads: 1,
        ..VaultSettings::default()
    };
    Vault::open_or_create(store.clone(), agent, &keyring, settings).await
}

async fn back_up(
    store: &Arc<dyn Store>,
    agent: &str,
    backup_id: &str,
    attempt: u32,
    tree: &Tree,
) -> Result<ManifestRef> {
    let vault = open(store, agent).await?;
    let spec = BackupSpec {
        backup_id: backup_id.to_owned(),
        attempt,
        ..BackupSpec::default()
    };
    let begin = vault.begin_backup(spec, CancellationToken::new(), Arc::default());
    let mut writer = begin.await?;
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
        Ok(writer.finish(1)?.manifest)
    };
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

async fn assert_holds(
    store: &Arc<dyn Store>,
    agent: &str,
    at: &ManifestRef,
    tree: &Tree,
    shown: &str,
) {
    let read = restore(store, agent, at).await;
    let read = read.unwrap_or_else(|e| panic!("{shown}: {}: {e}", at.name()));
    assert!(read == *tree, "{shown}: {} holds something else", at.name());
}

async fn restore(store: &Arc<dyn Store>, agent: &str, at: &ManifestRef) -> Result<Tree> {
    let vault = open(store, agent).await?;
    let reader = vault.open_backup(at, CancellationToken::new()).await?;
    let work = move || {
        let mut tree = Tree::new();
        for entry in reader.entries(None)? {
            let entry = entry?;
            let mut bytes = Vec::new();
            if let Some(content) = &entry.content {
                let mut reading = reader.content(content, 0)?;
                let read = reading.read_to_end(&mut bytes);
                read.map_err(VaultError::Sink)?;
            }
            let path = String::from_utf8_lossy(&entry.path);
            tree.insert(path.into_owned(), bytes);
        }
        Ok(tree)
    };
    tokio::task::spawn_blocking(work).await.expect("no panic")
}
