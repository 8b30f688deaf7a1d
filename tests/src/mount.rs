//! Small file systems that fill up.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// A tmpfs of a given size, mounted until dropped.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at a folder that exists.
    pub fn mount(path: &Path, mib: u32) -> Result<Self> {
        run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mib}m,mode=700"),
                "tmpfs",
            ],
            path,
        )?;
        Ok(Self {
            path: path.to_path_buf(),
        })
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, mib: u32) -> Result<()> {
        run(
            "mount",
            &["-o", &format!("remount,size={mib}m")],
            &self.path,
        )
    }

    /// Makes it read-only, or writable again.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        run(
            "mount",
            &[
                "-o",
                if read_only {
                    "remount,ro"
                } else {
                    "remount,rw"
                },
            ],
            &self.path,
        )
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a program that still has a file open must not keep it mounted.
        let _ = run("umount", &["-l"], &self.path);
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .arg(path)
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
