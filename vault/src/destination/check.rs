//! Whether a description can be that of a destination: what is there, how it is
//! written, how long it is. Whether it exists is for the first call to find out.

use http::Uri;
use proto::backup::v1::{
    Destination, LocalDestination, R2Destination, S3Destination, destination::Kind,
    s3_destination::AddressingStyle,
};

use crate::store::ssh_problems;

const PATH_BYTES_MAX: usize = 4096;
const BUCKET_CHARS_MIN: usize = 3;
const BUCKET_CHARS_MAX: usize = 63;
const NAME_CHARS_MAX: usize = 128;
const CREDENTIAL_CHARS_MAX: usize = 1024;
const TOKEN_CHARS_MAX: usize = 16 * 1024;
const PREFIX_CHARS_MAX: usize = 512;
const ENDPOINT_CHARS_MAX: usize = 1024;
/// What the host of an R2 account ends in.
const R2_DOMAIN: &str = ".r2.cloudflarestorage.com";
/// Hexadecimal digits of an account id of Cloudflare.
const R2_ACCOUNT_DIGITS: usize = 32;

/// A field of a destination that holds what it may not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// Path of the field in `nora.backup.v1.Destination`, for example "s3.bucket";
    /// "kind" when none is set.
    pub field: String,
    /// What it holds (never a secret) and what it may hold: goes on after the
    /// field's name, "is not set: set it to ...".
    pub what: String,
}

/// What is wrong with a destination's kind; empty: nothing.
pub fn check(destination: &Destination) -> Vec<FieldProblem> {
    let mut problems = Problems(Vec::new());
    match &destination.kind {
        Some(Kind::Local(local)) => problems.local(local),
        Some(Kind::S3(s3)) => problems.s3(s3),
        Some(Kind::R2(r2)) => problems.r2(r2),
        Some(Kind::Ssh(ssh)) => {
            for (field, what) in ssh_problems(ssh) {
                problems.add(&format!("ssh.{field}"), what);
            }
        }
        None => problems.add("kind", "is not set: set one of local, s3, r2 and ssh"),
    }
    problems.0
}

/// What was found so far.
pub(super) struct Problems(Vec<FieldProblem>);

impl Problems {
    pub(super) fn add(&mut self, field: &str, what: impl Into<String>) {
        self.0.push(FieldProblem {
            field: field.to_owned(),
            what: what.into(),
        });
    }

    /// Whether a text is there; if not, that is a problem. `to`: what to set it to.
    pub(super) fn required(&mut self, field: &str, text: &str, to: &str) -> bool {
        if text.is_empty() {
            self.add(field, format!("is not set: set it to {to}"));
        }
        !text.is_empty()
    }

    fn local(&mut self, local: &LocalDestination) {
        const FIELD: &str = "local.path";
        let to = "the folder that shall hold the backups, by its absolute path";
        if !self.required(FIELD, &local.path, to) {
            return;
        }
        if local.path.len() > PATH_BYTES_MAX || local.path.contains('\0') {
            self.add(
                FIELD,
                format!("is no path: set it to an absolute path of up to {PATH_BYTES_MAX} bytes"),
            );
        } else if !local.path.starts_with('/') {
            self.add(
                FIELD,
                format!("is {:?}: set it to an absolute path", local.path),
            );
        }
    }

    fn s3(&mut self, s3: &S3Destination) {
        self.bucket("s3.bucket", &s3.bucket);
        self.word(
            "s3.region",
            &s3.region,
            "a region, for example eu-central-1",
        );
        if !s3.endpoint.is_empty() {
            self.endpoint("s3.endpoint", &s3.endpoint);
        }
        self.credentials(
            "s3",
            &s3.access_key_id,
            &s3.secret_access_key,
            &s3.session_token,
        );
        self.prefix("s3.prefix", &s3.prefix);
        if AddressingStyle::try_from(s3.addressing_style).is_err() {
            self.add(
                "s3.addressing_style",
                "is none that this version knows: set it to path or virtual host, or leave it out",
            );
        }
        let class = "a storage class of the service, for example STANDARD_IA";
        self.word("s3.storage_class", &s3.storage_class, class);
        let encryption = s3.server_side_encryption.as_str();
        if !matches!(encryption, "" | "AES256" | "aws:kms") {
            self.add(
                "s3.server_side_encryption",
                format!("is {encryption:?}: set it to AES256 or aws:kms, or leave it out"),
            );
        }
        if s3.kms_key_id.is_empty() {
            return;
        }
        if encryption != "aws:kms" {
            self.add(
                "s3.kms_key_id",
                "is set, which only server_side_encryption aws:kms allows: set that too, or leave \
                 the key out",
            );
        } else if !is_printable(&s3.kms_key_id, CREDENTIAL_CHARS_MAX) {
            self.add("s3.kms_key_id", "is no id or ARN of a key");
        }
    }

