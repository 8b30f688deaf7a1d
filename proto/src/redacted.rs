//! `Debug` of messages that hold secrets: it says whether one is set, not what it is.

use std::fmt;

use crate::backup::v1::{R2Destination, S3Destination, SshDestination};

/// Whether a secret is set.
struct Set<'a>(&'a str);

impl fmt::Debug for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "set" })
    }
}

impl fmt::Debug for S3Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Destination")
            .field("bucket", &self.bucket)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("access_key_id", &Set(&self.access_key_id))
            .field("secret_access_key", &Set(&self.secret_access_key))
            .field("session_token", &Set(&self.session_token))
            .field("prefix", &self.prefix)
            .field("addressing_style", &self.addressing_style)
            .field("storage_class", &self.storage_class)
            .field("server_side_encryption", &self.server_side_encryption)
            .field("kms_key_id", &self.kms_key_id)
            .finish()
    }
}

impl fmt::Debug for R2Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("R2Destination")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &Set(&self.access_key_id))
            .field("secret_access_key", &Set(&self.secret_access_key))
            .field("session_token", &Set(&self.session_token))
            .field("prefix", &self.prefix)
            .finish()
    }
}

impl fmt::Debug for SshDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshDestination")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("username", &self.username)
            .field("remote_path", &self.remote_path)
            .field("private_key", &Set(&self.private_key))
            .field("passphrase", &Set(&self.passphrase))
            .field("password", &Set(&self.password))
            .field("host_key", &self.host_key)
            .field("trust_first_key", &self.trust_first_key)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let shown = [
            format!(
                "{:?}",
                S3Destination {
                    secret_access_key: "hidden".into(),
                    session_token: "hidden".into(),
                    ..S3Destination::default()
                }
            ),
            format!(
                "{:?}",
                R2Destination {
                    secret_access_key: "hidden".into(),
                    session_token: "hidden".into(),
                    ..R2Destination::default()
                }
            ),
            format!(
                "{:?}",
                SshDestination {
                    private_key: "hidden".into(),
                    passphrase: "hidden".into(),
                    password: "hidden".into(),
                    ..SshDestination::default()
                }
            ),
        ];
        for shown in shown {
            assert!(!shown.contains("hidden"), "{shown}");
        }
    }
}
