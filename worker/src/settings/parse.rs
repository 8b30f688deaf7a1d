//! Reads the values of settings. Empty means not set: the default.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Names, Paths};

/// A setting that is a whole number.
pub(super) struct Whole {
    /// The environment variable.
    pub(super) variable: &'static str,
    /// What holds when it is not set.
    pub(super) default: u64,
    /// The same as text, for the help.
    pub(super) default_text: &'static str,
    /// The least allowed value.
    pub(super) min: u64,
    /// The largest allowed value.
    pub(super) max: u64,
    /// What is counted, with a space before it.
    pub(super) unit: &'static str,
}

impl Whole {
    fn value(&self, text: &str) -> Result<u64, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(self.default);
        }
        text.parse()
            .ok()
            .filter(|value| (self.min..=self.max).contains(value))
            .ok_or_else(|| {
                format!(
                    "{} may hold a whole number from {} to {}{}",
                    self.variable, self.min, self.max, self.unit
                )
            })
    }

    /// The number; the largest allowed value fits.
    pub(super) fn count(&self, text: &str) -> Result<u16, String> {
        self.value(text).map(|value| value as u16)
    }

    /// The number, however large.
    pub(super) fn number(&self, text: &str) -> Result<u64, String> {
        self.value(text)
    }

    /// The number as milliseconds.
    pub(super) fn millis(&self, text: &str) -> Result<Duration, String> {
        self.value(text).map(Duration::from_millis)
    }
}

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
    let valid = |name: &String| {
        name.len() <= 64
            && name.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)
            })
    };
    if names.iter().all(valid) {
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
