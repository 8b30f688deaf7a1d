//! Buckets of S3-compatible services and of R2, through OpenDAL.
//!
//! - this file: the store
//! - [`transport`]: HTTP as OpenDAL is given it: progress is watched, what was
//!   written is compared with what the service says it has
//! - [`connect`]: name, TCP, TLS, each with its own words when it fails
//! - [`credential`]: the access key, which no log may show
//! - [`failure`]: from a service's answer to what is wrong and what to do
//!
//! An object is written by one request, so that it is there whole or not at all and
//! no unfinished upload can be left behind; packs are short, and several are under
//! way at once. The service checks the MD5 that comes with the request, and its
//! answer, and a look at the object afterwards, must tell the same.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use md5::{Digest as _, Md5};
use opendal::{
    Entry, ErrorKind, HttpTransporter, Metadata, OperationContext, Operator,
    layers::{RetryLayer, TimeoutLayer},
    services::S3,
};
use proto::backup::v1::{R2Destination, S3Destination, s3_destination::AddressingStyle};
use reqsign_core::ProvideCredentialChain;
use tracing::warn;
use zeroize::Zeroizing;

use self::{
    credential::AccessKey,
    failure::{Failure, Hidden, Site},
    transport::Transport,
};
use super::{Listed, Store, listing};
use crate::{
    destination::FieldNames,
    error::{StoreError, StoreErrorKind},
};

mod connect;
mod credential;
mod failure;
mod transport;

/// Where a bucket is when nothing else is said.
const REGION: &str = "us-east-1";
/// The only region of R2.
const R2_REGION: &str = "auto";
/// Attempts after the first, of what may pass by itself, and the first wait; each
/// further one is twice as long. Together they stay below 15 s.
const RETRIES: usize = 4;
const RETRY_WAIT: Duration = Duration::from_millis(400);
/// Above all limits of the transport: a call that is still under way then is lost.
const CALL_MAX: Duration = Duration::from_mins(15);
/// How long is looked whether a write that failed has arrived nevertheless.
const LOOK_MAX: Duration = Duration::from_secs(4);
/// What probes are called.
const PROBE: &str = ".nora-tmp/probe-";

/// A bucket, or what lies under a prefix of one.
#[derive(Debug, Clone)]
pub struct S3Store {
    operator: Operator,
    site: Arc<Site>,
}

/// What S3 and R2 have in common.
#[allow(clippy::struct_field_names)] // the bucket's name is called so everywhere
struct Bucket<'a> {
    kind: &'static str,
    bucket: &'a str,
    region: &'a str,
    endpoint: String,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    session_token: &'a str,
    prefix: &'a str,
    names: FieldNames,
}

impl S3Store {
    /// A bucket of an S3-compatible service. Connects to nothing yet.
    pub fn s3(s3: &S3Destination, names: FieldNames) -> Result<Self, StoreError> {
        let region = or(&s3.region, REGION);
        let endpoint = if s3.endpoint.is_empty() {
            format!("https://s3.{region}.amazonaws.com")
        } else {
            s3.endpoint.trim_end_matches('/').to_owned()
        };
        let bucket = Bucket {
            kind: "s3",
            bucket: &s3.bucket,
            region,
            endpoint,
            access_key_id: &s3.access_key_id,
            secret_access_key: &s3.secret_access_key,
            session_token: &s3.session_token,
            prefix: &s3.prefix,
            names,
        };
        let by_name = match s3.addressing_style() {
            AddressingStyle::Unspecified => s3.endpoint.is_empty(),
            AddressingStyle::Path => false,
            AddressingStyle::VirtualHost => true,
        };
        let mut builder = bucket.builder();
        if by_name {
            builder = builder.enable_virtual_host_style();
        }
        if !s3.storage_class.is_empty() {
            builder = builder.default_storage_class(&s3.storage_class);
        }
        if !s3.server_side_encryption.is_empty() {
            builder = builder.server_side_encryption(&s3.server_side_encryption);
        }
        if !s3.kms_key_id.is_empty() {
            builder = builder.server_side_encryption_aws_kms_key_id(&s3.kms_key_id);
        }
        bucket.open(builder)
    }

