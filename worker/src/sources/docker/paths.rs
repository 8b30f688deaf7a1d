//! Paths in a container: absolute for the engine, relative to the root in a backup.

/// As a backup has it: components joined by '/', none empty, `.` or `..`; the root is empty.
pub(crate) fn relative(absolute: &str) -> Vec<u8> {
    let mut components: Vec<&str> = Vec::new();
    for component in absolute.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()),
            name => components.push(name),
        }
    }
    components.join("/").into_bytes()
}

/// As the engine takes it. Only asked for paths that are text.
pub(crate) fn absolute(relative: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(relative))
}

/// Whether `path` is `base`, or lies under it.
pub(crate) fn is_within(path: &[u8], base: &[u8]) -> bool {
    base.is_empty()
        || path
            .strip_prefix(base)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The folder that holds a path; `None` for the root.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    let slash = path.iter().rposition(|byte| *byte == b'/');
    Some(slash.map_or(&[][..], |slash| &path[..slash]))
}

/// A path's last component.
pub(crate) fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// A path with a further component.
pub(crate) fn join(folder: &[u8], rest: &[u8]) -> Vec<u8> {
    match (folder, rest) {
        ([], rest) => rest.to_vec(),
        (folder, []) => folder.to_vec(),
        (folder, rest) => [folder, b"/", rest].concat(),
    }
}

/// A path as the engine writes it in JSON: every byte that is not part of UTF-8 becomes U+FFFD.
pub(crate) fn as_in_json(path: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.extend_from_slice(chunk.valid().as_bytes());
        for _ in chunk.invalid() {
            text.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(relative("/a//b/./c/"), b"a/b/c");
        assert_eq!(relative("/a/../../b"), b"b");
        assert_eq!(relative("/"), b"");
        assert_eq!(absolute(b"a/b"), "/a/b");
        assert_eq!(absolute(b""), "/");
        assert_eq!(parent(b"a/b"), Some(&b"a"[..]));
        assert_eq!(parent(b"a"), Some(&b""[..]));
        assert_eq!(parent(b""), None);
        assert_eq!(base_name(b"a/b"), b"b");
        assert_eq!(join(b"", b"x"), b"x");
        assert_eq!(join(b"a", b"x/y"), b"a/x/y");
        assert_eq!(join(b"a", b""), b"a");
    }

    #[test]
    fn within_goes_by_components() {
        assert!(is_within(b"a/b", b"a"));
        assert!(is_within(b"a", b"a"));
        assert!(is_within(b"a", b""));
        assert!(!is_within(b"ab", b"a"));
        assert!(!is_within(b"a", b"a/b"));
    }

    #[test]
    fn each_odd_byte_becomes_one_mark() {
        assert_eq!(
            as_in_json(b"a\xff\xe2\x82b"),
            "a\u{fffd}\u{fffd}\u{fffd}b".as_bytes()
        );
    }
}
