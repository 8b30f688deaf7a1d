//! Reads the values of settings. Empty means not set: the default.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// A value that may be absent; clap would otherwise take `Option` for "the flag may be left out".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maybe<T>(pub Option<T>);

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
    pub(super) fn count(&self, text: &str) -> Result<usize, String> {
        self.value(text).map(|value| value as usize)
    }

    /// The number as milliseconds.
    pub(super) fn millis(&self, text: &str) -> Result<Duration, String> {
        self.value(text).map(Duration::from_millis)
    }
}

/// The address of the gRPC services.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let text = match text.trim() {
        "" => super::LISTEN_DEFAULT,
        text => text,
    };
    text.parse().map_err(|_| {
        format!(
            "{} may hold an IP address and a port, for example {}",
            super::LISTEN,
            super::LISTEN_DEFAULT
        )
    })
}

/// The address for administrators; `off`: none.
pub(super) fn admin_address(text: &str) -> Result<Maybe<SocketAddr>, String> {
    let text = match text.trim() {
        "off" => return Ok(Maybe(None)),
        "" => super::ADMIN_DEFAULT,
        text => text,
    };
    text.parse().map(Some).map(Maybe).map_err(|_| {
        format!(
            "{} may hold an IP address and a port, for example {}, or off",
            super::ADMIN,
            super::ADMIN_DEFAULT
        )
    })
}

/// The address of the operations HTTP.
pub(super) fn optional_address(text: &str) -> Result<Maybe<SocketAddr>, String> {
    if text.trim().is_empty() {
        return Ok(Maybe(None));
    }
    text.trim().parse().map(Some).map(Maybe).map_err(|_| {
        format!(
            "{} may hold an IP address and a port, for example 127.0.0.1:9551",
            super::OPS
        )
    })
}

/// A file; clap's own parser refuses the empty path, which here means that none is set.
pub(super) fn path() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    use clap::builder::{StringValueParser, TypedValueParser as _};
    StringValueParser::new().map(PathBuf::from)
}

/// Yes or no.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text.trim() {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("NORA_BACKUP_REFLECTION may hold true or false".to_owned()),
    }
}
