//! Describes a folder so exactly that two can be compared: every byte, mode,
//! owner, time, attribute and link.
//!
//! Works from folder to folder by handle, so no path is too long for it.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::CStr,
    fmt::Write as _,
    fs::File,
    io::Read as _,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, lgetxattr, llistxattr, openat, readlinkat,
    statat,
};

/// Differences that are listed one by one.
const DIFFERENCES_MAX: usize = 30;
/// An extended attribute's value, and the list of names, are at most this long.
const XATTR_BYTES_MAX: usize = 65_536;

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is, with what only this kind has.
    pub kind: Kind,
    /// Permission bits, lower 12.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Modification time, seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file: length and BLAKE3 of its bytes.
    File {
        /// Length in bytes, holes included.
        size: u64,
        /// Of its bytes, in hexadecimal.
        digest: String,
    },
    /// A further name of the file at this path.
    HardLink {
        /// The first name in path order.
        first: Vec<u8>,
    },
    /// A folder.
    Folder,
    /// A symbolic link and where it points.
    Symlink {
        /// As stored in the link.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket; backups leave it out.
    Socket,
    /// A device: whether by characters, major and minor number.
    Device {
        /// Whether a character device; otherwise a block device.
        by_characters: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// A described folder: path relative to it (the root is empty) to entry.
pub type Tree = BTreeMap<Vec<u8>, Node>;

/// Describes a folder and everything in it.
pub fn describe(root: &Path) -> Result<Tree> {
    let folder = openat(CWD, root, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
        .with_context(|| format!("open {}", root.display()))?;
    let mut walk = Walk {
        tree: Tree::new(),
        first_names: HashMap::new(),
    };
    let stat = statat(&folder, c"", AtFlags::EMPTY_PATH)?;
    let node = walk.node(folder.as_fd(), c".", &stat, b"")?;
    walk.tree.insert(Vec::new(), node);
    walk.folder(folder.as_fd(), b"")?;
    Ok(walk.tree)
}

/// What differs, one line each; empty when nothing does.
pub fn differences(expected: &Tree, found: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, node) in expected {
        let name = String::from_utf8_lossy(path);
        match found.get(path) {
            None => lines.push(format!("{name:?} is missing ({:?})", node.kind)),
            Some(other) if other != node => {
                lines.push(format!("{name:?}: {}", difference(node, other)));
            }
            Some(_) => {}
        }
    }
    let extra = found.keys().filter(|path| !expected.contains_key(*path));
    lines.extend(extra.map(|path| {
        format!(
            "{:?} is there and should not be",
            String::from_utf8_lossy(path)
        )
    }));
    lines
}

/// Fails, listing the differences, unless the folders are the same.
#[track_caller]
pub fn assert_same(expected: &Tree, found: &Tree) {
    let lines = differences(expected, found);
    if lines.is_empty() {
        return;
    }
    let mut text = format!("{} differences in {} entries:", lines.len(), expected.len());
    for line in lines.iter().take(DIFFERENCES_MAX) {
        let _ = write!(text, "\n  {line}");
    }
    panic!("{text}");
}

fn difference(expected: &Node, found: &Node) -> String {
    let mut parts = Vec::new();
    if expected.kind != found.kind {
        parts.push(format!("kind {:?}, found {:?}", expected.kind, found.kind));
    }
    if expected.mode != found.mode {
        parts.push(format!("mode {:o}, found {:o}", expected.mode, found.mode));
    }
    if expected.owner != found.owner {
        parts.push(format!(
            "owner {:?}, found {:?}",
            expected.owner, found.owner
        ));
    }
    if expected.mtime != found.mtime {
        parts.push(format!(
            "mtime {:?}, found {:?}",
            expected.mtime, found.mtime
        ));
    }
    if expected.xattrs != found.xattrs {
        let names = |node: &Node| -> Vec<String> {
            node.xattrs
                .iter()
                .map(|(name, value)| format!("{} ({} bytes)", name.escape_ascii(), value.len()))
                .collect()
        };
        parts.push(format!(
            "xattrs {:?}, found {:?}",
            names(expected),
            names(found)
        ));
    }
    parts.join("; ")
}

struct Walk {
    tree: Tree,
    /// Device and inode of files with several names, to the first name met.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl Walk {
    fn folder(&mut self, folder: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let full = if path.is_empty() {
                name.to_bytes().to_vec()
            } else {
                [path, b"/", name.to_bytes()].concat()
            };
            let context = || format!("look at {:?}", String::from_utf8_lossy(&full));
            let stat = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW).with_context(context)?;
            let node = self
                .node(folder, &name, &stat, &full)
                .with_context(context)?;
            let below = matches!(node.kind, Kind::Folder);
            self.tree.insert(full.clone(), node);
            if below {
                self.folder(open(folder, &name, OFlags::DIRECTORY)?.as_fd(), &full)?;
            }
        }
        Ok(())
    }

    fn node(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        path: &[u8],
    ) -> Result<Node> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Symlink {
                target: readlinkat(folder, name, Vec::new())?.into_bytes(),
            },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            other @ (FileType::CharacterDevice | FileType::BlockDevice) => Kind::Device {
                by_characters: other == FileType::CharacterDevice,
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            },
            _ => self.file(folder, name, stat, path)?,
        };
        Ok(Node {
            kind,
            mode: stat.st_mode & 0o7777,
            owner: (stat.st_uid, stat.st_gid),
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec)?),
            xattrs: xattrs(folder, name)?,
        })
    }

    fn file(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        path: &[u8],
    ) -> Result<Kind> {
        if stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.first_names.get(&identity) {
                return Ok(Kind::HardLink {
                    first: first.clone(),
                });
            }
            self.first_names.insert(identity, path.to_vec());
        }
        let mut file = File::from(open(folder, name, OFlags::NOFOLLOW)?);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut size = 0;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(Kind::File {
                    size,
                    digest: hasher.finalize().to_hex().to_string(),
                });
            }
            hasher.update(&buffer[..read]);
            size += read as u64;
        }
    }
}

fn open(folder: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    Ok(openat(
        folder,
        name,
        flags | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn xattrs(folder: BorrowedFd<'_>, name: &CStr) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    // There is no call with a folder's handle: the handle's own path stands in.
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let mut names = vec![0; XATTR_BYTES_MAX];
    let length = match llistxattr(path.as_slice(), &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(cause) => return Err(cause.into()),
    };
    let mut all = BTreeMap::new();
    for attribute in names[..length]
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
    {
        let mut value = vec![0; XATTR_BYTES_MAX];
        let length = lgetxattr(path.as_slice(), attribute, &mut value)?;
        value.truncate(length);
        all.insert(attribute.to_vec(), value);
    }
    Ok(all)
}

/// Blocks that a file takes on disk, in bytes.
pub fn allocated_bytes(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(path
        .metadata()
        .with_context(|| format!("look at {}", path.display()))?
        .blocks()
        * 512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, place};

    #[test]
    fn a_folder_equals_itself_and_every_change_is_seen() {
        let scratch = place::scratch("tree");
        let root = scratch.path().join("agent");
        fixture::every_kind(&root).unwrap();
        let before = describe(&root).unwrap();
        assert_same(&before, &describe(&root).unwrap());
        std::fs::write(root.join("empty"), "x").unwrap();
        std::fs::remove_file(root.join("links/second-name")).unwrap();
        let lines = differences(&before, &describe(&root).unwrap());
        for expected in ["\"empty\": kind", "\"links/second-name\" is missing"] {
            assert!(
                lines.iter().any(|line| line.contains(expected)),
                "{expected}: {lines:#?}"
            );
        }
    }
}
