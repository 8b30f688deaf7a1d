//! The one place that turns errors into failures for people.
//!
//! What concerns the agent, its backups or the destination is said in the error's own words.
//! Faults of the service itself get a number; the log has the rest under that number.

use catalog::CatalogError;
use destinations::DestinationsError;
use proto::backup::v1::Failure;
use vault::VaultError;

use crate::{sources::SourceError, targets::TargetError};

/// Why a job did not come to its end.
#[derive(Debug)]
pub enum JobError {
    /// It failed.
    Failed {
        /// For people.
        failure: Failure,
        /// Whether a later attempt may succeed.
        retryable: bool,
    },
    /// It stopped because it was told to.
    Stopped,
    /// It is another attempt's by now: nothing may be written any more.
    Lost,
}

impl JobError {
    /// A failure that another attempt would not mend.
    pub fn final_failure(reason: &str, message: impl Into<String>) -> Self {
        Self::Failed {
            failure: failure(reason, message),
            retryable: false,
        }
    }

    /// A fault of the service itself: logged under a number, which is all that people see.
    pub fn internal(error: &(dyn std::fmt::Display + Sync), retryable: bool) -> Self {
        let number = uuid::Uuid::now_v7().simple().to_string();
        tracing::error!(number, error = %error, "internal fault");
        Self::Failed {
            failure: failure(
                "INTERNAL",
                format!(
                    "the service failed by a fault of its own: try again, and tell its operator \
                     the number {number}, under which the log says more"
                ),
            ),
            retryable,
        }
    }

    fn of(error: &(dyn std::fmt::Display + Sync), reason: &str, retryable: bool) -> Self {
        match reason {
            "CANCELED" => Self::Stopped,
            "INTERNAL" => Self::internal(error, retryable),
            reason => Self::Failed {
                failure: failure(reason, error.to_string()),
                retryable,
            },
        }
    }
}

/// A failure in the API's form.
pub fn failure(reason: &str, message: impl Into<String>) -> Failure {
    Failure {
        reason: reason.to_owned(),
        message: message.into(),
    }
}

impl From<VaultError> for JobError {
    fn from(error: VaultError) -> Self {
        Self::of(&error, error.reason(), error.is_retryable())
    }
}

impl From<DestinationsError> for JobError {
    fn from(error: DestinationsError) -> Self {
        match error {
            DestinationsError::Catalog(error) => error.into(),
            DestinationsError::Vault(error) => error.into(),
        }
    }
}

impl From<SourceError> for JobError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Catalog(error) => error.into(),
            error => Self::of(&error, error.reason(), error.is_retryable()),
        }
    }
}

impl From<TargetError> for JobError {
    fn from(error: TargetError) -> Self {
        Self::of(&error, error.reason(), error.is_retryable())
    }
}

impl From<CatalogError> for JobError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Fenced { .. } => Self::Lost,
            error => Self::of(&error, error.reason(), error.is_retryable()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(error: JobError) -> (String, bool, String) {
        match error {
            JobError::Failed { failure, retryable } => (failure.reason, retryable, failure.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_keep_their_words_and_faults_get_a_number() {
        let missing = VaultError::Missing {
            object: "packs/abc".to_owned(),
        };
        let (name, retryable, message) = reason(missing.into());
        assert_eq!((name.as_str(), retryable), ("OBJECT_MISSING", false));
        assert!(message.contains("packs/abc"));

        let fault = VaultError::Internal("the secret detail".to_owned());
        let (name, retryable, message) = reason(fault.into());
        assert_eq!((name.as_str(), retryable), ("INTERNAL", true));
        assert!(!message.contains("secret") && message.contains("number"));

        let (name, ..) = reason(TargetError::Unusable("x".to_owned()).into());
        assert_eq!(name, "TARGET_UNUSABLE");
        let (name, retryable, _) = reason(SourceError::EngineUnavailable("x".to_owned()).into());
        assert_eq!((name.as_str(), retryable), ("ENGINE_UNAVAILABLE", true));
        assert!(matches!(
            JobError::from(VaultError::Canceled),
            JobError::Stopped
        ));
    }

    #[test]
    fn a_refused_write_means_that_the_job_is_lost() {
        let fenced = CatalogError::Fenced {
            job_id: "j".to_owned(),
            attempt: 1,
        };
        assert!(matches!(JobError::from(fenced), JobError::Lost));
    }
}
