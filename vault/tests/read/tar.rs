//! Archives, unpacked by the system's tar.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _, fs::PermissionsExt as _},
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;
use vault::{
    BackupReader, BackupWriter, TarSpec,
    format::{DataRun, Entry, EntryType, Xattr},
};

use crate::support::{Bench, add_file, add_sparse, file, folder, noise};

fn own_ids(mut entry: Entry) -> Entry {
    let own = fs::metadata(".").unwrap();
    (entry.uid, entry.gid) = (own.uid(), own.gid());
    entry
}

fn add(writer: &mut BackupWriter, path: &[u8], kind: EntryType, link: &[u8]) {
    let entry = Entry {
        path: path.to_vec(),
        r#type: kind.into(),
        mode: 0o640,
        mtime_seconds: 1_000_000_000,
        link_target: link.to_vec(),
        ..Entry::default()
    };
    writer.add(own_ids(entry)).unwrap();
}

fn add_with(writer: &mut BackupWriter, path: &[u8], data: &[u8], change: impl FnOnce(&mut Entry)) {
    let mut entry = file("", writer.write_content(&mut &data[..]).unwrap());
    entry.path = path.to_vec();
    let mut entry = own_ids(entry);
    change(&mut entry);
    writer.add(entry).unwrap();
}

const NON_UTF8: &[u8] = b"b\xffd";

/// One of everything.
fn fill(writer: &mut BackupWriter) {
    writer.add(own_ids(folder(""))).unwrap();
    add_with(writer, b"a-empty", b"", |_| {});
    add_with(writer, NON_UTF8, b"not utf-8", |_| {});
    add_with(writer, b"c-512", &noise(1, 512), |entry| {
        entry.mode = 0o4755;
    });
    add_with(writer, b"d-513", &noise(2, 513), |entry| {
        entry.xattrs = vec![
            Xattr {
                name: b"user.a=b%c".to_vec(),
                value: b"line\nand\0zero".to_vec(),
            },
            Xattr {
                name: b"user.plain".to_vec(),
                value: vec![0xff; 300],
            },
        ];
    });
    writer.add(own_ids(folder("dir"))).unwrap();
    let long = [&b"dir/"[..], &[b'n'; 255]].concat();
    add_with(writer, &long, &noise(3, 3_000_000), |entry| {
        (entry.mtime_seconds, entry.mtime_nanos) = (-2, 250_000_000);
    });
    add(writer, b"dir/z-link", EntryType::HardLink, b"c-512");
    add(writer, b"e-fifo", EntryType::Fifo, b"");
    let target = [b't'; 200];
    add(writer, b"f-symlink", EntryType::Symlink, &target);
    add(writer, b"g-\xc3\xa9", EntryType::Symlink, b"nowhere/\xfe");
    let sparse: &[(u64, Vec<u8>)] = &[(65_536, noise(4, 4096)), (1 << 20, noise(5, 8192))];
    for (path, size, runs) in [
        ("s-hole", 5 << 20, &sparse[..0]),
        ("s-inner", (1 << 20) + 8192, sparse),
        ("s-tail", 4 << 20, sparse),
    ] {
        let data: Vec<u8> = runs.iter().flat_map(|(_, data)| data.clone()).collect();
        let runs: Vec<DataRun> = runs
            .iter()
            .map(|(offset_bytes, data)| DataRun {
                offset_bytes: *offset_bytes,
                length_bytes: data.len() as u64,
            })
            .collect();
        let content = writer.write_sparse(size, &runs, &mut &data[..]).unwrap();
        writer.add(own_ids(file(path, content))).unwrap();
    }
}

fn export(reader: &BackupReader, spec: &TarSpec) -> Vec<u8> {
    let mut tar = Vec::new();
    reader.export_tar(spec, &mut tar).unwrap();
    assert_eq!(tar.len() % 512, 0);
    tar
}

/// Runs the system's tar on an archive; fails with what it says.
fn system_tar(archive: &Path, options: &[&str], into: &Path) -> Output {
    let output = Command::new("tar")
        .args(options)
        .arg("-f")
        .arg(archive)
        .arg("-C")
        .arg(into)
        .env("LC_ALL", "C")
        .output()
        .expect("these tests need GNU tar");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{complaint}");
    output
}

