//! Which server is the right one: by host keys that are configured, or by the one
//! that was shown first.

use std::{fmt::Write as _, sync::Arc};

use russh::keys::{Algorithm, HashAlg, PublicKey};

use super::line::Fault;
use crate::{destination::HostKeys, error::StoreErrorKind};

/// Whom to trust.
#[derive(Debug)]
pub(super) enum Trust {
    /// Who shows one of these keys.
    Keys(Vec<PublicKey>),
    /// Who shows the key that was shown at the first connection.
    FirstKey(Arc<dyn HostKeys>),
}

/// Reads host keys as text, one a line: as in known_hosts ("host ssh-ed25519 AAAA...")
/// or as in a public key's file ("ssh-ed25519 AAAA... comment"). Comments begin with
/// '#'. A line that is none of these is an error that names its number.
pub(super) fn parse_host_keys(text: &str) -> Result<Vec<PublicKey>, String> {
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        let key = fields
            .windows(2)
            .take(2)
            .find_map(|pair| PublicKey::from_openssh(&pair.join(" ")).ok());
        keys.push(key.ok_or_else(|| {
            format!(
                "line {} is no host key: set it to what `ssh-keyscan` prints, for example \"ssh-ed25519 AAAA...\"",
                number + 1
            )
        })?);
    }
    Ok(keys)
}

/// The fingerprint as `ssh-keygen -l` prints it.
fn fingerprint(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

/// The key as a line of known_hosts has it.
fn as_text(key: &PublicKey) -> String {
    let mut key = key.clone();
    key.set_comment("");
    key.to_openssh().unwrap_or_default().trim().to_owned()
}

impl Trust {
    /// The algorithms whose keys can be checked, to be asked for first.
    pub(super) async fn algorithms(&self, host: &str, port: u16) -> Result<Vec<Algorithm>, Fault> {
        let keys = match self {
            Self::Keys(keys) => keys.clone(),
            Self::FirstKey(host_keys) => remembered(host_keys, host, port).await?,
        };
        Ok(keys.iter().map(PublicKey::algorithm).collect())
    }

    /// Whether who shows this key is the right one.
    pub(super) async fn check(
        &self,
        host: &str,
        port: u16,
        shown: &PublicKey,
        setting: &str,
    ) -> Result<(), Fault> {
        match self {
            Self::Keys(keys) if keys.is_empty() => Err(unknown(host, port, shown, setting)),
            Self::Keys(keys) => is_one_of(keys, host, port, shown, setting, setting),
            Self::FirstKey(host_keys) => {
                let mut keys = remembered(host_keys, host, port).await?;
                if keys.is_empty() {
                    let counts = host_keys.remember(host, port, &as_text(shown)).await;
                    keys = parse_remembered(&counts.map_err(not_told)?)?;
                }
                let whence = "remembered from the first connection";
                is_one_of(&keys, host, port, shown, whence, setting)
            }
        }
    }
}

async fn remembered(
    host_keys: &Arc<dyn HostKeys>,
    host: &str,
    port: u16,
) -> Result<Vec<PublicKey>, Fault> {
    match host_keys.remembered(host, port).await.map_err(not_told)? {
        Some(key) => parse_remembered(&key),
        None => Ok(Vec::new()),
    }
}

fn parse_remembered(text: &str) -> Result<Vec<PublicKey>, Fault> {
    match parse_host_keys(text) {
        Ok(keys) if !keys.is_empty() => Ok(keys),
        // Not "any key will do".
        _ => Err(Fault::new(
            StoreErrorKind::Untrusted,
            "the host key that is remembered can't be read: remove it, or pin the host key",
        )),
    }
}

fn not_told(error: crate::error::StoreError) -> Fault {
    Fault::new(
        StoreErrorKind::Unavailable,
        format!("the host keys that are remembered can't be looked up: {error}"),
    )
}

fn is_one_of(
    keys: &[PublicKey],
    host: &str,
    port: u16,
    shown: &PublicKey,
    whence: &str,
    setting: &str,
) -> Result<(), Fault> {
    if keys.iter().any(|key| key.key_data() == shown.key_data()) {
        return Ok(());
    }
    let mut expected = String::new();
    for key in keys {
        let between = if expected.is_empty() { "" } else { " or " };
        let _ = write!(expected, "{between}{}", fingerprint(key));
    }
    Err(Fault::new(
        StoreErrorKind::Untrusted,
        format!(
            "{host}:{port} shows the host key {}, expected is {expected} ({whence}). Either the server has a new key, or someone else answers in its place. {}",
            fingerprint(shown),
            how_to_accept(shown, setting),
        ),
    ))
}

fn unknown(host: &str, port: u16, shown: &PublicKey, setting: &str) -> Fault {
    Fault::new(
        StoreErrorKind::Untrusted,
        format!(
            "{host}:{port} shows the host key {}, and {setting} is not set to compare it with. {}",
            fingerprint(shown),
            how_to_accept(shown, setting),
        ),
    )
}

fn how_to_accept(shown: &PublicKey, setting: &str) -> String {
    format!(
        "Compare the fingerprint on the server itself (`ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub`); when it is the same, set {setting} to \"{}\"",
        as_text(shown)
    )
}

/// The lines of a known_hosts file that are of this host: plain or hashed names,
/// "[host]:port", patterns. Lines of certificate authorities are left out; a key that
/// is marked as revoked is left out wherever it stands.
pub(crate) fn known_hosts_keys(text: &str, host: &str, port: u16) -> Result<String, String> {
    let name = match port {
        22 => host.to_owned(),
        _ => format!("[{host}]:{port}"),
    };
    let mut keys: Vec<&str> = Vec::new();
    let mut revoked: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim) {
        let (marker, rest) = match line.split_once(char::is_whitespace) {
            Some((marker, rest)) if marker.starts_with('@') => (marker, rest.trim_start()),
            _ => ("", line),
        };
        let Some((names, key)) = rest.split_once(char::is_whitespace) else {
            continue;
        };
        if line.starts_with('#') || !names_match(names, &name) {
            continue;
        }
        match marker {
            "" => keys.push(key.trim()),
            "@revoked" => revoked.push(key.trim()),
            _ => {}
        }
    }
    let same = |a: &str, b: &str| {
        a.split_whitespace()
            .take(2)
            .eq(b.split_whitespace().take(2))
    };
    keys.retain(|key| {
        // Kinds of keys that this program does not know help nobody here.
        let known = parse_host_keys(key).is_ok_and(|keys| !keys.is_empty());
        known && !revoked.iter().any(|other| same(key, other))
    });
    if keys.is_empty() {
        return Err(format!(
            "has no key of {name}: add what `ssh-keyscan -p {port} {host}` prints, after comparing the fingerprint on the server"
        ));
    }
    Ok(keys.join("\n"))
}

