//! From what a service answered to what is wrong and what to do about it.
//!
//! A detail names the bucket, the action and the setting, never a credential. What
//! a service says in its own words is passed on only where nothing better is known,
//! cut short and without what is secret.

use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode, header::DATE};
use zeroize::Zeroizing;

use self::document::{between, says_full, tag};
use crate::{destination::FieldNames, error::StoreErrorKind};

mod document;

pub(super) use self::document::hex_of_base64;

/// How much of a service's own words is passed on.
const WORDS_CHARS_MAX: usize = 200;

/// Why a call failed, on its way through OpenDAL.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub(super) struct Failure {
    pub kind: StoreErrorKind,
    pub detail: String,
    /// Whether a further attempt at once makes sense.
    passing: bool,
}

impl Failure {
    /// One that may have passed a moment later.
    pub(super) fn passing(kind: StoreErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            passing: true,
        }
    }

    /// One that is the same at once again: it stays, or took long.
    pub(super) fn lasting(kind: StoreErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            passing: false,
        }
    }

    /// The failure that an error of OpenDAL carries.
    pub(super) fn within(error: &opendal::Error) -> Option<&Self> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> =
            std::error::Error::source(error);
        while let Some(inner) = cause {
            if let Some(failure) = inner.downcast_ref::<Self>() {
                return Some(failure);
            }
            cause = inner.source();
        }
        None
    }
}

impl From<Failure> for opendal::Error {
    fn from(failure: Failure) -> Self {
        let passing = failure.passing;
        Self::new(opendal::ErrorKind::Unexpected, "call of the destination")
            .set_source(failure)
            .with_temporary(passing)
    }
}

/// Which bucket it is, for messages.
#[derive(Debug)]
pub(super) struct Site {
    pub kind: &'static str,
    pub bucket: String,
    pub prefix: String,
    pub region: String,
    pub endpoint: String,
    pub names: FieldNames,
    pub hidden: Hidden,
}

/// What no message may hold.
pub(super) struct Hidden(pub Vec<Zeroizing<String>>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(..)")
    }
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// The permission that it needs.
    action: &'static str,
    method: Verb,
    of_bucket: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Head,
    Change,
    Read,
}

impl Asked {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let asks = |name: &str| {
            query
                .split('&')
                .any(|part| part.split('=').next() == Some(name))
        };
        let (action, of_bucket) = match *request.method() {
            Method::GET if asks("list-type") || asks("delimiter") => ("s3:ListBucket", true),
            Method::GET | Method::HEAD => ("s3:GetObject", false),
            Method::DELETE => ("s3:DeleteObject", false),
            _ => ("s3:PutObject", false),
        };
        let method = match *request.method() {
            Method::HEAD => Verb::Head,
            Method::GET => Verb::Read,
            _ => Verb::Change,
        };
        Self {
            action,
            method,
            of_bucket,
        }
    }
}

/// What was answered.
pub(super) struct Answer<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub document: &'a str,
}

