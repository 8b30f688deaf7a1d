//! What can go wrong with a queue or a bus.

/// What a queue or bus can answer besides its result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// It cannot be reached, or takes nothing more now: try again later.
    #[error("the queue did not take part ({doing}): {message}; it will be tried again")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What is the matter.
        message: String,
    },
    /// The consumer or subscription went away with its connection: make a new one.
    #[error("the queue closed the connection: consume again")]
    Closed,
    /// A message is none of ours, or of a version that this program does not know.
    #[error("a message of the queue cannot be read: {message}; a newer version may have sent it")]
    Malformed {
        /// What is wrong with it.
        message: String,
    },
}

impl QueueError {
    /// Whether the same may succeed later; after `Closed`, on a new consumer.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Closed)
    }
}
