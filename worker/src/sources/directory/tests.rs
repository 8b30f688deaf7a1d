//! What becomes of a folder: of every kind of entry, of files that change and vanish, and of
//! those that did not change.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    sync::Mutex,
};

use proto::vault::v1::EntryType;
use rustix::fs::{Timespec, Timestamps, XattrFlags, lsetxattr, utimensat};

use super::*;
use crate::testing::Bench;

fn source(bench: &Bench, name: &str) -> DirectorySource {
    let source = api::DirectorySource {
        path: bench.at(name).to_str().unwrap().to_owned(),
    };
    DirectorySource::new(&bench.settings, &source)
}

#[tokio::test]
async fn entries_say_what_the_folder_holds() {
    let bench = Bench::new().await;
    let agent = bench.at("a");
    fs::create_dir_all(agent.join("dir/sub")).unwrap();
    fs::write(agent.join("dir/file"), "hello").unwrap();
    fs::set_permissions(agent.join("dir/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(agent.join("dir/file"), agent.join("dir/sub/again")).unwrap();
    fs::write(agent.join("dir.txt"), "").unwrap();
    symlink("no/where", agent.join("link")).unwrap();
    lsetxattr(
        agent.join("dir/file"),
        "user.note",
        b"v",
        XattrFlags::empty(),
    )
    .unwrap();
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        last_modification: Timespec {
            tv_sec: -12345,
            tv_nsec: 999_999_999,
        },
    };
    utimensat(
        rustix::fs::CWD,
        agent.join("dir/file"),
        &times,
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(agent.join("socket")).unwrap();

    let committed = bench.backup("b1", "a", None).await;
    let entries = bench.entries(&committed.manifest).await;
    let paths: Vec<&[u8]> = entries.iter().map(|e| e.path.as_slice()).collect();
    assert_eq!(
        paths,
        [
            &b""[..],
            b"dir",
            b"dir/file",
            b"dir/sub",
            b"dir/sub/again",
            b"dir.txt",
            b"link"
        ]
    );
    let file = &entries[2];
    assert_eq!(file.r#type(), EntryType::Regular);
    assert_eq!(file.mode, 0o4751);
    assert_eq!(
        (file.mtime_seconds, file.mtime_nanos),
        (-12345, 999_999_999)
    );
    assert_eq!(file.xattrs.len(), 1);
    assert_eq!(file.xattrs[0].value, b"v");
    assert_eq!(file.content.as_ref().unwrap().inline, b"hello");
    assert_eq!(file.uid, fs::metadata(&agent).unwrap().uid());
    assert_eq!(entries[4].r#type(), EntryType::HardLink);
    assert_eq!(entries[4].link_target, b"dir/file");
    assert_eq!(entries[6].link_target, b"no/where");
    assert_eq!(committed.warnings.len(), 1);
    assert_eq!(committed.warnings[0].path, b"socket");
    assert_eq!(committed.statistics.size_bytes, 5);
}

#[tokio::test]
async fn unchanged_files_are_not_read() {
    let bench = Bench::new().await;
    let agent = bench.at("a");
    fs::create_dir(&agent).unwrap();
    for number in 0..50 {
        fs::write(agent.join(format!("f{number}")), vec![number; 2000]).unwrap();
    }
    let first = bench.backup("b1", "a", None).await;
    assert_eq!(first.statistics.read_bytes, 100_000);

    let second = bench.backup("b2", "a", Some(&first.manifest)).await;
    assert_eq!(second.statistics.read_bytes, 0);
    assert_eq!(second.statistics.unchanged_files, 50);
    assert_eq!(
        bench.entries(&second.manifest).await,
        bench.entries(&first.manifest).await
    );

    // Same size, and the modification time put back: the change time still tells.
    let file = agent.join("f7");
    let before = fs::metadata(&file).unwrap();
    fs::write(&file, vec![99; 2000]).unwrap();
    let times = fs::FileTimes::new().set_modified(before.modified().unwrap());
    fs::File::open(&file).unwrap().set_times(times).unwrap();
    // Only the mode: read again too, and the mode is kept.
    fs::set_permissions(agent.join("f8"), fs::Permissions::from_mode(0o600)).unwrap();
    let third = bench.backup("b3", "a", Some(&second.manifest)).await;
    assert_eq!(third.statistics.read_bytes, 4000);
    assert_eq!(third.statistics.unchanged_files, 48);
    let entries = bench.entries(&third.manifest).await;
    let mode = entries.iter().find(|e| e.path == b"f8").unwrap().mode;
    assert_eq!(mode, 0o600);
}

#[tokio::test]
async fn patterns_leave_out_what_they_name_whatever_the_previous_backup_held() {
    let bench = Bench::new().await;
    let agent = bench.at("a");
    fs::create_dir_all(agent.join("app/node_modules/deep")).unwrap();
    fs::create_dir_all(agent.join("logs")).unwrap();
    for name in [
        "app/main",
        "app/node_modules/deep/x",
        "logs/a.log",
        "logs/keep.log",
        "z",
    ] {
        fs::write(agent.join(name), name).unwrap();
    }
    fs::hard_link(agent.join("app/node_modules/deep/x"), agent.join("zz")).unwrap();
    let back_up = async |id: &str, lines: &[&str], previous: Option<&vault::ManifestRef>| {
        let meter = Arc::new(vault::Meter::default());
        let writer = bench.writer(id, previous, meter.clone()).await;
        let mut context = Bench::context(Some(i64::MAX / 2), meter.clone());
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        context.patterns = Arc::new(catalog::Patterns::new(&lines).unwrap());
        let writer = source(&bench, "a").capture(context, writer).await.unwrap();
        let committed = tokio::task::spawn_blocking(move || writer.finish(0).unwrap())
            .await
            .unwrap();
        assert!(committed.warnings.is_empty(), "{:?}", committed.warnings);
        let names: Vec<String> = bench
            .entries(&committed.manifest)
            .await
            .into_iter()
            .map(|entry| String::from_utf8(entry.path).unwrap())
            .collect();
        (committed.manifest, names.join(" "))
    };
    // A folder that may not be read is not even opened when it is left out.
    fs::set_permissions(
        agent.join("app/node_modules"),
        fs::Permissions::from_mode(0o0),
    )
    .unwrap();
    let some = ["node_modules/", "logs/*", "!logs/keep.log"];
    let (first, names) = back_up("b1", &some, None).await;
    assert_eq!(names, " app app/main logs logs/keep.log z zz");
    fs::set_permissions(
        agent.join("app/node_modules"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let (second, names) = back_up("b2", &["!node_modules/", "/logs"], Some(&first)).await;
    assert_eq!(
        names,
        " app app/main app/node_modules app/node_modules/deep app/node_modules/deep/x z zz"
    );
    let (third, names) = back_up("b3", &["node_modules"], Some(&second)).await;
    assert_eq!(names, " app app/main logs logs/a.log logs/keep.log z zz");
    // `zz` was a further name of a file before, and is the file itself now.
    let last = bench.entries(&third).await.pop().unwrap();
    assert_eq!(last.r#type(), EntryType::Regular);
    assert_eq!(
        last.content.unwrap().size_bytes,
        "app/node_modules/deep/x".len() as u64
    );
}

#[tokio::test]
async fn what_changed_close_to_the_previous_backup_is_read_again() {
    let bench = Bench::new().await;
    fs::create_dir(bench.at("a")).unwrap();
    fs::write(bench.at("a/f"), [1; 1000]).unwrap();
    let first = bench.backup("b1", "a", None).await;
    let ctime = fs::metadata(bench.at("a/f")).unwrap();
    let ctime_ms = ctime.ctime() * 1000 + ctime.ctime_nsec() / 1_000_000;
    for (id, start_ms, read) in [
        ("b2", ctime_ms - 5_000, 1000),
        ("b3", ctime_ms + 1_000, 1000),
        ("b4", ctime_ms + 3_000, 0),
    ] {
        let source = source(&bench, "a");
        let next = bench
            .capture(id, &source, Some(&first.manifest), start_ms)
            .await;
        assert_eq!(next.statistics.read_bytes, read, "{id}");
    }
}

#[tokio::test]
async fn a_file_that_changes_once_is_read_again() {
    let bench = Bench::new().await;
    fs::create_dir(bench.at("a")).unwrap();
    fs::write(bench.at("a/f"), "one").unwrap();
    let mut source = source(&bench, "a");
    let path = bench.at("a/f");
    let times = Mutex::new(0);
    source.after_read = Some(Arc::new(move |name| {
        let mut times = times.lock().unwrap();
        *times += 1;
        if name == b"f" && *times == 1 {
            fs::write(&path, "two!").unwrap();
        }
    }));
    let committed = bench.capture("b1", &source, None, 0).await;
    let entries = bench.entries(&committed.manifest).await;
    assert_eq!(entries[1].content.as_ref().unwrap().inline, b"two!");
    assert!(entries[1].fingerprint.is_some());
    assert!(committed.warnings.is_empty(), "{:?}", committed.warnings);
}

#[tokio::test]
async fn a_file_that_keeps_changing_is_kept_as_last_read_and_named() {
    let bench = Bench::new().await;
    fs::create_dir(bench.at("a")).unwrap();
    fs::write(bench.at("a/f"), "x").unwrap();
    let mut source = source(&bench, "a");
    let path = bench.at("a/f");
    source.after_read = Some(Arc::new(move |_| {
        let longer = fs::read_to_string(&path).unwrap() + "x";
        fs::write(&path, longer).unwrap();
    }));
    let committed = bench.capture("b1", &source, None, 0).await;
    let entries = bench.entries(&committed.manifest).await;
    assert_eq!(entries[1].content.as_ref().unwrap().inline, b"xxx");
    assert_eq!(entries[1].fingerprint, None, "the next backup reads it");
    assert_eq!(committed.warnings.len(), 1);
    assert_eq!(committed.warnings[0].path, b"f");
    assert!(committed.warnings[0].message.contains("changed each time"));
}

#[tokio::test]
async fn files_that_vanish_are_named_and_the_rest_goes_on() {
    let bench = Bench::new().await;
    fs::create_dir_all(bench.at("a/dir")).unwrap();
    for name in ["a", "b", "c", "dir/x"] {
        fs::write(bench.at("a").join(name), name).unwrap();
    }
    let mut source = source(&bench, "a");
    let agent = bench.at("a");
    source.after_read = Some(Arc::new(move |name| {
        if name == b"a" {
            fs::remove_file(agent.join("b")).unwrap();
            fs::remove_dir_all(agent.join("dir")).unwrap();
        }
        if name == b"c" {
            fs::remove_file(agent.join("c")).unwrap();
        }
    }));
    let committed = bench.capture("b1", &source, None, 0).await;
    let entries = bench.entries(&committed.manifest).await;
    let paths: Vec<&[u8]> = entries.iter().map(|e| e.path.as_slice()).collect();
    assert_eq!(paths, [&b""[..], b"a"]);
    let warned: Vec<&[u8]> = committed.warnings.iter().map(|w| &*w.path).collect();
    assert_eq!(warned, [&b"b"[..], b"c", b"dir"]);
    assert!(
        committed
            .warnings
            .iter()
            .all(|w| w.message.contains("vanished"))
    );
}

#[tokio::test]
async fn a_file_that_becomes_a_link_is_not_followed() {
    let bench = Bench::new().await;
    fs::create_dir(bench.at("a")).unwrap();
    fs::write(bench.temporary.path().join("secret"), "secret").unwrap();
    fs::write(bench.at("a/f"), "x").unwrap();
    let mut source = source(&bench, "a");
    let (agent, secret) = (bench.at("a"), bench.temporary.path().join("secret"));
    source.after_read = Some(Arc::new(move |_| {
        fs::remove_file(agent.join("f")).unwrap();
        symlink(&secret, agent.join("f")).unwrap();
    }));
    let committed = bench.capture("b1", &source, None, 0).await;
    assert_eq!(bench.entries(&committed.manifest).await.len(), 1);
    assert!(committed.warnings[0].message.contains("something else"));
}

#[tokio::test]
async fn a_missing_or_forbidden_root_says_so() {
    let bench = Bench::new().await;
    let meter = Arc::new(vault::Meter::default());
    for (path, reason) in [
        (bench.at("missing"), "SOURCE_NOT_FOUND"),
        (bench.temporary.path().join("store"), "SOURCE_DENIED"),
    ] {
        let source = api::DirectorySource {
            path: path.to_str().unwrap().to_owned(),
        };
        let source = DirectorySource::new(&bench.settings, &source);
        let writer = bench.writer("b", None, meter.clone()).await;
        let context = Bench::context(None, meter.clone());
        let error = source.capture(context, writer).await.err().unwrap();
        assert_eq!(error.reason(), reason);
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn totals_are_told_and_a_cancel_ends_it() {
    let bench = Bench::new().await;
    fs::create_dir(bench.at("a")).unwrap();
    fs::write(bench.at("a/f"), [1; 3000]).unwrap();
    let meter = Arc::new(vault::Meter::default());
    let writer = bench.writer("b1", None, meter.clone()).await;
    let context = Bench::context(None, meter.clone());
    context.cancel.cancel();
    let ended = source(&bench, "a").capture(context, writer).await;
    assert!(matches!(ended, Err(SourceError::Canceled)));
}
