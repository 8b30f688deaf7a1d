//! From errors to gRPC statuses: the only place where that happens.
//!
//! Rules:
//! - Every reason has one canonical code: [`code_of`] is the table, and a test holds it against the
//!   comments of `error_reason.proto`.
//! - The message says what happened, to what, and what to do. It never holds a Rust debug string, a
//!   path of this machine or a credential.
//! - A fault of the service is INTERNAL: its cause goes to the log under an incident number, and
//!   only the number goes to the caller.

use std::{collections::HashMap, error::Error, fmt, time::Duration};

use catalog::CatalogError;
use destinations::DestinationsError;
use proto::backup::v1::ErrorReason;
use queue::QueueError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, QuotaViolation, StatusExt as _};
use vault::VaultError;

/// The domain of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "nora.backup";

/// What an rpc can answer besides its response.
#[derive(Debug)]
pub struct ApiError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    reason: ErrorReason,
    message: String,
    fields: Vec<FieldViolation>,
    resource: Option<Resource>,
    quota: Option<QuotaViolation>,
    retry: Option<Duration>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

/// What an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Resource {
    kind: &'static str,
    name: String,
}

impl Resource {
    fn agent(id: &str) -> Self {
        Self::of("nora.backup.v1.Agent", id)
    }

    fn backup(id: &str) -> Self {
        Self::of("nora.backup.v1.Backup", id)
    }

    fn restore(id: &str) -> Self {
        Self::of("nora.backup.v1.Restore", id)
    }

    fn of(kind: &'static str, id: &str) -> Self {
        Self {
            kind,
            name: id.to_owned(),
        }
    }
}

