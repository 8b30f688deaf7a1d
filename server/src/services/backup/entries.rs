//! What a backup holds, page by page.

use std::{sync::Arc, time::Instant};

use prost::Message as _;
use proto::backup::v1::{ListBackupEntriesRequest, ListBackupEntriesResponse};
use vault::BackupReader;

use super::{
    manage::the_backup,
    reading::{Readable, read},
};
use crate::{
    convert,
    page::{Listing, RESPONSE_BYTES_MAX},
    services::{Call, READ_BUDGET},
    state::State,
    status::ApiError,
    validation::{Checks, ENTRY_PAGE_DEFAULT},
};

pub(super) async fn list(
    state: &Arc<State>,
    call: Call<ListBackupEntriesRequest>,
) -> Result<ListBackupEntriesResponse, ApiError> {
    let request = call.message;
    let mut checks = Checks::new();
    checks.id("backup_id", &request.backup_id);
    checks.entry_path("path_prefix", &request.path_prefix);
    let limit = checks.page_size(request.page_size, ENTRY_PAGE_DEFAULT);
    checks.page_token(&request.page_token);
    checks.optional_id("destination_id", &request.destination_id);
    checks.done()?;
    let backup = the_backup(state, &call.caller, &request.backup_id).await?;
    let listing = Listing::new(
        "entries",
        [
            request.backup_id.as_bytes(),
            &request.path_prefix,
            &[u8::from(request.recursive)],
        ],
    );
    let after = listing.open(&request.page_token)?;
    let wanted = Wanted {
        prefix: request.path_prefix,
        recursive: request.recursive,
        after,
        limit: limit as usize,
    };
    let page = read(
        state,
        Readable::new(&backup, &request.destination_id)?,
        "ListBackupEntries",
        move |reader| wanted.read(&reader),
    )
    .await?;
    Ok(ListBackupEntriesResponse {
        entries: page.entries,
        next_page_token: page
            .next
            .map_or_else(String::new, |path| listing.token(&path)),
    })
}

struct Wanted {
    prefix: Vec<u8>,
    recursive: bool,
    after: Option<Vec<u8>>,
    limit: usize,
}

struct EntryPage {
    entries: Vec<proto::backup::v1::BackupEntry>,
    /// The path to go on after.
    next: Option<Vec<u8>>,
}

impl Wanted {
    /// Blocks.
    fn read(self, reader: &BackupReader) -> Result<EntryPage, ApiError> {
        let begun = Instant::now();
        let mut entries = Vec::new();
        let mut bytes = 0;
        let from = match &self.after {
            Some(after) => Some(after.as_slice()),
            None if self.prefix.is_empty() => None,
            None => {
                let Some(first) = reader.find(&self.prefix)? else {
                    return Ok(EntryPage {
                        entries,
                        next: None,
                    });
                };
                entries.push(convert::entry(&first));
                Some(self.prefix.as_slice())
            }
        };
        // Where a next page goes on: after the last path that was looked at.
        let mut seen: Option<Vec<u8>> = from.map(<[u8]>::to_vec);
        for entry in reader.entries(from)? {
            let entry = entry?;
            if !lies_under(&entry.path, &self.prefix) {
                return Ok(EntryPage {
                    entries,
                    next: None,
                });
            }
            let full = entries.len() >= self.limit
                || bytes >= RESPONSE_BYTES_MAX
                || begun.elapsed() >= READ_BUDGET;
            if full && seen.is_some() {
                return Ok(EntryPage {
                    entries,
                    next: seen,
                });
            }
            if self.recursive || is_shallow(&entry.path, &self.prefix) {
                let shown = convert::entry(&entry);
                bytes += shown.encoded_len();
                entries.push(shown);
            }
            seen = Some(entry.path);
        }
        Ok(EntryPage {
            entries,
            next: None,
        })
    }
}

/// Whether a path is the prefix or lies under it.
fn lies_under(path: &[u8], prefix: &[u8]) -> bool {
    prefix.is_empty()
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Whether a path that lies under the prefix is the prefix itself or its direct child.
fn is_shallow(path: &[u8], prefix: &[u8]) -> bool {
    let rest = &path[prefix.len()..];
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    !rest.contains(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_told_from_grandchildren() {
        for (path, prefix, under, shallow) in [
            ("", "", true, true),
            ("a", "", true, true),
            ("a/b", "", true, false),
            ("a", "a", true, true),
            ("a/b", "a", true, true),
            ("a/b/c", "a", true, false),
            ("a/b/c", "a/b", true, true),
            ("ab", "a", false, false),
        ] {
            let (path, prefix) = (path.as_bytes(), prefix.as_bytes());
            assert_eq!(lies_under(path, prefix), under, "{path:?} {prefix:?}");
            if under {
                assert_eq!(is_shallow(path, prefix), shallow, "{path:?} {prefix:?}");
            }
        }
    }
}