    fn r2(&mut self, r2: &R2Destination) {
        const ENDPOINT: &str = "r2.endpoint";
        let to = "the account's address, https://ACCOUNT_ID.r2.cloudflarestorage.com";
        self.bucket("r2.bucket", &r2.bucket);
        if self.required(ENDPOINT, &r2.endpoint, to)
            && let Some(host) = self.endpoint(ENDPOINT, &r2.endpoint)
            && !is_r2(&host)
        {
            self.add(
                ENDPOINT,
                format!("leads to {host}, which is no account of R2: set it to {to}"),
            );
        }
        if !matches!(r2.region.as_str(), "" | "auto") {
            self.add(
                "r2.region",
                format!(
                    "is {:?}: R2 has one region only, auto; leave it out",
                    r2.region
                ),
            );
        }
        self.credentials(
            "r2",
            &r2.access_key_id,
            &r2.secret_access_key,
            &r2.session_token,
        );
        self.prefix("r2.prefix", &r2.prefix);
    }

    fn bucket(&mut self, field: &str, bucket: &str) {
        if !self.required(field, bucket, "the name of the bucket") {
            return;
        }
        let letters = bucket
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        if !letters
            || !(BUCKET_CHARS_MIN..=BUCKET_CHARS_MAX).contains(&bucket.len())
            || !ends(bucket.bytes().next())
            || !ends(bucket.bytes().last())
        {
            self.add(
                field,
                format!(
                    "is {bucket:?}: set it to the name of a bucket, {BUCKET_CHARS_MIN} to \
                     {BUCKET_CHARS_MAX} letters, digits, '-' and '.', without s3:// and without a path"
                ),
            );
        }
    }

    /// An optional name; `to`: what it may be.
    fn word(&mut self, field: &str, word: &str, to: &str) {
        let letters = word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !letters || word.len() > NAME_CHARS_MAX {
            self.add(field, format!("is {word:?}: set it to {to}"));
        }
    }

    /// The host that an address leads to.
    fn endpoint(&mut self, field: &str, endpoint: &str) -> Option<String> {
        let uri: Option<Uri> = endpoint
            .parse()
            .ok()
            .filter(|_| endpoint.len() <= ENDPOINT_CHARS_MAX);
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
        let is_web = uri
            .as_ref()
            .and_then(Uri::scheme_str)
            .is_some_and(|scheme| matches!(scheme, "http" | "https"));
        // Somebody's name and password in an address are not shown.
        let authority = uri.as_ref().and_then(Uri::authority);
        let names_someone = endpoint.contains('@') || authority.is_none();
        let asks = uri.as_ref().is_some_and(|uri| uri.query().is_some());
        if host.is_empty() || !is_web || names_someone || asks || endpoint.contains('#') {
            let to = "an address like https://s3.example.net or http://127.0.0.1:9000";
            let is = if endpoint.contains('@') || endpoint.len() > ENDPOINT_CHARS_MAX {
                "is no address of a service".to_owned()
            } else {
                format!("is {endpoint:?}")
            };
            self.add(field, format!("{is}: set it to {to}"));
            return None;
        }
        Some(host.to_ascii_lowercase())
    }

    fn credentials(&mut self, kind: &str, id: &str, secret: &str, token: &str) {
        let field = |name: &str| format!("{kind}.{name}");
        for (name, text, to, chars_max) in [
            (
                "access_key_id",
                id,
                "the id of an access key",
                NAME_CHARS_MAX,
            ),
            (
                "secret_access_key",
                secret,
                "the secret of the access key",
                CREDENTIAL_CHARS_MAX,
            ),
            ("session_token", token, "a session token", TOKEN_CHARS_MAX),
        ] {
            let field = field(name);
            if name != "session_token" && !self.required(&field, text, to) {
                continue;
            }
            if !text.is_empty() && !is_printable(text, chars_max) {
                let chars = text.chars().count();
                self.add(
                    &field,
                    format!("holds {chars} characters that are not {to}: set it to {to}"),
                );
            }
        }
    }

    fn prefix(&mut self, field: &str, prefix: &str) {
        let is_part = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && !part.chars().any(char::is_control)
        };
        if prefix.is_empty()
            || prefix.chars().count() <= PREFIX_CHARS_MAX && prefix.split('/').all(is_part)
        {
            return;
        }
        self.add(
            field,
            format!(
                "is {prefix:?}: set it to something like nora/prod, up to {PREFIX_CHARS_MAX} \
                 characters, with no '/' at its beginning or end"
            ),
        );
    }
}

