//! Random folders, random edits between two backups, and the second one restored: always what was
//! there, byte for byte and mode for mode.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::tests::restore;
use crate::testing::Bench;

/// Something that happens to a folder. Paths that make no sense do nothing.
#[derive(Debug, Clone)]
enum Edit {
    Folder(PathBuf),
    Write(PathBuf, u32, u8),
    Append(PathBuf, u16),
    Sparse(PathBuf, u32),
    Link(PathBuf, PathBuf),
    HardLink(PathBuf, PathBuf),
    Mode(PathBuf, u32),
    Time(PathBuf, i64, u32),
    Remove(PathBuf),
    Move(PathBuf, PathBuf),
}

fn path() -> impl Strategy<Value = PathBuf> {
    let name = prop::sample::select(vec!["a", "a b", "a.b", "b", "\u{e9}", "-", "zz"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.iter().collect())
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => path().prop_map(Edit::Folder),
        6 => (path(), 0u32..300_000, any::<u8>()).prop_map(|(p, n, b)| Edit::Write(p, n, b)),
        2 => (path(), any::<u16>()).prop_map(|(p, n)| Edit::Append(p, n)),
        1 => (path(), 0u32..3_000_000).prop_map(|(p, n)| Edit::Sparse(p, n)),
        2 => (path(), path()).prop_map(|(p, t)| Edit::Link(p, t)),
        2 => (path(), path()).prop_map(|(p, t)| Edit::HardLink(p, t)),
        1 => (path(), 0u32..0o10000).prop_map(|(p, m)| Edit::Mode(p, m | 0o700)),
        1 => (path(), -1_000_000_000i64..4_000_000_000, 0u32..1_000_000_000)
            .prop_map(|(p, s, n)| Edit::Time(p, s, n)),
        2 => path().prop_map(Edit::Remove),
        1 => (path(), path()).prop_map(|(p, t)| Edit::Move(p, t)),
    ]
}

fn apply(root: &Path, edit: &Edit) {
    let is_link = |path: &Path| fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
    let at = |path: &Path| {
        let mut at = root.to_path_buf();
        for part in path {
            // Never through a link, which may lead out.
            if is_link(&at) {
                return root.join("a/none/none");
            }
            at.push(part);
        }
        at
    };
    // What does not work does nothing.
    let _ = match edit {
        Edit::Folder(path) => fs::create_dir_all(at(path)),
        Edit::Write(path, bytes, seed) if !is_link(&at(path)) => {
            let data = (0..*bytes)
                .map(|n| (n / 7) as u8 ^ seed)
                .collect::<Vec<_>>();
            fs::write(at(path), data)
        }
        Edit::Append(path, bytes) if !is_link(&at(path)) => fs::OpenOptions::new()
            .append(true)
            .open(at(path))
            .and_then(|mut file| {
                std::io::Write::write_all(&mut file, &vec![1; usize::from(*bytes)])
            }),
        Edit::Sparse(path, bytes) if !is_link(&at(path)) => {
            fs::File::create(at(path)).and_then(|file| {
                file.set_len(u64::from(*bytes))?;
                std::os::unix::fs::FileExt::write_at(&file, b"data", u64::from(bytes / 2))?;
                Ok(())
            })
        }
        Edit::Link(path, target) => symlink(target, at(path)),
        Edit::HardLink(path, target) => fs::hard_link(at(target), at(path)),
        Edit::Mode(path, mode) if !is_link(&at(path)) => {
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
        }
        Edit::Time(path, seconds, nanos) => {
            let time = rustix::fs::Timespec {
                tv_sec: *seconds,
                tv_nsec: (*nanos).into(),
            };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, at(path), &times, flags).map_err(Into::into)
        }
        Edit::Remove(path) => fs::remove_dir_all(at(path)).or_else(|_| fs::remove_file(at(path))),
        Edit::Move(path, target) => fs::rename(at(path), at(target)),
        _ => Ok(()),
    };
}

/// Everything that can be told about one name.
#[derive(Debug, PartialEq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    content: Option<Vec<u8>>,
    link: Option<PathBuf>,
    /// The first path of the same file.
    same_as: Option<PathBuf>,
}

fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut paths = vec![PathBuf::new()];
    while let Some(path) = paths.pop() {
        let at = root.join(&path);
        let metadata = fs::symlink_metadata(&at).unwrap();
        assert!(!metadata.file_type().is_socket());
        if metadata.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&at)
                .unwrap()
                .map(|entry| path.join(entry.unwrap().file_name()))
                .collect();
            names.sort();
            paths.extend(names.into_iter().rev());
        }
        let same_as = metadata.is_file().then(|| {
            let first = inodes.entry(metadata.ino()).or_insert_with(|| path.clone());
            first.clone()
        });
        let this = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            content: metadata.is_file().then(|| fs::read(&at).unwrap()),
            link: metadata.is_symlink().then(|| fs::read_link(&at).unwrap()),
            same_as,
        };
        seen.insert(path, this);
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_folder_comes_back_also_after_any_edits(
        made in prop::collection::vec(edit(), 1..40),
        edits in prop::collection::vec(edit(), 0..15),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new().await;
            let agent = bench.at("agent");
            fs::create_dir(&agent).unwrap();
            for edit in &made {
                apply(&agent, edit);
            }
            let first = bench.backup("first", "agent", None).await;
            for edit in &edits {
                apply(&agent, edit);
            }
            let second = bench.backup("second", "agent", Some(&first.manifest)).await;
            assert!(second.warnings.is_empty(), "{:?}", second.warnings);
            restore(&bench, &second.manifest, "restored").await;
            let (one, other) = (look(&agent), look(&bench.at("restored")));
            for (path, seen) in &one {
                assert_eq!(Some(seen), other.get(path), "{}", path.display());
            }
            assert_eq!(one.len(), other.len());
        });
    }
}
