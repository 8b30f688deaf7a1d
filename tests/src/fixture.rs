//! Makes folders with every kind of entry, and folders with much in them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    lsetxattr, mkdirat, mknodat, openat, utimensat,
};

/// Size of the sparse file: mostly a hole.
pub const SPARSE_BYTES: u64 = 256 * 1024 * 1024;
/// Where the sparse file of [`every_kind`] lies.
pub const SPARSE_PATH: &str = "sparse/holes.img";

/// A folder with at least one entry of every kind and every oddity, except
/// device files ([`devices`]).
pub fn every_kind(root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
    plain_files(root)?;
    links(root)?;
    sparse(root)?;
    names(root)?;
    attributes(root)?;
    mknodat(
        CWD,
        root.join("pipe"),
        FileType::Fifo,
        Mode::from_raw_mode(0o620),
        0,
    )?;
    deep(root, "deep", 30, 100)?;
    // Last, as making entries in a folder sets the folder's time.
    times(root)
}

/// Device files: nothing opens them, the numbers are what counts.
pub fn devices(root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    for (name, kind, major, minor) in [
        ("null", FileType::CharacterDevice, 1, 3),
        ("loop-like", FileType::BlockDevice, 7, 200_000),
    ] {
        let device = rustix::fs::makedev(major, minor);
        mknodat(
            CWD,
            root.join(name),
            kind,
            Mode::from_raw_mode(0o600),
            device,
        )
        .with_context(|| format!("make device {name}"))?;
    }
    Ok(())
}

