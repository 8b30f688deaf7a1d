//! The folders under which sources and targets may lie, and nothing else.
//!
//! A path is resolved first, links and all; what it resolves to must lie under an allowed root.
//! Then it is opened from that root, component by component and through no link: what someone
//! replaces meanwhile is refused, not followed.

use std::{
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{open, openat},
    io::Errno,
};

use super::{FOLDER, NO_MODE, cause, show_path};
use crate::settings::Paths;

/// Why a path is not opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RootError {
    /// It does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It is not under an allowed root, or not accessible.
    #[error("{0}")]
    Denied(String),
}

/// The allowed roots.
#[derive(Debug, Clone)]
pub(crate) struct Roots(Paths);

impl Roots {
    /// What the operator allowed.
    pub(crate) fn new(paths: &Paths) -> Self {
        Self(paths.clone())
    }

    /// Opens an existing folder; also returns where it really is.
    pub(crate) fn open(&self, path: &Path) -> Result<(OwnedFd, PathBuf), RootError> {
        let shown = show_path(path);
        if self.0.is_empty() {
            return Err(RootError::Denied(format!(
                "folder {shown} may not be used: no folders are allowed yet; set \
                 NORA_BACKUP_SOURCE_ROOTS on the workers to the folders under which agents live"
            )));
        }
        let plain = path.is_absolute()
            && !path
                .components()
                .any(|component| component == Component::ParentDir);
        if !plain {
            return Err(RootError::Denied(format!(
                "folder {shown} may not be used: give an absolute path without '..'"
            )));
        }
        let within = |path: &Path| {
            self.0.iter().find_map(|root| {
                let root = root.canonicalize().ok()?;
                path.starts_with(&root).then_some(root)
            })
        };
        // Outside of the roots it does not show whether something exists.
        let named_within =
            within(path).is_some() || self.0.iter().any(|root| path.starts_with(root));
        let resolved = match path.canonicalize() {
            Ok(resolved) => resolved,
            Err(error) if named_within && error.kind() == io::ErrorKind::NotFound => {
                return Err(RootError::NotFound(format!(
                    "folder {shown} does not exist: make it, or register the agent with the \
                     folder where it is now"
                )));
            }
            Err(error) if named_within => {
                return Err(RootError::Denied(format!(
                    "folder {shown} can't be opened ({}): let the worker's user read it",
                    cause(Errno::from_io_error(&error).unwrap_or(Errno::IO))
                )));
            }
            Err(_) => return Err(not_allowed(path)),
        };
        let root = within(&resolved).ok_or_else(|| not_allowed(path))?;
        let folder = open_below(&root, &resolved).map_err(|error| match error {
            Errno::NOENT => RootError::NotFound(format!(
                "folder {shown} does not exist any more: make it, or register the agent with \
                 the folder where it is now"
            )),
            Errno::NOTDIR => {
                RootError::Denied(format!("{shown} is not a folder: name the folder to use"))
            }
            error => RootError::Denied(format!(
                "folder {shown} can't be opened ({}): let the worker's user read it",
                cause(error)
            )),
        })?;
        Ok((folder, resolved))
    }
}

fn not_allowed(path: &Path) -> RootError {
    let shown = show_path(path);
    RootError::Denied(format!(
        "folder {shown} may not be used: it is not under a folder that NORA_BACKUP_SOURCE_ROOTS \
         allows on the workers"
    ))
}

fn open_below(root: &Path, resolved: &Path) -> Result<OwnedFd, Errno> {
    let mut folder = open(root, FOLDER, NO_MODE)?;
    let below = resolved.strip_prefix(root).map_err(|_| Errno::ACCESS)?;
    for component in below.components() {
        folder = openat(&folder, component.as_os_str().as_bytes(), FOLDER, NO_MODE)?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_lies_under_a_root_after_resolving() {
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("root/agent")).unwrap();
        std::fs::create_dir_all(base.join("outside")).unwrap();
        std::fs::write(base.join("root/file"), "").unwrap();
        symlink(base.join("outside"), base.join("root/out")).unwrap();
        symlink(base.join("root/agent"), base.join("in")).unwrap();
        let roots = Roots::new(&Paths::from([base.join("root")]));

        assert_eq!(
            roots.open(&base.join("root/agent")).unwrap().1,
            base.join("root/agent")
        );
        assert_eq!(
            roots.open(&base.join("in")).unwrap().1,
            base.join("root/agent")
        );
        let denied = |path: PathBuf| matches!(roots.open(&path), Err(RootError::Denied(message)) if message.contains("NORA_BACKUP_SOURCE_ROOTS"));
        assert!(denied(base.join("root/out")));
        assert!(denied(base.join("outside")));
        assert!(denied(base.join("no-such-thing")));
        assert!(matches!(
            roots.open(&base.join("root/missing")),
            Err(RootError::NotFound(_))
        ));
        assert!(
            matches!(roots.open(&base.join("root/file")), Err(RootError::Denied(m)) if m.contains("not a folder"))
        );
        assert!(
            matches!(roots.open(&base.join("root/../outside")), Err(RootError::Denied(m)) if m.contains(".."))
        );
        assert!(
            matches!(Roots::new(&Paths::from([])).open(&base), Err(RootError::Denied(m)) if m.contains("set"))
        );
    }
}