impl ApiError {
    /// An error with a reason and words for people.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            reason,
            message: message.into(),
            fields: Vec::new(),
            resource: None,
            quota: None,
            retry: None,
            cause: None,
        }))
    }

    /// Fields that hold what they may not hold.
    pub fn invalid(fields: Vec<FieldViolation>) -> Self {
        let words: Vec<String> = fields
            .iter()
            .map(|field| format!("{} {}", field.field, field.description))
            .collect();
        let mut error = Self::new(ErrorReason::InvalidField, words.join("; "));
        error.0.fields = fields;
        error
    }

    /// A bound on what goes on at the same time is reached.
    pub fn overloaded(what: &str, bound: usize) -> Self {
        let mut error = Self::new(
            ErrorReason::Overloaded,
            format!("this server is at its limit of {bound} {what} at the same time: try again"),
        );
        error.0.quota = Some(QuotaViolation::new(
            format!("server:{what}"),
            format!("{bound} {what} at the same time"),
        ));
        error
    }

    /// A user asks for more than one may.
    pub fn over_quota(
        reason: ErrorReason,
        user_id: &str,
        limit: String,
        message: String,
        retry: Duration,
    ) -> Self {
        let mut error = Self::new(reason, message);
        error.0.quota = Some(QuotaViolation::new(format!("user:{user_id}"), limit));
        error.0.retry = Some(retry);
        error
    }

    /// This server stops.
    pub fn shutting_down() -> Self {
        Self::new(
            ErrorReason::ShuttingDown,
            "this server is stopping: call again",
        )
    }

    /// A fault of the service.
    pub fn internal(
        doing: impl Into<String>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        let mut error = Self::new(ErrorReason::Internal, doing);
        error.0.cause = Some(cause.into());
        error
    }

    /// Its stable reason.
    pub fn reason(&self) -> ErrorReason {
        self.0.reason
    }

    fn about(mut self, resource: Option<Resource>) -> Self {
        self.0.resource = resource;
        self
    }

    fn into_details(self) -> Status {
        let inner = *self.0;
        let mut details =
            ErrorDetails::with_error_info(reason_name(inner.reason), DOMAIN, HashMap::new());
        if let Some(delay) = inner.retry.or_else(|| retry_delay(inner.reason)) {
            details.set_retry_info(Some(delay));
        }
        if !inner.fields.is_empty() {
            details.set_bad_request(inner.fields);
        }
        if let Some(resource) = inner.resource {
            details.set_resource_info(resource.kind, resource.name, "", "");
        }
        if let Some(violation) = inner.quota {
            details.set_quota_failure(vec![violation]);
        }
        Status::with_error_details(code_of(inner.reason), inner.message, details)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl From<ApiError> for Status {
    fn from(mut error: ApiError) -> Self {
        if error.0.reason == ErrorReason::Internal {
            let incident = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
            let cause = error.0.cause.take();
            let doing = std::mem::take(&mut error.0.message);
            tracing::error!(incident, doing, cause = cause.map(chain), "internal error");
            error.0.message = format!(
                "the service failed and has noted it as incident {incident}: try again, and tell \
                 its operator the number when it happens again"
            );
        }
        error.into_details()
    }
}

/// An error and what caused it, in one line for the log.
pub(crate) fn chain(error: impl AsRef<dyn Error + Send + Sync>) -> String {
    let error: &(dyn Error + Send + Sync) = error.as_ref();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The name of a reason on the wire.
pub fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

/// The reason with a name on the wire; INTERNAL for one that is not in the contract.
fn reason_of(name: &str) -> ErrorReason {
    ErrorReason::from_str_name(&format!("ERROR_REASON_{name}")).unwrap_or(ErrorReason::Internal)
}

/// Which code a reason is answered with.
pub fn code_of(reason: ErrorReason) -> Code {
    use ErrorReason as R;
    match reason {
        R::TokenMissing | R::TokenInvalid | R::TokenExpired => Code::Unauthenticated,
        R::RoleNotAllowed => Code::PermissionDenied,
        R::InvalidField => Code::InvalidArgument,
        R::AgentNotFound
        | R::BackupNotFound
        | R::RestoreNotFound
        | R::EntryNotFound
        | R::ScheduleNotFound
        | R::KeyRotationNotFound
        | R::JobNotFound
        | R::DestinationNotFound => Code::NotFound,
        R::EtagMismatch => Code::Aborted,
        R::AgentExists | R::RequestIdReused | R::DestinationExists => Code::AlreadyExists,
        R::Overloaded
        | R::DestinationFull
        | R::SlowReader
        | R::TooManyCreates
        | R::TooManyJobs
        | R::TooManyDownloads => Code::ResourceExhausted,
        R::DatabaseUnavailable
        | R::QueueUnavailable
        | R::ShuttingDown
        | R::DestinationUnavailable
        | R::EngineUnavailable => Code::Unavailable,
        R::ObjectMissing
        | R::ObjectCorrupt
        | R::ObjectReplayed
        | R::VaultRolledBack
        | R::KeysGone => Code::DataLoss,
        R::OffsetOutOfRange => Code::OutOfRange,
        R::Unspecified | R::Internal => Code::Internal,
        // The last five are reasons of failed jobs, and no rpc answers with them.
        R::OwnerMismatch
        | R::AgentHasBackups
        | R::AgentBusy
        | R::BackupNotCompleted
        | R::AlreadyEnded
        | R::JobNotFailed
        | R::BackupInUse
        | R::BackupProtected
        | R::DecisionMissing
        | R::DestinationDenied
        | R::DestinationMisconfigured
        | R::DestinationUntrusted
        | R::KeyNotConfigured
        | R::KeyRotationRunning
        | R::KeyNotHeld
        | R::KeysNotRotated
        | R::DestinationInUse
        | R::CopyNotCompleted
        | R::SourceNotFound
        | R::SourceDenied
        | R::HookFailed
        | R::SourceKindMismatch
        | R::SafetyBackupFailed
        | R::DownloadChanged
        | R::ImageMissing
        | R::JobTimeout
        | R::WorkerLost
        | R::Canceled
        | R::TargetUnusable
        | R::EntryRefused => Code::FailedPrecondition,
    }
}

/// After which time it is worth to try again, where it is.
fn retry_delay(reason: ErrorReason) -> Option<Duration> {
    match reason {
        ErrorReason::Overloaded | ErrorReason::ShuttingDown => Some(Duration::from_secs(1)),
        ErrorReason::DatabaseUnavailable
        | ErrorReason::QueueUnavailable
        | ErrorReason::DestinationUnavailable
        | ErrorReason::EngineUnavailable => Some(Duration::from_secs(2)),
        _ => None,
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        use CatalogError as E;
        let resource = match &error {
            E::AgentNotFound { agent_id }
            | E::OwnerMismatch { agent_id }
            | E::EtagMismatch { agent_id }
            | E::AgentHasBackups { agent_id }
            | E::AgentBusy { agent_id, .. }
            | E::AgentExists { agent_id } => Some(Resource::agent(agent_id)),
            E::ScheduleNotFound { agent_id } | E::ScheduleChanged { agent_id } => {
                Some(Resource::of("nora.backup.v1.Schedule", agent_id))
            }
            E::BackupNotFound { backup_id }
            | E::BackupNotEnded { backup_id }
            | E::BackupNotCompleted { backup_id }
            | E::BackupInUse { backup_id }
            | E::BackupProtected { backup_id }
            | E::CopyNotCompleted { backup_id, .. } => Some(Resource::backup(backup_id)),
            E::JobNotFound { job_id } | E::JobNotFailed { job_id, .. } => {
                Some(Resource::of("nora.backup.v1.Job", job_id))
            }
            E::DestinationNotFound { destination_id }
            | E::DestinationExists { destination_id, .. }
            | E::DestinationInUse { destination_id, .. }
            | E::DestinationChanged { destination_id } => {
                Some(Resource::of("nora.backup.v1.Destination", destination_id))
            }
            E::RestoreNotFound { restore_id }
            | E::DecisionMissing { restore_id, .. }
            | E::DecisionUnknown { restore_id, .. } => Some(Resource::restore(restore_id)),
            _ => None,
        };
        if let E::DecisionUnknown { decision_id, .. } = &error {
            return Self::invalid(vec![FieldViolation::new(
                "choices",
                format!("names {decision_id}, and the restore has no such decision"),
            )])
            .about(resource);
        }
        match reason_of(error.reason()) {
            ErrorReason::Internal => Self::internal("ask the catalog", error),
            reason => {
                if reason == ErrorReason::DatabaseUnavailable {
                    tracing::warn!(
                        error = chain(Box::from(error.to_string())),
                        "database unavailable"
                    );
                }
                Self::new(reason, error.to_string()).about(resource)
            }
        }
    }
}

impl From<DestinationsError> for ApiError {
    fn from(error: DestinationsError) -> Self {
        match error {
            DestinationsError::Catalog(error) => error.into(),
            DestinationsError::Vault(error) => error.into(),
        }
    }
}

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        match reason_of(error.reason()) {
            ErrorReason::Internal | ErrorReason::Unspecified => {
                Self::internal("read the vault", error)
            }
            reason => Self::new(reason, error.to_string()),
        }
    }
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        if error.is_retryable() {
            Self::new(ErrorReason::QueueUnavailable, error.to_string())
        } else {
            Self::internal("use the queue", error)
        }
    }
}