/// A path of `levels` folders with names of `name_bytes`, and a file at its end:
/// longer than a system call takes, if need be.
pub fn deep(root: &Path, first: &str, levels: usize, name_bytes: usize) -> Result<()> {
    let open = |folder: &OwnedFd, name: &str| -> Result<OwnedFd> {
        mkdirat(folder, name, Mode::from_raw_mode(0o755))
            .with_context(|| format!("make folder {name}"))?;
        Ok(openat(
            folder,
            name,
            OFlags::DIRECTORY | OFlags::RDONLY,
            Mode::empty(),
        )?)
    };
    let mut folder = openat(CWD, root, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
    folder = open(&folder, first)?;
    for level in 0..levels {
        folder = open(&folder, &format!("{level:0name_bytes$}"))?;
    }
    let file = openat(
        &folder,
        "bottom",
        OFlags::CREATE | OFlags::WRONLY,
        Mode::from_raw_mode(0o644),
    )?;
    File::from(file).write_all(b"at the bottom\n")?;
    Ok(())
}

/// `count` small files of different content in folders of 1,000.
pub fn many_small_files(root: &Path, count: usize) -> Result<()> {
    for start in (0..count).step_by(1_000) {
        let folder = root.join(format!("{:05}", start / 1_000));
        fs::create_dir_all(&folder)?;
        for number in start..count.min(start + 1_000) {
            let content = format!("file {number}\n{}", "x".repeat(number % 97));
            fs::write(folder.join(format!("f{number:06}.txt")), content)?;
        }
    }
    Ok(())
}

/// Files that do not compress, to make a job take its time.
pub fn random_files(root: &Path, count: usize, bytes_each: usize, seed: u64) -> Result<()> {
    fs::create_dir_all(root)?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut content = vec![0; bytes_each];
    for number in 0..count {
        random.fill_bytes(&mut content);
        let path = root.join(format!("random-{seed}-{number:04}.bin"));
        fs::write(&path, &content).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn plain_files(root: &Path) -> Result<()> {
    let mut random = StdRng::seed_from_u64(1);
    fs::write(root.join("empty"), "")?;
    fs::create_dir(root.join("empty-folder"))?;
    fs::write(root.join("one-byte"), "1")?;
    fs::write(root.join("unreadable-by-others"), "secret")?;
    // Around the sizes where the way of storing changes.
    for size in [
        511, 512, 513, 16_384, 65_536, 262_143, 262_144, 262_145, 5_000_001,
    ] {
        let mut content = vec![0; size];
        random.fill_bytes(&mut content);
        fs::write(root.join(format!("random-{size}")), content)?;
    }
    fs::write(
        root.join("compressible"),
        "the same words again and again\n".repeat(50_000),
    )?;
    fs::write(root.join("zeros-that-are-data"), vec![0; 300_000])?;
    Ok(())
}

fn links(root: &Path) -> Result<()> {
    let folder = root.join("links");
    fs::create_dir_all(folder.join("elsewhere"))?;
    fs::write(folder.join("first-name"), "one file, three names\n")?;
    fs::hard_link(folder.join("first-name"), folder.join("second-name"))?;
    fs::hard_link(
        folder.join("first-name"),
        folder.join("elsewhere/third-name"),
    )?;
    // A name that comes before the folder of the others in path order.
    fs::hard_link(folder.join("first-name"), root.join("a-fourth-name"))?;
    for (name, target) in [
        ("relative", "first-name"),
        ("up", "../one-byte"),
        ("dangling", "nowhere/at/all"),
        ("absolute", "/etc/hostname"),
        ("out-of-here", "../../../../../../etc/passwd"),
        ("to-itself", "to-itself"),
        ("to-a-folder", "elsewhere"),
    ] {
        std::os::unix::fs::symlink(target, folder.join(name))?;
    }
    std::os::unix::fs::symlink(
        OsStr::from_bytes(b"bytes-\xff\xfe"),
        folder.join("odd-target"),
    )?;
    std::os::unix::fs::symlink("x".repeat(4_000), folder.join("long-target"))?;
    Ok(())
}

fn sparse(root: &Path) -> Result<()> {
    fs::create_dir(root.join("sparse"))?;
    let mut file = File::create(root.join(SPARSE_PATH))?;
    file.set_len(SPARSE_BYTES)?;
    for offset in [0, 1024 * 1024 + 17, SPARSE_BYTES / 2, SPARSE_BYTES - 4] {
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(b"data")?;
    }
    File::create(root.join("sparse/only-a-hole"))?.set_len(10_000_000)?;
    let mut tail = File::create(root.join("sparse/hole-at-the-end"))?;
    tail.write_all(&vec![7; 100_000])?;
    tail.set_len(50_000_000)?;
    Ok(())
}

fn names(root: &Path) -> Result<()> {
    let folder = root.join("names");
    fs::create_dir(&folder)?;
    let long = "n".repeat(255);
    let all: [&[u8]; 12] = [
        b"not-utf8-\xff\xfe\x80",
        b"latin1-\xe9",
        long.as_bytes(),
        b" leading and trailing ",
        b"new\nline",
        b"tab\tand\x01control",
        b"back\\slash",
        b"-rf",
        b"quote'\"`$(x)",
        "ünïcödé-日本語-🦀".as_bytes(),
        b"..three",
        b"*?[x]",
    ];
    for name in all {
        fs::write(folder.join(OsStr::from_bytes(name)), name)?;
    }
    // Path order is by component: "a" with what it holds, then "a-b", "a.b".
    for path in ["order/a/z", "order/a-b", "order/a.b", "order/a0/y"] {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().context("a path under a folder")?)?;
        fs::write(path, "order")?;
    }
    Ok(())
}

fn attributes(root: &Path) -> Result<()> {
    let folder = root.join("attributes");
    fs::create_dir(&folder)?;
    for (name, mode) in [
        ("setuid", 0o4755),
        ("setgid", 0o2755),
        ("nothing", 0o000),
        ("everything", 0o7777),
        ("read-only", 0o444),
    ] {
        fs::write(folder.join(name), name)?;
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode))?;
    }
    for (name, mode) in [
        ("sticky-folder", 0o1777),
        ("setgid-folder", 0o2775),
        ("closed-folder", 0o500),
    ] {
        fs::create_dir(folder.join(name))?;
        fs::write(folder.join(name).join("inside"), name)?;
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode))?;
    }
    let unknown = (
        Some(Uid::from_raw(3_123_456_789)),
        Some(Gid::from_raw(2_987_654_321)),
    );
    for name in ["owned-by-nobody-here", "link-owned-by-nobody-here"] {
        let path = folder.join(name);
        if name.starts_with("link") {
            std::os::unix::fs::symlink("anywhere", &path)?;
        } else {
            fs::write(&path, name)?;
        }
        chownat(CWD, &path, unknown.0, unknown.1, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let path = folder.join("with-xattrs");
    fs::write(&path, "x")?;
    let binary: Vec<u8> = (0..=255).collect();
    for (name, value) in [
        ("user.empty", &[][..]),
        ("user.text", b"value"),
        ("user.binary", &binary),
        ("trusted.mark", b"t"),
    ] {
        lsetxattr(&path, name, value, XattrFlags::empty())
            .with_context(|| format!("set {name}"))?;
    }
    let folder_with = folder.join("folder-with-xattrs");
    fs::create_dir(&folder_with)?;
    lsetxattr(&folder_with, "user.folder", b"yes", XattrFlags::empty())?;
    Ok(())
}

fn times(root: &Path) -> Result<()> {
    let folder = root.join("times");
    fs::create_dir(&folder)?;
    let all = [
        ("the-epoch", 0, 0),
        ("before-1970", -86_400 * 365 * 20, 123_456_789),
        ("just-before-1970", -1, 999_999_999),
        ("nanoseconds", 1_700_000_000, 1),
        ("far-future", 4_102_444_800, 987_654_321),
    ];
    for (name, seconds, nanos) in all {
        fs::write(folder.join(name), name)?;
        set_time(&folder.join(name), seconds, nanos)?;
    }
    std::os::unix::fs::symlink("the-epoch", folder.join("old-link"))?;
    set_time(&folder.join("old-link"), 1_000_000_000, 5)?;
    set_time(&root.join("pipe"), 1_100_000_000, 6)?;
    set_time(&root.join("empty-folder"), -5_000_000, 7)?;
    set_time(&folder, 1_200_000_000, 8)?;
    set_time(root, 1_300_000_000, 9)
}

fn set_time(path: &Path, seconds: i64, nanos: i64) -> Result<()> {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("set the time of {}", path.display()))
}

/// Copies a folder with all that is in it.
pub fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
