//! What a standalone says when it is ready: where things are, what to type next.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    StandaloneArgs,
    data_dir::{self, DataDir},
};
use crate::{error::Result, output::Output};

/// What it listens on.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// For everyone.
    pub public: SocketAddr,
    /// For administrators.
    pub admin: Option<SocketAddr>,
}

/// Where things are, and what to type next.
pub fn announce(
    args: &StandaloneArgs,
    dir: &DataDir,
    addresses: Addresses,
    made_key: bool,
    out: Output,
) -> Result<()> {
    let tls = !args.server.tls_certificate.as_os_str().is_empty();
    let address = addresses.public;
    let admin_url = addresses.admin.map(|admin| url(admin, tls));
    let url = url(address, tls);
    let key_from_file = dir
        .kept_key()?
        .is_some_and(|key| key == args.keys.encryption_key.trim());
    if out.json {
        return out.event(&json!({
            "url": url,
            "admin_url": admin_url,
            "data_dir": dir.path().to_string_lossy(),
            "token_file": dir.token_file().to_string_lossy(),
            "key_file": key_from_file.then(|| dir.key_file().to_string_lossy().into_owned()),
            "key_made": made_key,
        }));
    }
    let key = match (key_from_file, made_key) {
        (false, _) => "from NORA_BACKUP_ENCRYPTION_KEY".to_string(),
        (true, false) => dir.key_file().display().to_string(),
        (true, true) => format!(
            "{}  (new: keep a copy elsewhere, without it no backup can be opened)",
            dir.key_file().display()
        ),
    };
    let roots: Vec<String> = args
        .worker
        .source_roots
        .iter()
        .map(|root| root.display().to_string())
        .collect();
    let is_default = data_dir::default_path().is_ok_and(|path| path == dir.path())
        && address.to_string() == crate::args::DEFAULT_LISTEN;
    let admin = admin_url.as_deref().unwrap_or("nowhere");
    let mut text = format!(
        "nora-backup {} is ready at {url}\n  \
         admin    {admin}\n  \
         data     {}\n  \
         backups  {}\n  \
         key      {key}\n  \
         token    {}\n  \
         agents   under {}  (--source-root allows other folders)\n\n\
         Next, in another terminal:\n",
        env!("CARGO_PKG_VERSION"),
        dir.path().display(),
        backups(args),
        dir.token_file().display(),
        roots.join(", "),
    );
    if !is_default {
        let _ = writeln!(
            text,
            "  export NORA_BACKUP_SERVER={url} NORA_BACKUP_TOKEN_FILE={}",
            quoted(&dir.token_file())
        );
        if let Some(admin_url) = &admin_url {
            let _ = writeln!(text, "  export NORA_BACKUP_ADMIN_SERVER={admin_url}");
        }
    }
    let example = args
        .worker
        .source_roots
        .first()
        .map_or_else(PathBuf::new, |r| r.join("my-agent"));
    let _ = write!(
        text,
        "  nora-backup agent register my-agent --directory {}\n  \
         nora-backup backup create my-agent --watch\n  \
         nora-backup backup list\n",
        quoted(&example)
    );
    out.note(text);
    Ok(())
}

/// Where backups are kept.
fn backups(args: &StandaloneArgs) -> String {
    if args.destination.is_local() {
        return args.destination.dir.join("vaults").display().to_string();
    }
    let destination = args.destination.destination().unwrap_or_default();
    vault::destination::place(&destination)
}

/// The address as a client on this machine types it.
pub fn url(address: SocketAddr, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    if address.ip().is_unspecified() {
        return format!("{scheme}://127.0.0.1:{}", address.port());
    }
    format!("{scheme}://{address}")
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_shells() {
        assert_eq!(quoted(Path::new("/a/b-c.d")), "/a/b-c.d");
        assert_eq!(quoted(Path::new("/a b/it's")), "'/a b/it'\\''s'");
    }

    #[test]
    fn addresses_for_clients() {
        let any: SocketAddr = "0.0.0.0:7000".parse().expect("address");
        assert_eq!(url(any, false), "http://127.0.0.1:7000");
        assert_eq!(
            url("[::1]:7".parse().expect("address"), true),
            "https://[::1]:7"
        );
    }
}
