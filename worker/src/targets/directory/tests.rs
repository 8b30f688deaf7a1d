//! Round trips: what a restore makes is, backed up again, the same.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink},
    },
    path::Path,
};

use proto::vault::v1::Entry;
use rustix::fs::{
    CWD, Dev, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mkdirat,
    mknodat, openat, utimensat,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::testing::Bench;

fn set_mtime(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn target(bench: &Bench, name: &str, attempt: u32) -> DirectoryTarget {
    let path = bench.at(name);
    DirectoryTarget::new(
        &bench.settings,
        api::DirectoryTarget {
            path: path.to_str().unwrap().to_owned(),
        },
        Bench::restore_context(&path, attempt),
    )
}

async fn reader(bench: &Bench, manifest: &vault::ManifestRef) -> BackupReader {
    bench
        .vault
        .open_backup(manifest, CancellationToken::new())
        .await
        .unwrap()
}

/// Restores a backup into a folder among the agents.
pub(super) async fn restore(bench: &Bench, manifest: &vault::ManifestRef, name: &str) -> Restored {
    let target = target(bench, name, 1);
    target.clean().await.unwrap();
    let restored = target.write(reader(bench, manifest).await).await.unwrap();
    target.publish().await.unwrap();
    target.settle().await.unwrap();
    restored
}

fn plain(entries: Vec<Entry>) -> Vec<Entry> {
    entries
        .into_iter()
        .map(|mut entry| {
            entry.fingerprint = None;
            entry
        })
        .collect()
}

/// Backs up `from`, restores it, and backs up the result: both backups must say the same.
async fn round_trip(bench: &Bench, from: &str) -> Restored {
    let first = bench.backup("first", from, None).await;
    let restored = restore(bench, &first.manifest, "restored").await;
    let second = bench.backup("second", "restored", None).await;
    let one = plain(bench.entries(&first.manifest).await);
    let other = plain(bench.entries(&second.manifest).await);
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one, other, "{}", String::from_utf8_lossy(&one.path));
    }
    assert_eq!(one.len(), other.len());
    assert!(first.warnings.is_empty(), "{:?}", first.warnings);
    let left: Vec<_> = fs::read_dir(bench.at(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.as_bytes().starts_with(b".nora"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    restored
}

#[tokio::test]
async fn every_kind_of_entry_comes_back() {
    let bench = Bench::new().await;
    let agent = bench.at("a");
    let is_root = rustix::process::geteuid().is_root();
    fs::create_dir_all(agent.join("one/two")).unwrap();
    fs::create_dir_all(agent.join("other")).unwrap();
    fs::write(agent.join("empty"), "").unwrap();
    fs::write(agent.join("one/small"), "small").unwrap();
    fs::write(
        agent.join("one/large"),
        (0..3_000_000u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<_>>(),
    )
    .unwrap();
    let sparse = fs::File::create(agent.join("sparse")).unwrap();
    sparse.set_len(5 << 30).unwrap();
    sparse.write_all_at(&[7; 5000], 1 << 20).unwrap();
    sparse.write_all_at(&vec![8; 70_000], 3 << 30).unwrap();
    fs::File::create(agent.join("hole"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    fs::hard_link(agent.join("one/small"), agent.join("other/linked")).unwrap();
    fs::hard_link(agent.join("one/small"), agent.join("zz")).unwrap();
    symlink("one/small", agent.join("to-small")).unwrap();
    symlink("/nowhere/at/all", agent.join("dangling")).unwrap();
    mknodat(
        CWD,
        agent.join("pipe"),
        FileType::Fifo,
        Mode::from_raw_mode(0o640),
        0 as Dev,
    )
    .unwrap();
    fs::write(agent.join("suid"), "x").unwrap();
    fs::write(agent.join("read-only"), "x").unwrap();
    lsetxattr(
        agent.join("read-only"),
        "user.empty",
        b"",
        XattrFlags::empty(),
    )
    .unwrap();
    lsetxattr(
        agent.join("read-only"),
        "user.some",
        &[9; 3000],
        XattrFlags::empty(),
    )
    .unwrap();
    lsetxattr(
        agent.join("other"),
        "user.folder",
        b"f",
        XattrFlags::empty(),
    )
    .unwrap();
    let odd: Vec<u8> = (1..=255u8).filter(|byte| *byte != b'/').collect();
    fs::write(agent.join(OsStr::from_bytes(&odd)), "odd").unwrap();
    fs::write(agent.join(OsStr::from_bytes(&[b'n'; 255])), "long").unwrap();
    if is_root {
        chown(agent.join("suid"), Some(54321), Some(12345)).unwrap();
        lchown(agent.join("dangling"), Some(777), Some(888)).unwrap();
        chown(agent.join("other"), Some(65534), Some(65534)).unwrap();
        let device = makedev(1, 3);
        mknodat(
            CWD,
            agent.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            device,
        )
        .unwrap();
        mknodat(
            CWD,
            agent.join("block"),
            FileType::BlockDevice,
            Mode::from_raw_mode(0o600),
            makedev(259, 300),
        )
        .unwrap();
        lsetxattr(
            agent.join("dangling"),
            "trusted.link",
            b"l",
            XattrFlags::empty(),
        )
        .unwrap();
    }
    fs::set_permissions(agent.join("suid"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(agent.join("read-only"), fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(agent.join("other"), fs::Permissions::from_mode(0o3511)).unwrap();
    set_mtime(&agent.join("one/small"), -86_400 * 365 * 30, 123_456_789);
    set_mtime(&agent.join("dangling"), 1, 1);
    set_mtime(&agent.join("pipe"), 4_000_000_000, 0);
    set_mtime(&agent.join("one"), 1_000_000_000, 5);
    set_mtime(&agent, 999_999_999, 999_999_999);

    let restored = round_trip(&bench, "a").await;
    assert_eq!(restored.warnings, Vec::<String>::new());
    let made = bench.at("restored");
    let sparse = fs::metadata(made.join("sparse")).unwrap();
    assert_eq!(sparse.len(), 5 << 30);
    assert!(sparse.blocks() * 512 < 1 << 20, "holes stay holes");
    assert_eq!(
        fs::read(made.join("one/large")).unwrap(),
        fs::read(agent.join("one/large")).unwrap()
    );
    assert_eq!(
        fs::metadata(made.join("zz")).unwrap().ino(),
        fs::metadata(made.join("one/small")).unwrap().ino()
    );
    assert_eq!(
        fs::metadata(made.join("suid")).unwrap().mode() & 0o7777,
        0o6755
    );
    if is_root {
        assert_eq!(fs::metadata(made.join("suid")).unwrap().uid(), 54321);
    }
    assert_eq!(fs::metadata(&made).unwrap().mtime_nsec(), 999_999_999);
    let source = Some(Kind::Directory(api::DirectorySource {
        path: made.to_str().unwrap().to_owned(),
    }));
    assert_eq!(restored.source.kind, source);
}

#[tokio::test]
async fn paths_longer_than_a_call_takes_come_back() {
    let bench = Bench::new().await;
    let agent = bench.at("a");
    fs::create_dir(&agent).unwrap();
    let mut folder = openat(CWD, &agent, FOLDER, NO_MODE).unwrap();
    let mut first = None;
    for depth in 0..300 {
        let name = format!("{depth:0>200}");
        mkdirat(&folder, &name, Mode::RWXU).unwrap();
        folder = openat(&folder, &name, FOLDER, NO_MODE).unwrap();
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = openat(&folder, "file", flags, Mode::RUSR | Mode::WUSR).unwrap();
        rustix::io::write(&file, name.as_bytes()).unwrap();
        let first = &*first.get_or_insert_with(|| folder.try_clone().unwrap());
        rustix::fs::linkat(first, "file", &folder, "link", AtFlags::empty()).unwrap();
    }
    let restored = round_trip(&bench, "a").await;
    assert!(restored.warnings.is_empty());
}

#[tokio::test]
async fn the_target_may_be_an_empty_folder_but_nothing_else() {
    let bench = Bench::new().await;
    fs::create_dir(bench.at("a")).unwrap();
    fs::write(bench.at("a/f"), "x").unwrap();
    let backup = bench.backup("b", "a", None).await;
    fs::create_dir(bench.at("empty")).unwrap();
    restore(&bench, &backup.manifest, "empty").await;
    assert_eq!(fs::read(bench.at("empty/f")).unwrap(), b"x");

    fs::write(bench.at("file"), "keep").unwrap();
    for name in ["empty", "file", "no/parent", "../outside"] {
        let target = target(&bench, name, 1);
        target.clean().await.unwrap();
        let error = target
            .write(reader(&bench, &backup.manifest).await)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "TARGET_UNUSABLE", "{name}: {error}");
        assert!(!error.is_retryable());
        target.clean().await.unwrap();
    }
    assert_eq!(fs::read(bench.at("file")).unwrap(), b"keep");
    assert_eq!(fs::read(bench.at("empty/f")).unwrap(), b"x");
}

#[tokio::test]
async fn what_dead_attempts_left_goes_whether_published_or_not() {
    let bench = Bench::new().await;
    fs::create_dir(bench.at("a")).unwrap();
    fs::write(bench.at("a/f"), "x").unwrap();
    let backup = bench.backup("b", "a", None).await;
    // Dead before it was published.
    let first = target(&bench, "t", 1);
    first
        .write(reader(&bench, &backup.manifest).await)
        .await
        .unwrap();
    // Dead after it was published, before the catalog knew.
    let second = target(&bench, "t", 2);
    second.clean().await.unwrap();
    second
        .write(reader(&bench, &backup.manifest).await)
        .await
        .unwrap();
    second.publish().await.unwrap();
    assert!(bench.at("t/f").exists());
    // The first one wakes up: it must not put anything in place.
    assert!(first.publish().await.is_err());
    // Both learn that the job is another's. What is published stays recognised.
    first.abandon().await.unwrap();
    second.abandon().await.unwrap();
    assert!(bench.at("t/f").exists());

    let third = target(&bench, "t", 3);
    third.clean().await.unwrap();
    let names = || -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(bench.at(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["a"]);
    third
        .write(reader(&bench, &backup.manifest).await)
        .await
        .unwrap();
    third.publish().await.unwrap();
    third.settle().await.unwrap();
    assert_eq!(names(), ["a", "t"]);
    // Once it is settled, it is nobody's but the agent's.
    third.clean().await.unwrap();
    assert_eq!(names(), ["a", "t"]);
}

#[tokio::test]
async fn devices_are_left_out_by_name_where_not_allowed() {
    let mut bench = Bench::new().await;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    fs::create_dir(bench.at("a")).unwrap();
    let device = makedev(1, 3);
    mknodat(
        CWD,
        bench.at("a/null"),
        FileType::CharacterDevice,
        Mode::RUSR,
        device,
    )
    .unwrap();
    bench.settings.restore_devices = false;
    let backup = bench.backup("b", "a", None).await;
    let restored = restore(&bench, &backup.manifest, "t").await;
    assert_eq!(restored.warnings.len(), 1);
    assert!(
        restored.warnings[0].contains("null"),
        "{:?}",
        restored.warnings
    );
    assert!(!bench.at("t/null").exists());
}
