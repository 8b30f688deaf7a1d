//! Where the build puts things.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The target folder: found from where this very program was built.
pub fn target_dir() -> Result<PathBuf> {
    let profile = profile_dir()?;
    profile
        .parent()
        .map(Path::to_path_buf)
        .with_context(|| format!("{} does not lie in a target folder", profile.display()))
}

/// The folder of the profile this program was built with, `target/debug`.
fn profile_dir() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program's own file")?;
    let folder = program.parent().context("a program lies in a folder")?;
    Ok(if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder).to_path_buf()
    } else {
        folder.to_path_buf()
    })
}

/// The program under test, `nora-backup`, built beforehand with the same
/// profile. `NORA_TEST_PROGRAM` names another one.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("NORA_TEST_PROGRAM") {
        return Ok(path.into());
    }
    program_named("nora-backup")
}

/// Another program of this project, built beforehand with the same profile.
/// `NORA_TEST_PROGRAMS` names another folder to find them in.
pub fn program_named(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("NORA_TEST_PROGRAMS") {
        Some(folder) => folder.into(),
        None => profile_dir()?,
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!(
            "{} is not there: run `make build` (or `cargo build --workspace --all-targets`) first",
            path.display()
        );
    }
    Ok(path)
}

/// The root of the workspace.
pub fn workspace_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_path_buf()
}

/// A temporary folder for one test, under the target folder: a real file system
/// with room, not a small tmpfs. Removed when dropped.
pub fn scratch(name: &str) -> tempfile::TempDir {
    let root = target_dir()
        .expect("tests run from a target folder")
        .join("scratch");
    std::fs::create_dir_all(&root).expect("make target/scratch");
    tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .tempdir_in(&root)
        .expect("make a scratch folder")
}
