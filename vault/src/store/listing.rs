//! Listings through OpenDAL, for every store that is reached by it.

use std::time::{SystemTime, UNIX_EPOCH};

use futures::TryStreamExt as _;
use opendal::{Entry, EntryMode, ErrorKind, Metadata, Operator};

use super::Listed;
use crate::error::StoreError;

/// What lies directly under a prefix; nothing when the prefix is not there.
pub(super) async fn entries(
    operator: &Operator,
    prefix: &str,
    failed: impl Fn(&'static str, &str, &opendal::Error) -> StoreError,
) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    let listed: Result<(), opendal::Error> = async {
        let mut lister = operator.lister(prefix).await?;
        while let Some(entry) = lister.try_next().await? {
            entries.push(entry);
        }
        Ok(())
    }
    .await;
    match listed {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(entries),
        Err(e) => Err(failed("list", prefix, &e)),
        Ok(()) => Ok(entries),
    }
}

/// An entry that is an object.
pub(super) fn object(entry: &Entry) -> Option<Listed> {
    is_object(entry).then(|| listed(entry.path(), entry.metadata()))
}

/// Whether an entry is an object.
pub(super) fn is_object(entry: &Entry) -> bool {
    entry.metadata().mode() == EntryMode::FILE
}

/// An object with what is known of it.
pub(super) fn listed(name: &str, metadata: &Metadata) -> Listed {
    Listed {
        name: name.to_owned(),
        bytes: metadata.content_length(),
        modify_time_ms: metadata
            .last_modified()
            .and_then(|time| SystemTime::from(time).duration_since(UNIX_EPOCH).ok())
            .map(|d| d.as_millis() as i64),
    }
}

/// The names of the "folders" among the entries.
pub(super) fn folders(entries: &[Entry], prefix: &str) -> Vec<String> {
    entries
        .iter()
        .filter(|entry| entry.metadata().mode() == EntryMode::DIR)
        .filter_map(|entry| {
            let name = entry.path().strip_prefix(prefix)?.trim_end_matches('/');
            (!name.is_empty()).then(|| name.to_owned())
        })
        .collect()
}
