//! A test of a destination: what backups do there, with a small object, step by step.

use std::time::Duration;

use bytes::Bytes;
use proto::backup::v1::{Destination, destination::Kind};
use tokio::time::{Instant, timeout};

use crate::{
    error::{StoreError, StoreErrorKind},
    random,
    store::Store,
};

/// How long a step may take before it counts as failed.
const STEP_MAX: Duration = Duration::from_secs(20);
/// Where interrupted probes are swept.
const FOLDER: &str = ".nora-tmp/";
const PROBE: &[u8] = b"nora-backup probe";
const ANOTHER: &[u8] = b"nora-backup probe, replaced";

/// A step of a test.
#[derive(Debug, Clone)]
pub struct ProbeStep {
    /// What was done: "connect", "write", "read", "list", "rename" or "delete".
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// Why it failed.
    pub failure: Option<StoreError>,
}

/// Tries a destination; the steps up to the first that failed.
pub async fn probe(destination: &Destination, store: &dyn Store) -> Vec<ProbeStep> {
    let object = format!("{FOLDER}probe-{}", hex::encode(random::bytes::<8>()));
    let mut steps = Vec::new();
    let mut written = false;
    for name in ["connect", "write", "read", "list", "rename", "delete"] {
        if name == "rename" && !has_renames(destination) {
            continue;
        }
        let began = Instant::now();
        written |= name == "write";
        let done = timeout(STEP_MAX, step(name, store, &object)).await;
        let failure = done.unwrap_or_else(|_| Err(late(name, &object))).err();
        let failed = failure.is_some();
        steps.push(ProbeStep {
            name,
            took: began.elapsed(),
            failure,
        });
        if failed {
            break;
        }
    }
    let left = steps.last().is_some_and(|last| last.failure.is_some());
    if left && written {
        // What failed is told already; what is left is swept.
        let _ = timeout(STEP_MAX, store.delete(&object)).await;
    }
    steps
}

/// Whether what is complete gets its name by a rename there.
fn has_renames(destination: &Destination) -> bool {
    matches!(destination.kind, Some(Kind::Local(_) | Kind::Ssh(_)) | None)
}

async fn step(name: &str, store: &dyn Store, object: &str) -> Result<(), StoreError> {
    match name {
        "connect" => store.stat(object).await.map(drop),
        "write" => store.put(object, Bytes::from_static(PROBE)).await,
        "read" => expect(store, object, PROBE).await,
        "list" => {
            let listed = store.list(FOLDER).await?;
            let found = listed.iter().any(|one| one.name == object);
            found.then_some(()).ok_or_else(|| wrong("list", object))
        }
        // What is stored is put under a hidden name and takes the place of what is there.
        "rename" => {
            store.put(object, Bytes::from_static(ANOTHER)).await?;
            expect(store, object, ANOTHER).await
        }
        _ => {
            store.delete(object).await?;
            let left = store.stat(object).await?;
            left.map_or(Ok(()), |_| Err(wrong("delete", object)))
        }
    }
}

async fn expect(store: &dyn Store, object: &str, wanted: &[u8]) -> Result<(), StoreError> {
    let read = store.get(object, ANOTHER.len() as u64).await?;
    (read == wanted)
        .then_some(())
        .ok_or_else(|| wrong("read", object))
}

fn wrong(action: &'static str, object: &str) -> StoreError {
    StoreError {
        action,
        object: object.to_owned(),
        kind: StoreErrorKind::Corrupt,
        detail: "it does not show what was done just before; see that no cache and no other copy \
                 of the place answers"
            .to_owned(),
    }
}

fn late(action: &'static str, object: &str) -> StoreError {
    StoreError {
        action,
        object: object.to_owned(),
        kind: StoreErrorKind::Timeout,
        detail: format!(
            "no answer within {} s; see that it can be reached from this server",
            STEP_MAX.as_secs()
        ),
    }
}

#[cfg(test)]
mod tests {
    use proto::backup::v1::{LocalDestination, S3Destination};

    use super::*;
    use crate::store::OpendalStore;

    #[tokio::test]
    async fn every_step_is_told_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let store = OpendalStore::local(folder.path()).unwrap();
        let described = |kind| Destination {
            kind: Some(kind),
            ..Destination::default()
        };
        let local = described(Kind::Local(LocalDestination::default()));
        let steps = probe(&local, &store).await;
        let names: Vec<_> = steps.iter().map(|step| step.name).collect();
        assert_eq!(
            names,
            ["connect", "write", "read", "list", "rename", "delete"]
        );
        assert!(steps.iter().all(|step| step.failure.is_none()), "{steps:?}");
        assert_eq!(store.list(FOLDER).await.unwrap(), []);
        let s3 = described(Kind::S3(S3Destination::default()));
        assert_eq!(probe(&s3, &store).await.len(), 5);
    }
}