/// The answer to a call that took longer than it may.
pub fn deadline_exceeded(limit: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "the call took longer than {} ms: try again",
        limit.as_millis()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The comments in the contract name the code of each reason.
    #[test]
    fn the_table_is_what_the_contract_says() {
        let contract = include_str!("../../proto/nora/backup/v1/error_reason.proto");
        let mut comment = String::new();
        let mut checked = 0;
        for line in contract.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("//") {
                comment.push_str(text.trim());
                comment.push(' ');
                continue;
            }
            if let Some((name, _)) = line.split_once(" = ")
                && let Some(reason) = ErrorReason::from_str_name(name)
                && let Some((code, _)) = comment.split_once(':')
                && code
                    .chars()
                    .all(|char| char.is_ascii_uppercase() || char == '_')
            {
                let named = format!("{:?}", code_of(reason)).to_uppercase();
                assert_eq!(named, code.replace('_', ""), "{name}");
                checked += 1;
            }
            comment.clear();
        }
        assert!(checked >= 35, "only {checked} comments name a code");
    }

    #[test]
    fn internal_errors_hide_their_cause() {
        let error = ApiError::internal("read /srv/vaults/x", "password=hunter2");
        let status = Status::from(error);
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("hunter2"));
        assert!(!status.message().contains("/srv"));
        assert!(status.message().contains("incident "));
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("INTERNAL", DOMAIN)
        );
    }

    #[test]
    fn details_fit_their_reason() {
        let status = Status::from(ApiError::overloaded("watch streams", 3));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_details_retry_info().is_some());
        assert_eq!(
            status.get_details_quota_failure().unwrap().violations.len(),
            1
        );

        let status = Status::from(ApiError::from(CatalogError::BackupNotFound {
            backup_id: "b".into(),
        }));
        let resource = status.get_details_resource_info().unwrap();
        assert_eq!(
            (
                resource.resource_type.as_str(),
                resource.resource_name.as_str()
            ),
            ("nora.backup.v1.Backup", "b")
        );

        let status = Status::from(ApiError::invalid(vec![FieldViolation::new(
            "agent.pool",
            "is odd",
        )]));
        assert_eq!(status.message(), "agent.pool is odd");
        assert_eq!(
            status.get_details_bad_request().unwrap().field_violations[0].field,
            "agent.pool"
        );
    }
}
