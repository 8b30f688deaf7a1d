//! Whom to log in as, where, and with what: the description, checked.

use std::sync::Arc;

use proto::backup::v1::SshDestination;
use russh::keys::{PrivateKey, decode_secret_key};
use zeroize::Zeroizing;

use super::trust::{Trust, parse_host_keys};
use crate::{
    destination::{FieldNames, HostKeys},
    error::{StoreError, StoreErrorKind},
};

const HOST_CHARS_MAX: usize = 255;
const NAME_CHARS_MAX: usize = 256;
const PATH_BYTES_MAX: usize = 4096;
/// Keys, and lists of host keys.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// What is wrong with a description: the field, and what goes on after its name.
pub(crate) fn problems(described: &SshDestination) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    for (field, value, bytes_max, to) in [
        (
            "host",
            &described.host,
            HOST_CHARS_MAX,
            "the name or address of the SSH server",
        ),
        (
            "username",
            &described.username,
            NAME_CHARS_MAX,
            "the user to log in as",
        ),
        (
            "remote_path",
            &described.remote_path,
            PATH_BYTES_MAX,
            "the folder for the vaults",
        ),
    ] {
        if value.trim().is_empty() {
            problems.push((field, format!("is not set: set it to {to}")));
        } else if value.len() > bytes_max || value.chars().any(char::is_control) {
            problems.push((
                field,
                format!("is too long or holds control characters: set it to {to}"),
            ));
        }
    }
    let host = described.host.trim();
    if host.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '@')) {
        problems.push(("host", format!("is {host:?}: set it to a name or address alone; user, port and path have fields of their own")));
    }
    if described.port > u32::from(u16::MAX) {
        problems.push((
            "port",
            format!("is {}: set it to 1 to 65535", described.port),
        ));
    }
    if described.private_key.len() > TEXT_BYTES_MAX || described.host_key.len() > TEXT_BYTES_MAX {
        problems.push((
            "private_key",
            "or the host key is longer than any is".to_owned(),
        ));
        return problems;
    }
    match private_key(&described.private_key, &described.passphrase) {
        Ok(None) if described.password.is_empty() => problems.push((
            "private_key",
            "is not set, and the password neither: set one of them".to_owned(),
        )),
        Ok(_) => {}
        Err(problem) => problems.push(problem),
    }
    if let Err(what) = parse_host_keys(&described.host_key) {
        problems.push(("host_key", what));
    }
    problems
}

/// A checked description.
pub(super) struct Account {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) username: String,
    /// Without a '/' at its end; empty for the root folder.
    pub(super) root: String,
    pub(super) key: Option<Arc<PrivateKey>>,
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) trust: Trust,
    names: FieldNames,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({}@{})", self.username, self.place())
    }
}

impl Account {
    pub(super) fn new(
        described: &SshDestination,
        host_keys: &Arc<dyn HostKeys>,
        names: FieldNames,
    ) -> Result<Self, StoreError> {
        let wrong = |field: &str, what: String| StoreError {
            action: "open",
            object: "the destination".to_owned(),
            kind: StoreErrorKind::Misconfigured,
            detail: format!("{} {what}", names.name(&format!("ssh.{field}"))),
        };
        let key = private_key(&described.private_key, &described.passphrase)
            .map_err(|(field, what)| wrong(field, what))?;
        let pinned = parse_host_keys(&described.host_key).map_err(|e| wrong("host_key", e))?;
        let trust = if pinned.is_empty() && described.trust_first_key {
            Trust::FirstKey(host_keys.clone())
        } else {
            Trust::Keys(pinned)
        };
        Ok(Self {
            host: described.host.trim().trim_matches(['[', ']']).to_owned(),
            port: match described.port {
                0 => 22,
                port => u16::try_from(port)
                    .map_err(|_| wrong("port", format!("is {port}: set it to 1 to 65535")))?,
            },
            username: described.username.trim().to_owned(),
            root: root(&described.remote_path),
            key,
            password: (!described.password.is_empty())
                .then(|| Zeroizing::new(described.password.clone())),
            trust,
            names,
        })
    }

    /// What a field is called where this description came from.
    pub(super) fn field(&self, field: &str) -> String {
        self.names.name(&format!("ssh.{field}"))
    }

    /// The server, as messages name it.
    pub(super) fn place(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Where an object or folder lies.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}/{}", self.root, name.trim_end_matches('/'))
    }
}

/// SFTP does not know '~', but begins where it means.
fn root(path: &str) -> String {
    let path = path.trim().trim_end_matches('/');
    match path {
        "~" => ".",
        path => path.strip_prefix("~/").unwrap_or(path),
    }
    .to_owned()
}

fn private_key(
    text: &str,
    passphrase: &str,
) -> Result<Option<Arc<PrivateKey>>, (&'static str, String)> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    // As it survives a variable of one line.
    let text = Zeroizing::new(text.replace("\\n", "\n").replace('\r', ""));
    let tried = decode_secret_key(&text, (!passphrase.is_empty()).then_some(passphrase));
    let encrypted = text.contains("ENCRYPTED")
        || matches!(tried, Err(russh::keys::Error::KeyIsEncrypted))
        || PrivateKey::from_openssh(&*text).is_ok_and(|key| key.is_encrypted());
    match tried {
        Ok(key) if !key.is_encrypted() => Ok(Some(Arc::new(key))),
        _ if encrypted && passphrase.is_empty() => Err((
            "passphrase",
            "is not set, and the private key is encrypted: set it to the key's passphrase"
                .to_owned(),
        )),
        _ if encrypted => Err((
            "passphrase",
            "does not open the private key: set it to the passphrase of this key".to_owned(),
        )),
        // What the library says may quote what it read.
        _ => Err((
            "private_key",
            "is no private key that can be read: set it to the whole text of an OpenSSH or PEM \
             private key, from its BEGIN line to its END line"
                .to_owned(),
        )),
    }
}
