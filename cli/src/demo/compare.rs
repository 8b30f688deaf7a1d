//! Compares two folders: every byte, mode, owner, time, link and hole.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::Path,
};

use crate::output::human;

/// How many differences are named.
const NAMED_MAX: usize = 10;
/// How much is compared at once.
const BUFFER_BYTES: usize = 128 << 10;

/// What differs.
#[derive(Debug, Default)]
pub struct Differences {
    /// The first of them.
    pub lines: Vec<String>,
    /// How many there are.
    pub total: usize,
    /// Bytes of contents that were compared.
    pub bytes: u64,
}

impl Differences {
    /// Notes one.
    pub fn add(&mut self, path: &[u8], what: impl AsRef<str>) {
        self.total += 1;
        if self.lines.len() < NAMED_MAX {
            let path = human::printable(&String::from_utf8_lossy(path));
            let path = if path.is_empty() {
                "the folder itself".to_string()
            } else {
                path
            };
            self.lines.push(format!("{path}: {}", what.as_ref()));
        }
    }
}

/// One entry of a folder, contents aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    kind: &'static str,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: (i64, i64),
    link: Option<OsString>,
    same_file_as: Option<Vec<u8>>,
    has_holes: bool,
    xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// Everything in a folder by its path; the folder itself is the empty path.
pub fn entries(root: &Path) -> io::Result<BTreeMap<Vec<u8>, Entry>> {
    let mut found = BTreeMap::new();
    list(root, &[], &mut found)?;
    // The first name of a file stands for it.
    let mut first: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    for (path, entry) in &mut found {
        let metadata = root.join(OsStr::from_bytes(path)).symlink_metadata()?;
        if metadata.is_file() && metadata.nlink() > 1 {
            let name = first
                .entry((metadata.dev(), metadata.ino()))
                .or_insert_with(|| path.clone());
            entry.same_file_as = Some(name.clone());
        }
    }
    Ok(found)
}

fn list(root: &Path, path: &[u8], found: &mut BTreeMap<Vec<u8>, Entry>) -> io::Result<()> {
    let full = root.join(OsStr::from_bytes(path));
    let metadata = full.symlink_metadata()?;
    let kind = metadata.file_type();
    let entry = Entry {
        kind: match () {
            () if kind.is_dir() => "a folder",
            () if kind.is_file() => "a file",
            () if kind.is_symlink() => "a symbolic link",
            () if kind.is_fifo() => "a pipe",
            () => "a device",
        },
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: if kind.is_file() { metadata.len() } else { 0 },
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        link: if kind.is_symlink() {
            Some(fs::read_link(&full)?.into_os_string())
        } else {
            None
        },
        same_file_as: None,
        has_holes: kind.is_file() && metadata.blocks() * 512 + (1 << 20) < metadata.len(),
        xattrs: if kind.is_symlink() {
            BTreeMap::new()
        } else {
            xattrs(&full)
        },
    };
    let is_dir = kind.is_dir();
    found.insert(path.to_vec(), entry);
    if is_dir {
        for child in fs::read_dir(&full)? {
            let name = child?.file_name().into_vec();
            let joined = if path.is_empty() {
                name
            } else {
                [path, b"/", &name].concat()
            };
            list(root, &joined, found)?;
        }
    }
    Ok(())
}

/// The user's attributes; a file system that has none gives none.
fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0_u8; 4096];
    let Ok(length) = rustix::fs::llistxattr(path, names.as_mut_slice()) else {
        return BTreeMap::new();
    };
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user."))
        .filter_map(|name| {
            let name = OsStr::from_bytes(name);
            let mut value = vec![0_u8; 4096];
            let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
            value.truncate(length);
            Some((name.to_os_string(), value))
        })
        .collect()
}

/// What `b` has otherwise than `a`.
pub fn differences(a: &Path, b: &Path) -> io::Result<Differences> {
    let (in_a, in_b) = (entries(a)?, entries(b)?);
    let mut found = Differences::default();
    for (path, left) in &in_a {
        let Some(right) = in_b.get(path) else {
            found.add(path, format!("{} that is missing", left.kind));
            continue;
        };
        compare(path, left, right, &mut found);
        if left.kind == "a file" && right.kind == "a file" && left.size == right.size {
            let name = OsStr::from_bytes(path);
            let same = same_bytes(File::open(a.join(name))?, File::open(b.join(name))?)?;
            found.bytes += left.size;
            if !same {
                found.add(path, "other contents");
            }
        }
    }
    for (path, right) in in_b.iter().filter(|(path, _)| !in_a.contains_key(*path)) {
        found.add(path, format!("{} that was not there", right.kind));
    }
    Ok(found)
}

fn compare(path: &[u8], a: &Entry, b: &Entry, found: &mut Differences) {
    if a.kind != b.kind {
        return found.add(path, format!("{} is now {}", a.kind, b.kind));
    }
    if a.mode != b.mode {
        found.add(path, format!("mode {:o} is now {:o}", a.mode, b.mode));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        found.add(
            path,
            format!("owner {}:{} is now {}:{}", a.uid, a.gid, b.uid, b.gid),
        );
    }
    if a.size != b.size {
        found.add(path, format!("{} bytes are now {}", a.size, b.size));
    }
    if a.mtime != b.mtime {
        let (old, new) = (a.mtime, b.mtime);
        found.add(
            path,
            format!("time {}.{:09} is now {}.{:09}", old.0, old.1, new.0, new.1),
        );
    }
    if a.link != b.link {
        found.add(path, format!("link to {:?} is now to {:?}", a.link, b.link));
    }
    if a.same_file_as != b.same_file_as {
        found.add(path, "the hard links of it are others");
    }
    if a.has_holes && !b.has_holes {
        found.add(path, "its holes are filled");
    }
    if a.xattrs != b.xattrs {
        found.add(path, "its attributes are others");
    }
}

/// Whether two readers give the same bytes.
pub fn same_bytes(mut a: impl Read, mut b: impl Read) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0_u8; BUFFER_BYTES], vec![0_u8; BUFFER_BYTES]);
    loop {
        let length = fill(&mut a, &mut left)?;
        if length != fill(&mut b, &mut right)? || left[..length] != right[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match reader.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn every_kind_of_difference_is_found() {
        let scratch = tempfile::tempdir().expect("folder");
        let (a, b) = (scratch.path().join("a"), scratch.path().join("b"));
        for root in [&a, &b] {
            fs::create_dir(root).expect("folder");
            for name in ["bytes", "mode", "gone", "linked"] {
                fs::write(root.join(name), "same").expect("write");
            }
            for path in ["bytes", "mode", "linked", "gone", ""] {
                let file = File::open(root.join(path)).expect("open");
                file.set_modified(std::time::SystemTime::UNIX_EPOCH)
                    .expect("time");
            }
        }
        assert_eq!(differences(&a, &b).expect("compare").total, 0);
        fs::write(b.join("bytes"), "SAME").expect("write");
        fs::set_permissions(b.join("mode"), Permissions::from_mode(0o600)).expect("mode");
        fs::remove_file(b.join("gone")).expect("remove");
        fs::hard_link(b.join("linked"), b.join("new")).expect("link");
        let found = differences(&a, &b).expect("compare");
        let text = found.lines.join("\n");
        for part in [
            "bytes: other contents",
            "bytes: time",
            "mode: mode 644 is now 600",
            "gone: a file that is missing",
            "linked: the hard links",
            "new: a file that was not there",
            "the folder itself: time",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
