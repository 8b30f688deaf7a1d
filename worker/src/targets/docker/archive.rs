//! Entries as the engine takes them: a pax archive.

use proto::vault::v1::{Entry, EntryType};

/// Largest number in an octal field of twelve bytes.
const OCTAL_12_MAX: u64 = 0o777_7777_7777;
/// Largest number in an octal field of eight bytes.
const OCTAL_8_MAX: u32 = 0o777_7777;
/// Longest name and link that the plain header holds.
const NAME_BYTES_MAX: usize = 100;
const BLOCK: u64 = 512;

/// What comes before an entry's content of `size` bytes.
pub(super) fn header(entry: &Entry, size: u64) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut name = entry.path.clone();
    if entry.r#type() == EntryType::Directory {
        name.push(b'/');
    }
    let records = records(entry, &name, size);
    let records = records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()));
    archive.append_pax_extensions(records)?;

    let mut header = tar::Header::new_ustar();
    let plain = header
        .as_ustar_mut()
        .ok_or_else(|| std::io::Error::other("a ustar header is none"))?;
    copy(&mut plain.name, &name);
    copy(&mut plain.linkname, &entry.link_target);
    header.set_entry_type(match entry.r#type() {
        EntryType::Directory => tar::EntryType::Directory,
        EntryType::Symlink => tar::EntryType::Symlink,
        EntryType::HardLink => tar::EntryType::Link,
        EntryType::Fifo => tar::EntryType::Fifo,
        EntryType::CharacterDevice => tar::EntryType::Char,
        EntryType::BlockDevice => tar::EntryType::Block,
        EntryType::Regular | EntryType::Unspecified => tar::EntryType::Regular,
    });
    header.set_mode(entry.mode & 0o7777);
    header.set_uid(entry.uid.min(OCTAL_8_MAX).into());
    header.set_gid(entry.gid.min(OCTAL_8_MAX).into());
    header.set_size(size.min(OCTAL_12_MAX));
    header.set_mtime(entry.mtime_seconds.clamp(0, OCTAL_12_MAX as i64) as u64);
    header.set_device_major(entry.device_major)?;
    header.set_device_minor(entry.device_minor)?;
    header.set_cksum();
    let mut bytes = archive.get_ref().clone();
    bytes.extend_from_slice(header.as_bytes());
    Ok(bytes)
}

/// Zeros after a content of `size` bytes.
pub(super) fn padding(size: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
    &ZEROS[..((BLOCK - size % BLOCK) % BLOCK) as usize]
}

/// What ends an archive.
pub(super) const END: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];

fn copy(field: &mut [u8], text: &[u8]) {
    let length = field.len().min(text.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// What does not fit the plain header.
fn records(entry: &Entry, name: &[u8], size: u64) -> Vec<(String, Vec<u8>)> {
    let mut records = Vec::new();
    let mut add = |key: &str, value: &[u8]| records.push((key.to_owned(), value.to_vec()));
    let fits = |text: &[u8]| text.len() <= NAME_BYTES_MAX && text.is_ascii();
    if !fits(name) {
        add("path", name);
    }
    if !fits(&entry.link_target) {
        add("linkpath", &entry.link_target);
    }
    if size > OCTAL_12_MAX {
        add("size", size.to_string().as_bytes());
    }
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if id > OCTAL_8_MAX {
            add(key, id.to_string().as_bytes());
        }
    }
    let plain = 0..=OCTAL_12_MAX as i64;
    if entry.mtime_nanos != 0 || !plain.contains(&entry.mtime_seconds) {
        let nanos = i128::from(entry.mtime_seconds) * 1_000_000_000 + i128::from(entry.mtime_nanos);
        let sign = if nanos < 0 { "-" } else { "" };
        let (whole, rest) = (
            nanos.unsigned_abs() / 1_000_000_000,
            nanos.unsigned_abs() % 1_000_000_000,
        );
        add("mtime", format!("{sign}{whole}.{rest:09}").as_bytes());
    }
    if entry.r#type() != EntryType::HardLink {
        for xattr in &entry.xattrs {
            // The names that Linux has are text, and a key can't hold a '='.
            if let Ok(name) = std::str::from_utf8(&xattr.name)
                && !name.contains('=')
            {
                add(&format!("SCHILY.xattr.{name}"), &xattr.value);
            }
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use proto::vault::v1::Xattr;
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let entry = Entry {
            path: [b"d/\xff".as_slice(), &[b'n'; 200]].concat(),
            r#type: EntryType::Regular.into(),
            mode: 0o4750,
            uid: 3_000_000_000,
            gid: 7,
            mtime_seconds: -2,
            mtime_nanos: 750_000_000,
            xattrs: vec![Xattr {
                name: b"security.capability".to_vec(),
                value: b"\x01\xff".to_vec(),
            }],
            ..Entry::default()
        };
        let mut bytes = header(&entry, 3).unwrap();
        bytes.extend_from_slice(b"abc");
        bytes.extend_from_slice(padding(3));
        bytes.extend_from_slice(&END);
        assert_eq!(bytes.len() % BLOCK as usize, 0);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut member = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(&*member.path_bytes(), &entry.path[..]);
        assert_eq!(member.header().uid().unwrap(), 3_000_000_000);
        assert_eq!(member.header().mode().unwrap(), 0o4750);
        let mut content = String::new();
        member.read_to_string(&mut content).unwrap();
        assert_eq!(content, "abc");
        let records: Vec<_> = member
            .pax_extensions()
            .unwrap()
            .unwrap()
            .map(|record| record.unwrap().key().unwrap().to_owned())
            .collect();
        assert_eq!(
            records,
            ["path", "uid", "mtime", "SCHILY.xattr.security.capability"]
        );
        assert!(bytes.windows(18).any(|part| part == b"mtime=-1.250000000"));
    }

    #[test]
    fn links_and_devices_have_no_content() {
        for kind in [
            EntryType::Symlink,
            EntryType::HardLink,
            EntryType::CharacterDevice,
        ] {
            let entry = Entry {
                path: b"x".to_vec(),
                r#type: kind.into(),
                link_target: b"target".to_vec(),
                device_major: 1,
                device_minor: 3,
                ..Entry::default()
            };
            let bytes = header(&entry, 0).unwrap();
            let header = tar::Header::from_byte_slice(&bytes);
            assert_eq!(header.link_name_bytes().as_deref(), Some(&b"target"[..]));
            assert_eq!(header.device_minor().unwrap(), Some(3));
        }
    }
}