fn unpack(tar: &[u8], options: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let archive = folder.path().join("archive");
    let into = folder.path().join("into");
    fs::create_dir(&into).unwrap();
    fs::write(&archive, tar).unwrap();
    system_tar(&archive, options, &into);
    folder
}

#[test]
fn the_systems_tar_unpacks_what_was_backed_up() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let reader = bench.reader(&at).unwrap();
    let mut zst = Vec::new();
    reader
        .export_tar_zst(&TarSpec::default(), &mut zst)
        .unwrap();
    let options = ["--zstd", "-x", "-p", "--xattrs", "--xattrs-include=*"];
    let unpacked = unpack(&zst, &options);
    let into = unpacked.path().join("into");
    let mut found = 0;
    for entry in reader.entries(None).unwrap() {
        let entry = entry.unwrap();
        found += 1;
        let path = into.join(OsStr::from_bytes(&entry.path));
        let shown = String::from_utf8_lossy(&entry.path).into_owned();
        let metadata = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{shown}: {e}"));
        assert_eq!((metadata.uid(), metadata.gid()), (entry.uid, entry.gid));
        if let Some(content) = &entry.content {
            let data = fs::read(&path).unwrap();
            assert!(
                data == crate::support::read_content(&reader, content, 0),
                "{shown}"
            );
            if !content.data_runs.is_empty() {
                assert!(metadata.blocks() * 512 < 100_000, "{shown} has no holes");
            }
        }
        match entry.r#type() {
            EntryType::Symlink => {
                let target = fs::read_link(&path).unwrap();
                assert_eq!(target.as_os_str().as_bytes(), entry.link_target);
            }
            EntryType::HardLink => {
                let other = into.join(OsStr::from_bytes(&entry.link_target));
                assert_eq!(metadata.ino(), fs::metadata(other).unwrap().ino());
            }
            _ => {
                assert_eq!(
                    metadata.permissions().mode() & 0o7777,
                    entry.mode,
                    "{shown}"
                );
                let time = (metadata.mtime(), metadata.mtime_nsec());
                let expected = (entry.mtime_seconds, i64::from(entry.mtime_nanos));
                assert_eq!(time, expected, "{shown}");
            }
        }
        for xattr in &entry.xattrs {
            let mut value = vec![0; 1000];
            let name = OsStr::from_bytes(&xattr.name);
            let length = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
            assert_eq!(value[..length], xattr.value, "{name:?}");
        }
    }
    assert_eq!(found, 14);
}

#[test]
fn the_same_backup_gives_the_same_bytes() {
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let spec = TarSpec::default();
    let once = export(&bench.reader(&at).unwrap(), &spec);
    assert!(once == export(&bench.reader(&at).unwrap(), &spec));
    let zst = |reader: BackupReader| {
        let mut out = Vec::new();
        reader.export_tar_zst(&spec, &mut out).unwrap();
        out
    };
    let compressed = zst(bench.reader(&at).unwrap());
    assert!(compressed == zst(bench.reader(&at).unwrap()));
    assert!(zstd::decode_all(&compressed[..]).unwrap() == once);
}