    /// A bucket of Cloudflare R2. Connects to nothing yet.
    pub fn r2(r2: &R2Destination, names: FieldNames) -> Result<Self, StoreError> {
        let bucket = Bucket {
            kind: "r2",
            bucket: &r2.bucket,
            region: or(&r2.region, R2_REGION),
            endpoint: r2.endpoint.trim_end_matches('/').to_owned(),
            access_key_id: &r2.access_key_id,
            secret_access_key: &r2.secret_access_key,
            session_token: &r2.session_token,
            prefix: &r2.prefix,
            names,
        };
        let builder = bucket.builder();
        bucket.open(builder)
    }
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

impl Bucket<'_> {
    fn builder(&self) -> S3 {
        // Nothing but what is configured here: no files, no environment, no
        // metadata service of a machine.
        let owned = |text: &str| Zeroizing::new(text.to_owned());
        let key = AccessKey {
            id: owned(self.access_key_id),
            secret: owned(self.secret_access_key),
            session_token: (!self.session_token.is_empty()).then(|| owned(self.session_token)),
        };
        S3::default()
            .bucket(self.bucket)
            .region(self.region)
            .endpoint(&self.endpoint)
            .root(self.prefix)
            .credential_provider_chain(ProvideCredentialChain::new().push(key))
            .disable_config_load()
            .disable_ec2_metadata()
            .checksum_algorithm("md5")
    }

    fn open(&self, builder: S3) -> Result<S3Store, StoreError> {
        let site = Arc::new(Site {
            kind: self.kind,
            bucket: self.bucket.to_owned(),
            prefix: self.prefix.to_owned(),
            region: self.region.to_owned(),
            endpoint: self.endpoint.clone(),
            names: self.names,
            hidden: Hidden(
                [
                    self.secret_access_key,
                    self.session_token,
                    self.access_key_id,
                ]
                .map(|secret| secret.to_owned().into())
                .into(),
            ),
        });
        let transport = Transport::new(site.clone());
        let operator = Operator::new(builder)
            .map_err(|e| from_opendal("open", "the destination", &e))?
            .with_context(
                OperationContext::new().with_http_transport(HttpTransporter::new(transport)),
            )
            .layer(
                TimeoutLayer::new()
                    .with_timeout(CALL_MAX)
                    .with_io_timeout(CALL_MAX),
            )
            .layer(
                RetryLayer::new()
                    .with_max_times(RETRIES)
                    .with_min_delay(RETRY_WAIT)
                    .with_jitter()
                    .with_notify(|event: opendal::layers::RetryEvent<'_>| {
                        let error = from_opendal("", "", event.err);
                        warn!(
                            call = %event.op,
                            attempt = event.attempt,
                            wait_ms = event.retry_after.as_millis() as u64,
                            "destination call failed, trying again: {}: {}",
                            error.kind, error.detail
                        );
                    }),
            );
        Ok(S3Store { operator, site })
    }
}

impl S3Store {
    /// Whether an object is what was to be written, by what the service says of it;
    /// where that tells nothing, it is read.
    async fn is_stored(&self, name: &str, bytes: &Bytes, etag: &str) -> Result<bool, StoreError> {
        let stored = match self.operator.stat(name).await {
            Ok(stored) => stored,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(from_opendal("look up", name, &e)),
        };
        if stored.content_length() != bytes.len() as u64 {
            return Ok(false);
        }
        match etag_of(&stored) {
            Some(stored) if stored == etag => Ok(true),
            // Not the MD5 of what is stored (aws:kms), or of something else.
            _ => Ok(self.read(name, bytes.len() as u64).await? == *bytes),
        }
    }