impl Answer<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Site {
    /// Host and port that are connected to.
    pub(super) fn authority(&self) -> &str {
        let address = &self.endpoint;
        let rest = address
            .split_once("://")
            .map_or(address.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }

    /// How a field is called.
    pub(super) fn field(&self, field: &str) -> String {
        self.names.name(&format!("{}.{field}", self.kind))
    }

    pub(super) fn stalled(&self, asked: &Asked, after: Duration) -> Failure {
        let detail = format!(
            "{} moved no byte for {} s ({} on {})",
            self.authority(),
            after.as_secs(),
            asked.action,
            self.resource(asked),
        );
        Failure::lasting(StoreErrorKind::Timeout, detail)
    }

    /// Whether an answer to a write tells by its ETag that what was sent is stored.
    #[allow(clippy::unused_self)] // it is a matter of the service all the same
    pub(super) fn confirms(&self, sent_md5: &str, headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        // Sealed by a key of the service, the ETag is something else; the service has
        // compared the MD5 all the same.
        if text("x-amz-server-side-encryption").is_some_and(|kind| kind.starts_with("aws:kms")) {
            return true;
        }
        text("etag").is_some_and(|etag| etag.trim_matches('"').eq_ignore_ascii_case(sent_md5))
    }

    /// What an action is on, as policies write it.
    fn resource(&self, asked: &Asked) -> String {
        if asked.of_bucket {
            return format!("bucket {}", self.bucket);
        }
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("{}/{}{slash}*", self.bucket, self.prefix)
    }

    /// What an answer that is no success means; nothing when it belongs to normal
    /// work: an object that is not there, a range beyond the end.
    pub(super) fn failure(&self, asked: &Asked, answer: &Answer<'_>) -> Option<Failure> {
        let code = tag(answer.document, "Code").unwrap_or_default();
        let status = answer.status.as_u16();
        match (status, code.as_str()) {
            (304 | 412 | 416, _) | (404, "NoSuchKey" | "NoSuchVersion") => None,
            (404, "") if asked.method == Verb::Head => None,
            (_, "") => Some(self.of_status(asked, answer)),
            (_, code) => Some(self.of_code(asked, answer, code)),
        }
    }

    /// Without a code: the answer to a HEAD, or one of something else than S3.
    fn of_status(&self, asked: &Asked, answer: &Answer<'_>) -> Failure {
        let status = answer.status.as_u16();
        let place = self.authority();
        match status {
            301 | 307 | 308 => self.elsewhere(answer),
            401 | 403 if asked.method == Verb::Head => self.denied(asked, answer),
            507 => self.full(answer),
            // 499: the service says that we were gone, and was not told so by us.
            408 | 429 | 499 | 500 | 502..=599 => Failure::passing(
                StoreErrorKind::Unavailable,
                format!("{place} answered with HTTP status {status}"),
            ),
            _ if asked.method == Verb::Head => Failure::lasting(
                StoreErrorKind::Misconfigured,
                format!("{place} answered with HTTP status {status}"),
            ),
            _ => Failure::lasting(
                StoreErrorKind::Misconfigured,
                format!(
                    "{place} answered with HTTP status {status} and not as S3 does: set {} to the \
                     address of an S3 service",
                    self.field("endpoint")
                ),
            ),
        }
    }

    fn of_code(&self, asked: &Asked, answer: &Answer<'_>, code: &str) -> Failure {
        use StoreErrorKind::{Corrupt, Misconfigured, Other, Refused, Unavailable};
        let place = self.authority();
        let lasting = Failure::lasting;
        match code {
            "NoSuchBucket" => lasting(
                Misconfigured,
                format!(
                    "there is no bucket {:?} at {place}: create it, or set {} to one that exists",
                    self.bucket,
                    self.field("bucket")
                ),
            ),
            "InvalidBucketName" => lasting(
                Misconfigured,
                format!(
                    "{place} allows no bucket {:?}: set {}",
                    self.bucket,
                    self.field("bucket")
                ),
            ),
            "InvalidAccessKeyId" | "InvalidClientTokenId" => lasting(
                Refused,
                format!(
                    "{place} does not know the access key: set {} to one of that service that is \
                     active, and {} to its secret",
                    self.field("access_key_id"),
                    self.field("secret_access_key")
                ),
            ),
            "SignatureDoesNotMatch" => lasting(
                Refused,
                format!(
                    "{} is not the secret of the access key, says {place}: set it to that which \
                     belongs to {}",
                    self.field("secret_access_key"),
                    self.field("access_key_id")
                ),
            ),
            "ExpiredToken" | "TokenRefreshRequired" | "ExpiredTokenException" => lasting(
                Refused,
                format!(
                    "the session token has expired: set {} and its access key to new ones",
                    self.field("session_token")
                ),
            ),
            "InvalidToken" => lasting(
                Refused,
                format!(
                    "{place} does not accept the session token: set {} to the one of this access \
                     key, or leave it out",
                    self.field("session_token")
                ),
            ),
            "Unauthorized" | "NotSignedUp" | "AccountProblem" | "InvalidSecurity" => lasting(
                Refused,
                format!(
                    "{place} does not accept the access key ({code}): check {} and {}",
                    self.field("access_key_id"),
                    self.field("secret_access_key")
                ),
            ),
            "RequestTimeTooSkewed" | "RequestExpired" => self.skewed(answer),
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "Redirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "InvalidRegionName"
            | "InvalidRegion" => self.elsewhere(answer),
            "QuotaExceeded"
            | "QuotaExceededException"
            | "BucketQuotaExceeded"
            | "InsufficientStorage"
            | "XMinioStorageFull"
            | "XMinioAdminBucketQuotaExceeded"
            | "StorageLimitExceeded"
            | "OverQuota" => self.full(answer),
            _ if answer.status.as_u16() == 507 || says_full(answer.document) => self.full(answer),
            "AccessDenied" | "AllAccessDisabled" | "KMS.AccessDeniedException" => {
                self.denied(asked, answer)
            }
            "InvalidStorageClass" => lasting(
                Misconfigured,
                format!(
                    "{place} has no such storage class: set {}",
                    self.field("storage_class")
                ),
            ),
            code if code.starts_with("KMS") => lasting(
                Misconfigured,
                format!(
                    "the key of the server-side encryption cannot be used ({code}): set {} to one \
                     that is there and enabled, in the bucket's region",
                    self.field("kms_key_id")
                ),
            ),
            "BadDigest" | "InvalidDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch" => {
                Failure::passing(
                    Corrupt,
                    format!("{place} received other bytes than were sent ({code})"),
                )
            }
            "SlowDown" | "TooManyRequests" | "RequestLimitExceeded" => Failure::passing(
                Unavailable,
                format!("{place} asks for fewer requests ({code})"),
            ),
            "RequestTimeout"
            | "OperationAborted"
            | "ConditionalRequestConflict"
            | "ClientDisconnected" => {
                Failure::passing(Unavailable, format!("{place} gave up ({code})"))
            }
            _ if matches!(answer.status.as_u16(), 408 | 499) => {
                Failure::passing(Unavailable, format!("{place} gave up ({code})"))
            }
            _ if answer.status.is_server_error() && answer.status.as_u16() != 501 => {
                Failure::passing(
                    Unavailable,
                    format!(
                        "{place} answered with HTTP status {} ({code})",
                        answer.status.as_u16()
                    ),
                )
            }
            _ if matches!(answer.status.as_u16(), 401 | 403) => self.denied(asked, answer),
            _ => lasting(
                if answer.status.is_client_error() || answer.status.as_u16() == 501 {
                    Misconfigured
                } else {
                    Other
                },
                format!(
                    "{place} refuses {} on {} ({code}{})",
                    asked.action,
                    self.resource(asked),
                    self.own_words(answer)
                ),
            ),
        }
    }

    /// What is added to a denial where it may hide that there is no such bucket.
    pub(super) fn or_no_bucket(&self) -> String {
        format!(
            "; or there is no bucket {:?} at {}, which who may not list is not told: then create \
             it, or set {}",
            self.bucket,
            self.authority(),
            self.field("bucket")
        )
    }

    fn denied(&self, asked: &Asked, answer: &Answer<'_>) -> Failure {
        // AWS tells which permission it was when it is not the one of the call.
        let message = tag(answer.document, "Message").unwrap_or_default();
        let told = between(&message, "perform: ", " ").filter(|told| {
            told.contains(':') && told.chars().all(|c| c.is_ascii_alphanumeric() || c == ':')
        });
        let action = told.unwrap_or(asked.action);
        let or_list = if asked.method == Verb::Head && told.is_none() {
            format!(" (and s3:ListBucket on bucket {})", self.bucket)
        } else {
            String::new()
        };
        let detail = format!(
            "the access key may not do {action} on {}{or_list}: allow it in its policy",
            self.resource(asked)
        );
        Failure::lasting(StoreErrorKind::Denied, detail)
    }

    fn full(&self, answer: &Answer<'_>) -> Failure {
        let code = tag(answer.document, "Code")
            .unwrap_or_else(|| format!("HTTP status {}", answer.status.as_u16()));
        Failure::lasting(
            StoreErrorKind::Full,
            format!("bucket {:?} at {} ({code})", self.bucket, self.authority()),
        )
    }

    /// Another region, another address.
    fn elsewhere(&self, answer: &Answer<'_>) -> Failure {
        let message = tag(answer.document, "Message").unwrap_or_default();
        let region = answer
            .header("x-amz-bucket-region")
            .map(str::to_owned)
            .or_else(|| tag(answer.document, "Region"))
            .or_else(|| between(&message, "expecting '", "'").map(str::to_owned))
            .filter(|region| *region != self.region);
        let endpoint = tag(answer.document, "Endpoint");
        let (region_field, endpoint_field) = (self.field("region"), self.field("endpoint"));
        let bucket = &self.bucket;
        let detail = match (region, endpoint) {
            (Some(region), _) => format!(
                "bucket {bucket:?} is in region {region}, not in {}: set {region_field} to {region}, \
                 and {endpoint_field} to an address of that region or leave it out",
                self.region
            ),
            (None, Some(endpoint)) => format!(
                "bucket {bucket:?} is to be addressed as {endpoint}: set {endpoint_field} and \
                 {region_field} accordingly"
            ),
            (None, None) => format!(
                "{} does not take requests for region {}: set {region_field} and {endpoint_field} \
                 to those of the bucket",
                self.authority(),
                self.region
            ),
        };
        Failure::lasting(StoreErrorKind::Misconfigured, detail)
    }

    fn skewed(&self, answer: &Answer<'_>) -> Failure {
        let theirs = tag(answer.document, "ServerTime")
            .or_else(|| answer.header(DATE.as_str()).map(str::to_owned))
            .unwrap_or_else(|| "unknown".to_owned());
        let ours = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        Failure::lasting(
            StoreErrorKind::Refused,
            format!(
                "the clocks are too far apart: here it is {ours}, at {} it is {theirs}: set the \
                 clock that is wrong (NTP)",
                self.authority()
            ),
        )
    }

    /// What the service says, cut short and without what is secret.
    fn own_words(&self, answer: &Answer<'_>) -> String {
        let Some(message) = tag(answer.document, "Message") else {
            return String::new();
        };
        let mut words: String = message
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(WORDS_CHARS_MAX)
            .collect();
        for hidden in self.hidden.0.iter().filter(|hidden| !hidden.is_empty()) {
            words = words.replace(hidden.as_str(), "...");
        }
        format!(": {}", words.trim())
    }
}

#[cfg(test)]
mod tests;