/// When this fails, archives have changed: set another `ENCODER_VERSION`, or
/// downloads are resumed in the middle of other bytes.
#[test]
fn archives_are_what_their_version_says() {
    let bench = Bench::new();
    let at = bench.back_up("b1", |writer| {
        writer.add(folder("")).unwrap();
        add_file(writer, "a", &noise(1, 700_000));
        add_file(writer, &"b".repeat(200), &vec![b'b'; 300_000]);
        add_sparse(writer, "c", 1 << 20, &[(4096, noise(2, 5000))]);
        let mut link = folder("d");
        (link.r#type, link.link_target) = (EntryType::Symlink.into(), b"a".to_vec());
        writer.add(link).unwrap();
    });
    let reader = bench.reader(&at).unwrap();
    let spec = TarSpec::default();
    let mut compressed = Vec::new();
    reader.export_tar_zst(&spec, &mut compressed).unwrap();
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex()[..16].to_owned();
    assert_eq!(
        (
            vault::read::ENCODER_VERSION,
            &*hash(&export(&reader, &spec)),
            &*hash(&compressed)
        ),
        ("tar1-zstd1.5.7-3", "3232f31ed4a14e6c", "40a5217dd9aed2b0")
    );
}

#[test]
fn another_reader_of_tars_agrees() {
    let bench = Bench::new();
    let at = bench.back_up("b1", |writer| {
        writer.add(folder("")).unwrap();
        add_file(writer, "a", b"abc");
        let mut entry = file("b", writer.write_content(&mut &b"xyz"[..]).unwrap());
        (entry.uid, entry.gid) = (3_000_000, u32::MAX - 1);
        (entry.user_name, entry.group_name) = ("us\u{e9}r".into(), "g".repeat(40));
        writer.add(entry).unwrap();
        let mut device = folder("c");
        device.r#type = EntryType::CharacterDevice.into();
        (device.device_major, device.device_minor) = (5, 0x0fff_ffff);
        writer.add(device).unwrap();
    });
    let reader = bench.reader(&at).unwrap();
    let spec = TarSpec {
        prepend: b"rootfs/".to_vec(),
        ..TarSpec::default()
    };
    let tar = export(&reader, &spec);
    let mut archive = tar::Archive::new(&tar[..]);
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut records = BTreeMap::new();
        if let Some(extensions) = entry.pax_extensions().unwrap() {
            for record in extensions {
                let record = record.unwrap();
                let value = record.value_bytes().to_vec();
                records.insert(record.key().unwrap().to_owned(), value);
            }
        }
        if name == "rootfs/b" {
            assert_eq!(records["uid"], b"3000000");
            assert_eq!(records["gid"], b"4294967294");
            assert_eq!(records["uname"], "us\u{e9}r".as_bytes());
            assert_eq!(records["gname"], "g".repeat(40).as_bytes());
            assert_eq!(records["mtime"], b"1700000000.000000005");
            assert_eq!(entry.size(), 3);
        }
        if name == "rootfs/c" {
            let header = entry.header();
            assert_eq!(header.device_major().unwrap(), Some(5));
            assert_eq!(header.as_old().linkflag, [b'3']);
        }
        names.push(name);
    }
    assert_eq!(names, ["rootfs/", "rootfs/a", "rootfs/b", "rootfs/c"]);
}

#[test]
fn a_part_of_a_backup_stands_on_its_own() {
    let bench = Bench::new();
    let data = noise(8, 100_000);
    let at = bench.back_up("b1", |writer| {
        writer.add(own_ids(folder(""))).unwrap();
        writer.add(own_ids(folder("a"))).unwrap();
        add_with(writer, b"a/outside", &data, |_| {});
        writer.add(own_ids(folder("part"))).unwrap();
        add_with(writer, b"part/file", b"inside", |_| {});
        for (path, target) in [
            (&b"part/link-1"[..], &b"a/outside"[..]),
            (b"part/link-2", b"a/outside"),
            (b"part/link-3", b"part/file"),
        ] {
            add(writer, path, EntryType::HardLink, target);
        }
        add_file(writer, "partner", b"other");
    });
    let reader = bench.reader(&at).unwrap();
    let spec = TarSpec {
        prefix: b"part".to_vec(),
        prepend: Vec::new(),
    };
    let unpacked = unpack(&export(&reader, &spec), &["-x"]);
    let into = unpacked.path().join("into");
    assert_eq!(fs::read_dir(&into).unwrap().count(), 1);
    assert_eq!(fs::read_dir(into.join("part")).unwrap().count(), 4);
    assert!(fs::read(into.join("part/link-1")).unwrap() == data);
    let inode = |name: &str| fs::metadata(into.join(name)).unwrap().ino();
    assert_eq!(inode("part/link-1"), inode("part/link-2"));
    assert_eq!(inode("part/file"), inode("part/link-3"));
    let spec = TarSpec {
        prefix: b"part/file".to_vec(),
        prepend: Vec::new(),
    };
    let unpacked = unpack(&export(&reader, &spec), &["-x"]);
    let file = unpacked.path().join("into/part/file");
    assert_eq!(fs::read(file).unwrap(), b"inside");
}

#[test]
fn a_sink_that_fails_ends_the_export() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0 < bytes.len() {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0 -= bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let bench = Bench::new();
    let at = bench.back_up("b1", fill);
    let reader = bench.reader(&at).unwrap();
    for room in [0, 1000, 500_000] {
        let error = reader.export_tar(&TarSpec::default(), &mut Full(room));
        assert!(matches!(error, Err(vault::VaultError::Sink(_))));
        let error = reader.export_tar_zst(&TarSpec::default(), &mut Full(room));
        assert!(matches!(error, Err(vault::VaultError::Sink(_))));
    }
}
