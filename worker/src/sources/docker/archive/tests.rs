use super::*;

fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().unwrap()
}

fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(9);
    header
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    archive(|builder| {
        let mut header = header(tar::EntryType::Regular, content.len() as u64);
        builder.append_data(&mut header, name, content).unwrap();
    })
}

#[test]
fn members_come_with_their_contents() {
    let bytes = archive(|builder| {
        let long = "n".repeat(250);
        let mut folder = header(tar::EntryType::Directory, 0);
        builder
            .append_data(&mut folder, "d/", std::io::empty())
            .unwrap();
        builder
            .append_pax_extensions([
                ("mtime", &b"-1.25"[..]),
                ("uid", &b"3000000000"[..]),
                ("SCHILY.xattr.security.capability", &b"\0\n\xff"[..]),
            ])
            .unwrap();
        let mut plain = header(tar::EntryType::Regular, 600);
        plain.set_path("d/f").unwrap();
        plain.set_cksum();
        builder.append(&plain, &[5; 600][..]).unwrap();
        let mut named = header(tar::EntryType::Regular, 3);
        builder.append_data(&mut named, &long, &b"abc"[..]).unwrap();
        let mut link = header(tar::EntryType::Link, 0);
        builder.append_link(&mut link, "d/hard", "d/f").unwrap();
    });
    let mut archive = Archive::new(bytes.as_slice());
    let folder = archive.next().unwrap().unwrap();
    assert_eq!(folder.entry.r#type(), EntryType::Directory);
    let plain = archive.next().unwrap().unwrap();
    assert_eq!(plain.name, b"d/f");
    assert_eq!((plain.entry.uid, plain.entry.gid), (3_000_000_000, 8));
    assert_eq!(plain.entry.mode, 0o4755);
    assert_eq!(
        (plain.entry.mtime_seconds, plain.entry.mtime_nanos),
        (-2, 750_000_000)
    );
    assert_eq!(plain.entry.xattrs[0].value, b"\0\n\xff");
    let mut content = Vec::new();
    archive
        .content()
        .take(100)
        .read_to_end(&mut content)
        .unwrap();
    assert_eq!(content, [5; 100]);
    // The rest is passed over.
    let named = archive.next().unwrap().unwrap();
    assert_eq!(named.name.len(), 250);
    content.clear();
    archive.content().read_to_end(&mut content).unwrap();
    assert_eq!(content, b"abc");
    let link = archive.next().unwrap().unwrap();
    assert_eq!(
        (link.entry.r#type(), &link.link[..]),
        (EntryType::HardLink, &b"d/f"[..])
    );
    assert!(archive.next().unwrap().is_none());
}

#[test]
fn an_archive_that_ends_anywhere_but_at_its_end_is_cut_short() {
    let bytes = file("f", &[1; 700]);
    for length in 0..bytes.len() - 1024 {
        let mut archive = Archive::new(&bytes[..length]);
        let outcome = loop {
            match archive.next() {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        assert!(matches!(outcome, Err(ArchiveError::CutShort)), "{length}");
    }
    let mut archive = Archive::new(&bytes[..600]);
    archive.next().unwrap().unwrap();
    let error = std::io::copy(&mut archive.content(), &mut std::io::sink()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_is_not_understood_is_refused() {
    let mut damaged = file("f", b"x");
    damaged[3] ^= 1;
    assert!(matches!(
        Archive::new(damaged.as_slice()).next(),
        Err(ArchiveError::Malformed(_))
    ));
    let sparse = archive(|builder| {
        let mut header = header(tar::EntryType::GNUSparse, 0);
        builder
            .append_data(&mut header, "f", std::io::empty())
            .unwrap();
    });
    assert!(matches!(
        Archive::new(sparse.as_slice()).next(),
        Err(ArchiveError::Malformed(_))
    ));
}

proptest::proptest! {
    #[test]
    fn any_bytes_end_without_a_panic(bytes in proptest::collection::vec(0u8.., 0..4096)) {
        let mut archive = Archive::new(bytes.as_slice());
        while let Ok(Some(_)) = archive.next() {}
    }

    #[test]
    fn a_changed_byte_never_panics(at in 0usize..2048, byte in 0u8..) {
        let mut bytes = archive(|builder| {
            builder.append_pax_extensions([("path", &b"some/name"[..])]).unwrap();
            let mut header = header(tar::EntryType::Regular, 10);
            header.set_path("x").unwrap();
            header.set_cksum();
            builder.append(&header, &[1; 10][..]).unwrap();
        });
        bytes[at] = byte;
        let mut archive = Archive::new(bytes.as_slice());
        while let Ok(Some(_)) = archive.next() {}
    }
}
