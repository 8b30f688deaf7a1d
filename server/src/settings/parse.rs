//! Reads the values of settings. Empty means not set: the default.

use std::{net::SocketAddr, path::PathBuf};

/// A value that may be absent; clap would otherwise take `Option` for "the flag may be left out".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maybe<T>(pub Option<T>);

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
