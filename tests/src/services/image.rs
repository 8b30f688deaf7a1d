//! The image that test containers are made from: one static program with all its
//! names, the few files a system has, and a little content of its own.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};

/// Files of the image: path, mode, content.
const FILES: &[(&str, u32, &str)] = &[
    (
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000:agent:/home/agent:/bin/sh\n",
    ),
    ("etc/group", 0o644, "root:x:0:\nagent:x:1000:\n"),
    ("etc/motd", 0o644, "nora-test-agent\n"),
    ("etc/agent.conf", 0o640, "model=small\nretries=3\n"),
    (
        "opt/agent/README",
        0o644,
        "Content of the image: present in every container.\n",
    ),
    (
        "opt/agent/unwanted",
        0o644,
        "A container may remove this.\n",
    ),
];

/// Folders of the image: path, mode.
const FOLDERS: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("home/agent", 0o755),
    ("opt", 0o755),
    ("opt/agent", 0o755),
    ("root", 0o700),
    ("tmp", 0o1777),
    ("var", 0o755),
];

/// A tar of the image's root.
pub(super) fn rootfs(busybox: &Path) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (path, mode) in FOLDERS {
        let mut header = header(EntryType::Directory, *mode, 0);
        tar.append_data(&mut header, path, std::io::empty())?;
    }
    for (path, mode, content) in FILES {
        let mut header = header(EntryType::Regular, *mode, content.len() as u64);
        tar.append_data(&mut header, path, content.as_bytes())?;
    }
    let program = fs::read(busybox).with_context(|| format!("read {}", busybox.display()))?;
    let mut head = header(EntryType::Regular, 0o755, program.len() as u64);
    tar.append_data(&mut head, "bin/busybox", program.as_slice())?;
    let list = Command::new(busybox)
        .arg("--list")
        .output()
        .context("list the applets of busybox")?;
    for applet in String::from_utf8_lossy(&list.stdout)
        .lines()
        .filter(|name| *name != "busybox")
    {
        let mut head = header(EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut head, format!("bin/{applet}"), "busybox")?;
    }
    Ok(tar.into_inner()?)
}

/// Whether a program needs no shared libraries.
pub(super) fn is_static(program: &Path) -> Result<bool> {
    let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let loaders: [&[u8]; 2] = [b"/ld-linux", b"/ld-musl"];
    Ok(!loaders
        .iter()
        .any(|name| bytes.windows(name.len()).any(|window| window == *name)))
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_700_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}
