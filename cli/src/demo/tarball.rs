//! Archives as a Docker Engine takes and gives them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Seek as _, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use tar::{Archive, Builder, EntryType, Header};

use super::compare::{Differences, same_bytes};

/// Everything of a made-up agent belongs to this user in the container.
const OWNER: u64 = 1000;
/// `PT_INTERP`: an ELF file with this asks for a dynamic linker.
const ELF_INTERPRETER: u32 = 3;

/// Writes a folder as an archive; sparse files as their bytes.
pub fn pack(root: &Path, into: impl Write) -> io::Result<()> {
    let mut tar = Builder::new(into);
    let mut names = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let mut children: Vec<_> =
            fs::read_dir(root.join(&folder))?.collect::<io::Result<Vec<_>>>()?;
        children.sort_by_key(fs::DirEntry::file_name);
        for child in children {
            let path = folder.join(child.file_name());
            let full = child.path();
            let metadata = full.symlink_metadata()?;
            let mut header = Header::new_gnu();
            header.set_metadata(&metadata);
            header.set_uid(OWNER);
            header.set_gid(OWNER);
            // The crate has no times before 1970.
            header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
            header.set_size(0);
            let kind = metadata.file_type();
            if kind.is_symlink() {
                tar.append_link(&mut header, &path, fs::read_link(&full)?)?;
            } else if kind.is_dir() {
                tar.append_data(&mut header, &path, io::empty())?;
                folders.push(path);
            } else if kind.is_fifo() {
                header.set_entry_type(EntryType::Fifo);
                tar.append_data(&mut header, &path, io::empty())?;
            } else if let Some(first) = names.get(&(metadata.dev(), metadata.ino())) {
                header.set_entry_type(EntryType::Link);
                tar.append_link(&mut header, &path, first)?;
            } else {
                header.set_size(metadata.len());
                tar.append_data(&mut header, &path, File::open(&full)?)?;
                names.insert((metadata.dev(), metadata.ino()), path);
            }
        }
    }
    tar.finish()
}

/// A root file system with nothing but busybox.
pub fn busybox_image(busybox: &Path) -> io::Result<Vec<u8>> {
    let program = fs::read(busybox)?;
    if !is_static(&program) {
        return Err(io::Error::other(format!(
            "{} is not statically linked; install busybox-static, or name an --image",
            busybox.display()
        )));
    }
    let mut tar = Builder::new(Vec::new());
    let folder = |mode| {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        header
    };
    for path in ["bin", "etc", "home", "home/agent"] {
        tar.append_data(&mut folder(0o755), path, io::empty())?;
    }
    tar.append_data(&mut folder(0o1777), "tmp", io::empty())?;
    let mut header = Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    tar.append_data(&mut header, "bin/busybox", program.as_slice())?;
    for applet in ["sh", "sleep", "rm", "cat", "ls"] {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    tar.into_inner()
}

/// Whether a 64-bit ELF program needs no dynamic linker.
fn is_static(program: &[u8]) -> bool {
    let number = |at: usize, length: usize| {
        let bytes = program.get(at..at + length)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)),
        )
    };
    let walk = || -> Option<bool> {
        let is_elf64 = program.get(..5)? == b"\x7fELF\x02";
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let mut dynamic = false;
        for index in 0..count {
            let kind = number(usize::try_from(start + index * size).ok()?, 4)?;
            dynamic |= kind == u64::from(ELF_INTERPRETER);
        }
        Some(is_elf64 && !dynamic)
    };
    walk().unwrap_or(false)
}

/// One entry of an archive, and where its bytes lie.
#[derive(Debug)]
struct Entry {
    /// All that the header says, as text.
    text: String,
    offset: u64,
    size: u64,
}

fn index(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Entry>> {
    let mut archive = Archive::new(File::open(path)?);
    let mut found = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let header = entry.header();
        let link = entry
            .link_name_bytes()
            .map(|link| String::from_utf8_lossy(&link).into_owned());
        let text = format!(
            "{:?}, mode {:o}, owner {}:{}, {} bytes, time {}, link {link:?}",
            header.entry_type(),
            header.mode()? & 0o7777,
            header.uid()?,
            header.gid()?,
            entry.size(),
            header.mtime()?,
        );
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let path = entry.path()?.as_os_str().as_bytes().to_vec();
        found.insert(path, Entry { text, offset, size });
    }
    Ok(found)
}

/// What archive `b` has otherwise than `a`, and how many entries `a` has.
pub fn differences(a: &Path, b: &Path) -> io::Result<(Differences, usize)> {
    let (in_a, in_b) = (index(a)?, index(b)?);
    let (mut file_a, mut file_b) = (File::open(a)?, File::open(b)?);
    let mut found = Differences::default();
    for (path, left) in &in_a {
        let Some(right) = in_b.get(path) else {
            found.add(path, "missing");
            continue;
        };
        if left.text != right.text {
            found.add(path, format!("{} is now {}", left.text, right.text));
        }
        if left.size == right.size {
            file_a.seek(SeekFrom::Start(left.offset))?;
            file_b.seek(SeekFrom::Start(right.offset))?;
            found.bytes += left.size;
            if !same_bytes((&file_a).take(left.size), (&file_b).take(right.size))? {
                found.add(path, "other contents");
            }
        }
    }
    for path in in_b.keys().filter(|path| !in_a.contains_key(*path)) {
        found.add(path, "was not there");
    }
    Ok((found, in_a.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_compared_to_the_last_byte() {
        let scratch = tempfile::tempdir().expect("folder");
        let root = scratch.path().join("root");
        fs::create_dir_all(root.join("sub")).expect("folder");
        fs::write(root.join("sub/file"), "one").expect("write");
        fs::hard_link(root.join("sub/file"), root.join("linked")).expect("link");
        std::os::unix::fs::symlink("sub", root.join("link")).expect("link");
        let (a, b) = (scratch.path().join("a"), scratch.path().join("b"));
        pack(&root, File::create(&a).expect("create")).expect("pack");
        fs::copy(&a, &b).expect("copy");
        let (found, entries) = differences(&a, &b).expect("compare");
        assert_eq!((found.total, entries), (0, 4), "{found:?}");
        fs::write(root.join("sub/file"), "two").expect("write");
        pack(&root, File::create(&b).expect("create")).expect("pack");
        let (found, _) = differences(&a, &b).expect("compare");
        assert!(
            found
                .lines
                .iter()
                .any(|line| line.contains("other contents")),
            "{found:?}"
        );
    }

    #[test]
    fn only_static_programs_make_an_image() {
        assert!(!is_static(b"#!/bin/sh\n"));
        assert!(!is_static(b"\x7fELF\x02"));
        let this = fs::read("/proc/self/exe").expect("this program");
        assert!(!is_static(&this), "tests are linked dynamically");
    }
}