    /// Why the answer to a HEAD, which has no body, was what it was: GET tells.
    async fn explain(&self, action: &'static str, name: &str) -> Result<(), StoreError> {
        match self.operator.read_with(name).range(0..1).await {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::RangeNotSatisfied) => {
                Ok(())
            }
            Err(e) => Err(from_opendal(action, name, &e)),
        }
    }

    /// Makes sure that a denial is one: services say the same of a bucket that is not
    /// there to who may not list.
    async fn sure<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let mut error = match result {
            Err(error) if error.kind == StoreErrorKind::Denied => error,
            other => return other,
        };
        let look = async {
            let mut lister = self.operator.lister("/").await?;
            lister.try_next().await
        };
        match tokio::time::timeout(LOOK_MAX, look).await {
            Ok(Ok(_)) => {}
            Ok(Err(seen)) if is_misconfigured(&seen) => {
                error = from_opendal(error.action, &error.object, &seen);
            }
            _ => error.detail.push_str(&self.site.or_no_bucket()),
        }
        Err(error)
    }

    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let etag = match self.operator.write(name, bytes.clone()).await {
            // The transport has compared it with the MD5 where it is one.
            Ok(written) => etag_of(&written).map(str::to_owned),
            Err(error) => {
                // The outcome of a failed call is unknown: look, then decide.
                let error = from_opendal("write", name, &error);
                if !error.kind.is_retryable() {
                    return Err(error);
                }
                let etag = md5_hex(&bytes);
                let look = self.is_stored(name, &bytes, &etag);
                return match tokio::time::timeout(LOOK_MAX, look).await {
                    Ok(Ok(true)) => Ok(()),
                    _ => Err(error),
                };
            }
        };
        let etag = etag.unwrap_or_else(|| md5_hex(&bytes));
        if self.is_stored(name, &bytes, &etag).await? {
            return Ok(());
        }
        Err(StoreError {
            action: "read back",
            object: name.to_owned(),
            kind: StoreErrorKind::Corrupt,
            detail: "size or contents differ".to_owned(),
        })
    }

    async fn read(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
        let failed = |e| from_opendal("read", name, &e);
        let reader = self.operator.reader(name).await.map_err(failed)?;
        let mut stream = reader.into_stream(..).await.map_err(failed)?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = stream.try_next().await.map_err(failed)? {
            if (bytes.len() + piece.len()) as u64 > bytes_max {
                return Err(StoreError {
                    action: "read",
                    object: name.to_owned(),
                    kind: StoreErrorKind::Corrupt,
                    detail: format!("longer than the {bytes_max} bytes that are expected"),
                });
            }
            for part in piece {
                bytes.extend_from_slice(&part);
            }
        }
        Ok(bytes.freeze())
    }

    async fn read_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        let end = offset.saturating_add(length);
        let read = |end| self.operator.read_with(name).range(offset..end);
        let error = match read(end).await {
            Ok(buffer) => return Ok(buffer.to_bytes()),
            Err(error) => error,
        };
        // Services refuse a range that begins beyond the end, and give less of one that
        // ends there; OpenDAL takes both for failures.
        if error.kind() != ErrorKind::NotFound
            && Failure::within(&error).is_none()
            && let Some(stored) = self.look_up(name).await?
            && stored < end
        {
            if stored <= offset {
                return Ok(Bytes::new());
            }
            let rest = read(stored).await;
            return Ok(rest.map_err(|e| from_opendal("read", name, &e))?.to_bytes());
        }
        Err(from_opendal("read", name, &error))
    }

    async fn look_up(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match self.operator.stat(name).await {
            Ok(stat) => Ok(Some(stat.content_length())),
            Err(e) => {
                let error = from_opendal("look up", name, &e);
                if error.kind.is_retryable() {
                    return Err(error);
                }
                // That there is no such bucket looks the same as no such object.
                self.explain("look up", name).await?;
                if error.kind == StoreErrorKind::NotFound {
                    Ok(None)
                } else {
                    Err(error)
                }
            }
        }
    }

    async fn entries(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let entries = listing::entries(&self.operator, prefix, from_opendal).await;
        self.sure(entries).await
    }
}

fn etag_of(metadata: &Metadata) -> Option<&str> {
    metadata.etag().map(|etag| etag.trim_matches('"'))
}

fn md5_hex(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

#[async_trait]
impl Store for S3Store {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.sure(self.write(name, bytes).await).await
    }

    async fn get(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
        self.sure(self.read(name, bytes_max).await).await
    }

    async fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        self.sure(self.read_range(name, offset, length).await).await
    }

    async fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.sure(self.look_up(name).await).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let entries = self.entries(prefix).await?;
        Ok(entries.iter().filter_map(listing::object).collect())
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        Ok(listing::folders(&self.entries(prefix).await?, prefix))
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let deleted = self.operator.delete(name).await;
        self.sure(deleted.map_err(|e| from_opendal("delete", name, &e)))
            .await
    }

    async fn sweep(&self, _age_ms: u64) -> Result<u64, StoreError> {
        // Nothing is left by a request that did not get through.
        Ok(0)
    }

    async fn check(&self) -> Result<(), StoreError> {
        let name = format!("{PROBE}{}", hex::encode(crate::random::bytes::<8>()));
        self.put(&name, Bytes::from_static(b"nora-backup probe"))
            .await?;
        self.delete(&name).await
    }
}

/// Whether an error says that a setting is wrong: that there is no such bucket.
fn is_misconfigured(error: &opendal::Error) -> bool {
    Failure::within(error).is_some_and(|failure| failure.kind == StoreErrorKind::Misconfigured)
}

fn from_opendal(action: &'static str, object: &str, error: &opendal::Error) -> StoreError {
    let found = |kind, detail| StoreError {
        action,
        object: object.to_owned(),
        kind,
        detail,
    };
    if let Some(failure) = Failure::within(error) {
        return found(failure.kind, failure.detail.clone());
    }
    // OpenDAL's own words may hold what a service had answered: they are left out.
    let (kind, detail) = match error.kind() {
        ErrorKind::NotFound => (StoreErrorKind::NotFound, "there is none of that name"),
        ErrorKind::RateLimited => (StoreErrorKind::Unavailable, "too many requests"),
        ErrorKind::ConfigInvalid => (StoreErrorKind::Misconfigured, "its address cannot be used"),
        _ if error.to_string().contains("timeout") => {
            (StoreErrorKind::Timeout, "a call took too long")
        }
        _ => (StoreErrorKind::Other, "an answer that makes no sense"),
    };
    found(kind, detail.to_owned())
}
