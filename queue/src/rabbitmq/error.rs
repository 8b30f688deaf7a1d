//! What can go wrong with connecting, and the words for what goes wrong later.

use lapin::ErrorKind;

use crate::QueueError;

/// Why RabbitMQ could not be connected to. One line, without the password.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// It, or the URL, will not do as it is: somebody has to change something.
    #[error("NORA_BACKUP_AMQP_URL: {message}")]
    Refused {
        /// What is the matter.
        message: String,
    },
    /// Nothing answers there now: it may later.
    #[error("NORA_BACKUP_AMQP_URL: {message}")]
    Unreachable {
        /// What is the matter.
        message: String,
    },
}

impl ConnectError {
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::Refused {
            message: one_line(&message.into()),
        }
    }

    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self::Unreachable {
            message: one_line(&message.into()),
        }
    }

    /// Whether the same may succeed later without anybody's doing.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// AMQP's codes for "not with these credentials", "not in this virtual host"
/// and "it exists, but is another".
pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const PRECONDITION_FAILED: u16 = 406;
pub(super) const NOT_ALLOWED: u16 = 530;

/// The code with which RabbitMQ ended a channel or a connection, if it did.
pub(super) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// What lapin says, in one line.
pub(super) fn describe(error: &lapin::Error) -> String {
    one_line(&match error.kind() {
        ErrorKind::ProtocolError(error) => format!("RabbitMQ says {}", error.get_message()),
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    })
}

/// Unavailable, because of what lapin says.
pub(super) fn unavailable(doing: &'static str) -> impl Fn(lapin::Error) -> QueueError {
    move |error| because(doing, describe(&error))
}

/// Unavailable, because of something.
pub(super) fn because(doing: &'static str, message: impl Into<String>) -> QueueError {
    QueueError::Unavailable {
        doing,
        message: message.into(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