fn names_match(names: &str, name: &str) -> bool {
    let mut matched = false;
    for pattern in names.split(',') {
        let (negated, pattern) = match pattern.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, pattern),
        };
        let matches = match pattern.strip_prefix("|1|") {
            Some(hashed) => hash_matches(hashed, name),
            None => pattern_matches(
                pattern.to_ascii_lowercase().as_bytes(),
                name.to_ascii_lowercase().as_bytes(),
            ),
        };
        if matches && negated {
            return false;
        }
        matched |= matches;
    }
    matched
}

/// A name as HMAC-SHA1 under a salt, both in base64.
fn hash_matches(hashed: &str, name: &str) -> bool {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let Some((salt, hash)) = hashed.split_once('|') else {
        return false;
    };
    let (Ok(salt), Ok(hash)) = (STANDARD.decode(salt), STANDARD.decode(hash)) else {
        return false;
    };
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    ring::hmac::verify(&key, name.as_bytes(), &hash).is_ok()
}

/// '*' is anything, '?' one byte.
fn pattern_matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|at| pattern_matches(rest, &name[at..])),
        Some((one, rest)) => name.split_first().is_some_and(|(first, left)| {
            (*one == b'?' || one == first) && pattern_matches(rest, left)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILIG2T/B0l0gaqj3puu510tu9N1OkQ4znY3LYuEm5zCF";
    /// "example.com", as ssh-keygen -H hashes it.
    const HASHED: &str = "|1|O33ESRMWPVkMYIwJ1Uw+n877jTo=|nuuC5vEqXlEZ/8BXQR7m619W6Ak=";

    fn of(text: &str, host: &str, port: u16) -> Option<String> {
        known_hosts_keys(text, host, port).ok()
    }

    #[test]
    fn hosts_are_known_by_name_port_pattern_and_hash() {
        for (names, host, port, known) in [
            ("example.com", "example.com", 22, true),
            ("Example.COM", "example.com", 22, true),
            ("a,example.com,1.2.3.4", "1.2.3.4", 22, true),
            ("example.com", "example.com", 2222, false),
            ("[example.com]:2222", "example.com", 2222, true),
            ("[example.com]:2222", "example.com", 22, false),
            ("*.example.com", "a.example.com", 22, true),
            ("*.example.com,!a.example.com", "a.example.com", 22, false),
            ("example.co?", "example.com", 22, true),
            ("example.co", "example.com", 22, false),
            (HASHED, "example.com", 22, true),
            (HASHED, "example.org", 22, false),
            ("|1|nonsense", "example.com", 22, false),
        ] {
            let text = format!("# a comment\n\nother {OTHER}\n{names} {KEY} me@here\n");
            let found = of(&text, host, port);
            let expected = known.then(|| format!("{KEY} me@here"));
            assert_eq!(found, expected, "{names} {host} {port}");
        }
    }

    #[test]
    fn several_keys_are_all_found_and_revoked_ones_are_not() {
        let text = format!(
            "h {KEY}\nh {OTHER}\nh sk-unknown@new AAAA\n@cert-authority h {OTHER}\n@revoked * {OTHER}\n"
        );
        assert_eq!(of(&text, "h", 22), Some(KEY.to_owned()));
        let said = known_hosts_keys(&text, "else", 2222).expect_err("not there");
        assert!(said.contains("has no key of [else]:2222"), "{said}");
        assert!(said.contains("ssh-keyscan -p 2222 else"), "{said}");
    }

    #[test]
    fn host_keys_are_read_in_both_forms() {
        let text = format!("{KEY}\n# more\n\nhost,1.2.3.4 {OTHER} comment\n");
        assert_eq!(parse_host_keys(&text).expect("keys").len(), 2);
        let said = parse_host_keys(&format!("{KEY}\nnonsense here")).expect_err("no key");
        assert!(said.starts_with("line 2 is no host key"), "{said}");
        assert!(parse_host_keys(" \n").expect("none").is_empty());
    }
}
