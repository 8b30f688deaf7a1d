//! What of a destination is shown to nobody.

use proto::backup::v1::{Destination, destination::Kind};

/// The secret fields, in the order of the description.
fn secrets(destination: &mut Destination) -> Vec<&mut String> {
    match &mut destination.kind {
        Some(Kind::S3(s3)) => vec![&mut s3.secret_access_key, &mut s3.session_token],
        Some(Kind::R2(r2)) => vec![&mut r2.secret_access_key, &mut r2.session_token],
        Some(Kind::Ssh(ssh)) => vec![&mut ssh.private_key, &mut ssh.passphrase, &mut ssh.password],
        Some(Kind::Local(_)) | None => Vec::new(),
    }
}

/// The destination as it may be shown: secrets emptied.
pub fn public(destination: &Destination) -> Destination {
    let mut public = destination.clone();
    for secret in secrets(&mut public) {
        zeroize::Zeroize::zeroize(secret);
    }
    public
}

/// A changed destination with the secrets that it leaves out: those that are kept,
/// as long as it names the same account there. A secret that belongs to what was
/// replaced (the session token of another key, a password beside a new key) goes, and
/// none is sent to another host than it was given for.
pub fn merge_secrets(new: &Destination, kept: &Destination) -> Destination {
    let mut merged = new.clone();
    match (&mut merged.kind, &kept.kind) {
        (Some(Kind::S3(new)), Some(Kind::S3(kept)))
            if new.access_key_id == kept.access_key_id && new.secret_access_key.is_empty() =>
        {
            new.secret_access_key.clone_from(&kept.secret_access_key);
            fill(&mut new.session_token, &kept.session_token);
        }
        (Some(Kind::R2(new)), Some(Kind::R2(kept)))
            if new.access_key_id == kept.access_key_id && new.secret_access_key.is_empty() =>
        {
            new.secret_access_key.clone_from(&kept.secret_access_key);
            fill(&mut new.session_token, &kept.session_token);
        }
        (Some(Kind::Ssh(new)), Some(Kind::Ssh(kept)))
            if (&new.host, &new.username) == (&kept.host, &kept.username)
                && new.private_key.is_empty()
                && new.password.is_empty() =>
        {
            new.private_key.clone_from(&kept.private_key);
            new.password.clone_from(&kept.password);
            fill(&mut new.passphrase, &kept.passphrase);
        }
        _ => {}
    }
    merged
}

fn fill(new: &mut String, kept: &str) {
    if new.is_empty() {
        kept.clone_into(new);
    }
}

#[cfg(test)]
mod tests {
    use proto::backup::v1::{S3Destination, SshDestination};

    use super::*;

    fn s3(key: &str, secret: &str, token: &str) -> Destination {
        Destination {
            kind: Some(Kind::S3(S3Destination {
                bucket: "nora".into(),
                access_key_id: key.into(),
                secret_access_key: secret.into(),
                session_token: token.into(),
                ..S3Destination::default()
            })),
            ..Destination::default()
        }
    }

    fn ssh(key: &str, passphrase: &str, password: &str) -> Destination {
        Destination {
            kind: Some(Kind::Ssh(SshDestination {
                username: "backup".into(),
                private_key: key.into(),
                passphrase: passphrase.into(),
                password: password.into(),
                ..SshDestination::default()
            })),
            ..Destination::default()
        }
    }

    #[test]
    fn nothing_secret_is_public() {
        assert_eq!(public(&s3("id", "a", "b")), s3("id", "", ""));
        assert_eq!(public(&ssh("a", "b", "c")), ssh("", "", ""));
    }

    #[test]
    fn what_is_left_out_is_kept_and_what_is_replaced_goes() {
        let kept = s3("id", "secret", "token");
        assert_eq!(merge_secrets(&s3("id", "", ""), &kept), kept);
        let newer = s3("id", "", "newer");
        assert_eq!(merge_secrets(&newer, &kept), s3("id", "secret", "newer"));
        let without_token = s3("id", "other", "");
        assert_eq!(merge_secrets(&without_token, &kept), without_token);
        let other_account = s3("other", "", "");
        assert_eq!(merge_secrets(&other_account, &kept), other_account);
        let kept = ssh("key", "phrase", "");
        assert_eq!(merge_secrets(&ssh("", "", ""), &kept), kept);
        let by_password = ssh("", "", "password");
        assert_eq!(merge_secrets(&by_password, &kept), by_password);
        assert_eq!(
            merge_secrets(&ssh("", "", ""), &s3("id", "s", "")),
            ssh("", "", "")
        );
    }
}
