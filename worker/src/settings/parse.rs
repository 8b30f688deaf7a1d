//! Reads the values of settings. Empty means not set: the default.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use proto::ids::is_slug;

use super::{Names, Paths};

/// Names of worker pools.
pub(super) fn pools(text: &str) -> Result<Names, String> {
    let names: Vec<String> = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return Ok(Names::from(["default".to_owned()]));
    }
    if names.iter().all(|name| is_slug(name)) {
        Ok(names.into())
    } else {
        Err(
            "NORA_BACKUP_WORKER_POOLS may hold names of 1 to 64 characters of a-z, 0-9, '-' and \
             '_', separated by commas"
                .to_owned(),
        )
    }
}

/// Absolute folders.
pub(super) fn roots(text: &str) -> Result<Paths, String> {
    let paths: Vec<PathBuf> = text
        .split(':')
        .map(str::trim)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .collect();
    if paths.iter().all(|path| Path::is_absolute(path)) {
        Ok(paths.into())
    } else {
        Err(
            "NORA_BACKUP_SOURCE_ROOTS may hold absolute paths of folders, separated by ':'"
                .to_owned(),
        )
    }
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    if text.trim().is_empty() {
        return Ok(IpAddr::from([0, 0, 0, 0]));
    }
    text.trim().parse().map_err(|_| {
        "NORA_BACKUP_WORKER_HEALTH_ADDRESS may hold an IP address, for example 0.0.0.0 or ::1"
            .to_owned()
    })
}

/// Yes or no.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text.trim() {
        "" | "false" | "0" => Ok(false),
        "true" | "1" => Ok(true),
        _ => Err("NORA_BACKUP_RESTORE_DEVICES may hold true or false".to_owned()),
    }
}
