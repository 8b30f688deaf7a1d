//! Where the records of an entry stream begin again after a part of it was lost.
//!
//! Records are not aligned to chunks, so the beginning of the first whole record
//! is looked for: it is where a chain of records begins that are all entries, in
//! path order, up to the end of what is there. What is found is no less checked
//! than any entry: its contents are named by ids that only the vault's key makes.

use prost::Message as _;
use proto::vault::v1::Entry;

use super::entries::{check_entry, read_length};
use crate::{
    id::{check_path, compare_paths},
    limits::ENTRY_BYTES_MAX,
};

/// What is kept of bytes in which no record began, to be looked at again with those
/// that follow.
pub(super) const KEPT_BYTES: usize = 1024 * 1024;

/// The offset at which records begin again; `is_end` says that nothing follows.
pub(super) fn find(bytes: &[u8], last_path: Option<&[u8]>, is_end: bool) -> Option<usize> {
    (0..bytes.len()).find(|start| is_chain(&bytes[*start..], last_path, is_end))
}

fn is_chain(mut rest: &[u8], last_path: Option<&[u8]>, is_end: bool) -> bool {
    let mut last = last_path.map(<[u8]>::to_vec);
    let mut records = 0;
    while !rest.is_empty() {
        let Some((length, prefix)) = read_length(rest) else {
            return !is_end && records > 1;
        };
        if prefix == 0 || length == 0 || length > ENTRY_BYTES_MAX as u64 {
            return false;
        }
        let Some(record) = rest.get(prefix..prefix + length as usize) else {
            return !is_end && records > 1;
        };
        let Ok(entry) = Entry::decode(record) else {
            return false;
        };
        let in_order = last
            .as_deref()
            .is_none_or(|last| compare_paths(last, &entry.path).is_lt());
        if !in_order || check_path(&entry.path).is_err() || check_entry(&entry).is_err() {
            return false;
        }
        last = Some(entry.path);
        records += 1;
        rest = &rest[prefix + length as usize..];
    }
    records > 0
}

#[cfg(test)]
mod tests {
    use proto::vault::v1::{Content, EntryType, Xattr};

    use super::*;

    fn record(path: &str) -> Vec<u8> {
        Entry {
            path: path.into(),
            r#type: EntryType::Regular.into(),
            mode: 0o644,
            xattrs: vec![Xattr {
                name: b"user.note".to_vec(),
                value: b"a value".to_vec(),
            }],
            content: Some(Content {
                size_bytes: 5,
                inline: b"hello".to_vec(),
                ..Content::default()
            }),
            ..Entry::default()
        }
        .encode_length_delimited_to_vec()
    }

    #[test]
    fn the_next_whole_record_is_found_wherever_the_bytes_begin() {
        let records: Vec<Vec<u8>> = ["a", "a/b", "c", "d/é", "e"].map(record).to_vec();
        let whole = records.concat();
        let starts: Vec<usize> = records
            .iter()
            .scan(0, |at, record| {
                let start = *at;
                *at += record.len();
                Some(start)
            })
            .collect();
        for cut in 1..whole.len() {
            let expected = starts.iter().find(|start| **start >= cut);
            assert_eq!(
                find(&whole[cut..], None, true).map(|at| at + cut),
                expected.copied(),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn one_record_before_an_unfinished_one_is_not_enough() {
        let two = [record("a"), record("b")].concat();
        assert_eq!(find(&two[..two.len() - 3], None, false), None);
        let three = [record("a"), record("b"), record("c")].concat();
        assert_eq!(find(&three[..three.len() - 3], None, false), Some(0));
        // What comes before the last known path is not what follows it.
        assert_eq!(find(&two, Some(b"x"), true), None);
    }
}
