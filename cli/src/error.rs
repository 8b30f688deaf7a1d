//! What a command ends with when it does not succeed.
//!
//! One type for everything that people read: what happened, the details that
//! the service gave, what to do next, and the exit code. Answers of the service
//! are taken apart here and nowhere else.

use std::{error::Error as StdError, fmt, io, time::Duration};

use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{exit::Exit, output::human};

/// An error as people read it.
#[derive(Debug, Clone)]
pub struct CliError {
    /// How the process ends.
    pub exit: Exit,
    /// What happened, to what, and what to do. Empty: it was said already.
    pub message: String,
    /// The service's stable reason.
    pub reason: Option<String>,
    /// Field names and what is wrong with each.
    pub fields: Vec<(String, String)>,
    /// Further lines of help.
    pub hints: Vec<String>,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
}

/// What commands return.
pub type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    /// An error with its exit code and message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            reason: None,
            fields: Vec::new(),
            hints: Vec::new(),
            retry_after: None,
        }
    }

    /// Ends with this code, without a further word.
    pub fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The work failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The same with one more line of help.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// An error of the local machine, with what was being done.
    pub fn io(doing: impl fmt::Display, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(Exit::BrokenPipe);
        }
        Self::failed(format!("{doing}: {error}"))
    }

    /// The error for `--json`.
    pub fn to_json(&self) -> Value {
        let fields: Vec<Value> = self
            .fields
            .iter()
            .map(|(field, description)| json!({"field": field, "description": description}))
            .collect();
        json!({"error": {
            "exit_code": self.exit.number(),
            "message": self.message,
            "reason": self.reason,
            "fields": fields,
            "hints": self.hints,
            "retry_after_ms": self.retry_after.map(|delay| delay.as_millis() as u64),
        }})
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", printable_lines(&self.message, "\n"))?;
        if let Some(reason) = &self.reason {
            write!(f, "\n  reason: {}", human::printable(reason))?;
        }
        for (field, description) in &self.fields {
            let (field, description) = (human::printable(field), human::printable(description));
            write!(f, "\n  {field}: {description}")?;
        }
        if let Some(delay) = self.retry_after {
            write!(f, "\n  try again in {}", human::duration(delay))?;
        }
        for hint in &self.hints {
            write!(f, "\nhint: {}", printable_lines(hint, "\n      "))?;
        }
        Ok(())
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let mut error = Self::new(Exit::from_grpc(status.code()), status.message());
        if error.message.is_empty() {
            error.message = status.code().description().to_string();
        }
        if let Some(cause) = status.source() {
            // Made on this side of the wire: the innermost cause is the one that helps.
            error.message = format!("{}: {}", error.message, innermost(cause));
        }
        if let Some(info) = details.error_info() {
            error.reason = Some(info.reason.clone());
        }
        if let Some(request) = details.bad_request() {
            error.fields.extend(
                request
                    .field_violations
                    .iter()
                    .map(|v| (v.field.clone(), v.description.clone())),
            );
        }
        if let Some(quota) = details.quota_failure() {
            error.fields.extend(
                quota
                    .violations
                    .iter()
                    .map(|v| (v.subject.clone(), v.description.clone())),
            );
        }
        if let Some(failure) = details.precondition_failure() {
            error.fields.extend(
                failure
                    .violations
                    .iter()
                    .map(|v| (v.subject.clone(), v.description.clone())),
            );
        }
        error.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        if status.code() == Code::Unauthenticated {
            error.hints.push(
                "give a token with --token-file or NORA_BACKUP_TOKEN; \
                 `nora-backup token mint --help` tells how to make one"
                    .into(),
            );
        }
        error
    }
}

/// Several lines, each safe for a terminal.
fn printable_lines(text: &str, separator: &str) -> String {
    text.lines()
        .map(human::printable)
        .collect::<Vec<_>>()
        .join(separator)
}

/// The last cause in a chain of errors.
pub fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}

/// Whether the same call can succeed by being made again: the service went
/// away, or is too busy, or the connection broke.
pub fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted => true,
        // A connection that breaks in the middle of a stream is reported with a local cause.
        Code::Unknown | Code::Internal | Code::Cancelled => status.source().is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    fn rich() -> Status {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("INVALID_FIELD", "nora.backup", [])
            .add_bad_request_violation("agent.agent_id", "use a-z, 0-9, '-' and '_'")
            .set_retry_info(Some(Duration::from_secs(5)));
        Status::with_error_details(Code::InvalidArgument, "the agent is not valid", details)
    }

    #[test]
    fn shows_message_then_reason_then_fields() {
        let error = CliError::from(rich());
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(
            error.to_string(),
            "error: the agent is not valid\n  reason: INVALID_FIELD\n  \
             agent.agent_id: use a-z, 0-9, '-' and '_'\n  try again in 5.0 s"
        );
    }

    #[test]
    fn json_errors_have_the_same_parts() {
        let document = CliError::from(rich()).to_json();
        assert_eq!(document["error"]["reason"], "INVALID_FIELD");
        assert_eq!(document["error"]["fields"][0]["field"], "agent.agent_id");
        assert_eq!(document["error"]["exit_code"], 2);
        assert_eq!(document["error"]["retry_after_ms"], 5000);
    }

    #[test]
    fn terminal_controls_in_messages_are_shown_not_obeyed() {
        let error = CliError::from(Status::not_found("no agent \u{1b}[2J"));
        assert_eq!(error.exit, Exit::NotFound);
        assert!(!error.to_string().contains('\u{1b}'));
    }

    #[test]
    fn only_passing_troubles_are_tried_again() {
        assert!(is_passing(&Status::unavailable("stopping")));
        assert!(!is_passing(&Status::internal("fault 17")));
        assert!(!is_passing(&Status::not_found("gone")));
    }
}
