//! Chunk ids, and the order of paths.

use std::cmp::Ordering;

use crate::limits::{CHUNK_ID_BYTES, NAME_BYTES_MAX, PATH_BYTES_MAX};

/// What a chunk is called: the first 128 bits of keyed BLAKE3 of its bytes. The
/// key is a secret of the vault, so nobody can search for two chunks of one name.
pub(crate) type ChunkId = [u8; CHUNK_ID_BYTES];

/// The order of entries: component by component, each component bytewise.
pub fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    // '/' sorts before every byte that a name can hold.
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// What is wrong with a path, if anything: an entry's path is relative, without
/// empty, `.` or `..` components.
pub fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > PATH_BYTES_MAX {
        return Err("its path is too long");
    }
    if path.contains(&0) {
        return Err("its path holds a NUL byte");
    }
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" => return Err("its path has an empty component or a '/' at an end"),
            b"." | b".." => return Err("its path has a '.' or '..' component"),
            long if long.len() > NAME_BYTES_MAX => {
                return Err("a component of its path is too long");
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_comes_before_its_contents_and_these_before_its_sibling() {
        let mut paths: Vec<&[u8]> = vec![b"a.b", b"a/x", b"a", b"", b"a b", b"b", b"a/x/y"];
        paths.sort_by(|a, b| compare_paths(a, b));
        assert_eq!(
            paths,
            [&b""[..], b"a", b"a/x", b"a/x/y", b"a b", b"a.b", b"b"]
        );
    }

    #[test]
    fn unsafe_paths_are_refused() {
        for path in [
            &b"/a"[..],
            b"a/",
            b"a//b",
            b".",
            b"..",
            b"a/../b",
            b"a\0b",
            &[b'a'; 256],
        ] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        assert!(check_path(b"").is_ok());
        assert!(check_path(b"a/..b/\xff").is_ok());
    }
}