fn is_printable(text: &str, chars_max: usize) -> bool {
    text.len() <= chars_max && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Whether a host is that of an account of R2. A stand-in on this machine may be one.
fn is_r2(host: &str) -> bool {
    if matches!(host, "127.0.0.1" | "localhost" | "[::1]") {
        return true;
    }
    let Some(account) = host.strip_suffix(R2_DOMAIN) else {
        return false;
    };
    let (account, jurisdiction) = account.split_once('.').unwrap_or((account, "eu"));
    account.len() == R2_ACCOUNT_DIGITS
        && account.bytes().all(|b| b.is_ascii_hexdigit())
        && matches!(jurisdiction, "eu" | "fedramp")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3() -> S3Destination {
        S3Destination {
            bucket: "nora-backups".into(),
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCY".into(),
            ..S3Destination::default()
        }
    }

    fn r2(endpoint: &str) -> R2Destination {
        R2Destination {
            bucket: "nora-backups".into(),
            endpoint: endpoint.into(),
            access_key_id: "0123456789abcdef".into(),
            secret_access_key: "secret-of-r2".into(),
            ..R2Destination::default()
        }
    }

    fn problems(kind: Kind) -> Vec<FieldProblem> {
        check(&Destination {
            kind: Some(kind),
            ..Destination::default()
        })
    }

    #[test]
    fn what_is_right_passes() {
        let full = S3Destination {
            region: "eu-central-1".into(),
            endpoint: "http://127.0.0.1:9000/s3".into(),
            session_token: "token/+=".into(),
            prefix: "nora/prod".into(),
            addressing_style: AddressingStyle::VirtualHost.into(),
            storage_class: "STANDARD_IA".into(),
            server_side_encryption: "aws:kms".into(),
            kms_key_id: "arn:aws:kms:eu-central-1:111122223333:key/1234".into(),
            ..s3()
        };
        for kind in [
            Kind::S3(s3()),
            Kind::S3(full),
            Kind::R2(r2(
                "https://0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com",
            )),
            Kind::R2(r2(
                "https://0123456789abcdef0123456789abcdef.eu.r2.cloudflarestorage.com/",
            )),
            Kind::Local(LocalDestination {
                path: "/srv/backups".into(),
            }),
        ] {
            assert_eq!(problems(kind.clone()), [], "{kind:?}");
        }
    }

    #[test]
    fn each_wrong_field_is_named_and_told_what_it_may_hold() {
        type Change = fn(&mut S3Destination);
        let changes: [(&str, Change); 17] = [
            ("s3.bucket", |s3| s3.bucket.clear()),
            ("s3.bucket", |s3| s3.bucket = "s3://nora".into()),
            ("s3.bucket", |s3| s3.bucket = "ab".into()),
            ("s3.bucket", |s3| s3.bucket = "nora/prod".into()),
            ("s3.region", |s3| s3.region = "eu central".into()),
            ("s3.endpoint", |s3| s3.endpoint = "s3.example.net".into()),
            ("s3.endpoint", |s3| s3.endpoint = "ftp://s3.example".into()),
            ("s3.endpoint", |s3| {
                s3.endpoint = "https://me:hidden@s3.example".into();
            }),
            ("s3.access_key_id", |s3| s3.access_key_id.clear()),
            ("s3.secret_access_key", |s3| s3.secret_access_key.clear()),
            ("s3.secret_access_key", |s3| {
                s3.secret_access_key = "hidden with blanks".into();
            }),
            ("s3.session_token", |s3| {
                s3.session_token = "hidden\n".into();
            }),
            ("s3.prefix", |s3| s3.prefix = "/nora".into()),
            ("s3.prefix", |s3| s3.prefix = "a/../b".into()),
            ("s3.addressing_style", |s3| s3.addressing_style = 9),
            ("s3.server_side_encryption", |s3| {
                s3.server_side_encryption = "rot13".into();
            }),
            ("s3.kms_key_id", |s3| s3.kms_key_id = "1234".into()),
        ];
        for (field, change) in changes {
            let mut changed = s3();
            change(&mut changed);
            let found = problems(Kind::S3(changed));
            assert_eq!(found.len(), 1, "{field}: {found:?}");
            assert_eq!(found[0].field, field, "{found:?}");
            assert!(!found[0].what.contains("hidden"), "{found:?}");
            assert!(!found[0].what.contains('\n'), "{found:?}");
        }
    }

    #[test]
    fn an_r2_account_is_told_from_other_services() {
        for endpoint in [
            "https://s3.us-east-1.amazonaws.com",
            "https://nora.r2.cloudflarestorage.com",
            "https://r2.cloudflarestorage.com",
            "https://0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com.example.net",
        ] {
            let found = problems(Kind::R2(r2(endpoint)));
            assert_eq!(found.len(), 1, "{endpoint}: {found:?}");
            assert_eq!(found[0].field, "r2.endpoint");
            assert!(found[0].what.contains("no account of R2"), "{found:?}");
        }
        let missing = problems(Kind::R2(r2("")));
        assert!(missing[0].what.contains("is not set"), "{missing:?}");
        let mut other_region = r2("http://127.0.0.1:9000");
        other_region.region = "us-east-1".into();
        assert_eq!(problems(Kind::R2(other_region))[0].field, "r2.region");
    }
}
