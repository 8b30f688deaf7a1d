//! What can go wrong in a vault.
//!
//! Rules: a message names the object and says what was being done; it never
//! holds a path of this machine, a key or a credential. `is_retryable` says
//! whether the same work may succeed later without anyone doing anything.

use std::{fmt, io};

/// Result of vault calls.
pub type Result<T, E = VaultError> = std::result::Result<T, E>;

/// What can go wrong in a vault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The destination did not do what was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object that must be there is not.
    #[error(
        "{object} is missing from the destination: restore the object from a copy, or use another backup"
    )]
    Missing {
        /// Name of the object in the vault.
        object: String,
    },
    /// An object is not what was written.
    #[error(
        "{object} is not what was written ({what}): restore the object from a copy, or use another backup"
    )]
    Corrupt {
        /// Name of the object in the vault.
        object: String,
        /// What is wrong with it.
        what: String,
    },
    /// An object opens, and is not the one that the catalog knows under its name.
    #[error(
        "{object} is whole, and not the one that was stored last under this name: the destination \
         serves an older or another state (rolled back, restored from a copy, or swapped); bring \
         back its newest state, or use another backup"
    )]
    Replayed {
        /// Name of the object in the vault.
        object: String,
    },
    /// The destination holds less of the vault than the catalog knows was stored.
    #[error(
        "the destination serves an older state of the vault of agent {agent_id} than was stored there \
         ({lacking}): see that it is the right destination and bring back what it lacks; or delete \
         the backups that are lost, then make a new one"
    )]
    RolledBack {
        /// The agent.
        agent_id: String,
        /// What is not there.
        lacking: String,
    },
    /// An object was written by a newer version of this program.
    #[error(
        "{object} has format version {version}, and this program reads up to {supported}: use a newer version of it"
    )]
    Version {
        /// Name of the object in the vault.
        object: String,
        /// Version found.
        version: u32,
        /// Newest version understood.
        supported: u32,
    },
    /// There is no vault for the agent.
    #[error("there is no vault of agent {agent_id} at this destination")]
    NoVault {
        /// The agent.
        agent_id: String,
    },
    /// No configured key opens the vault's data keys.
    #[error(
        "the vault of agent {agent_id} is sealed under key {needed}, and the configured keys are {configured}: \
         set NORA_BACKUP_ENCRYPTION_KEY or NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS to the key with that id"
    )]
    KeyNotConfigured {
        /// The agent.
        agent_id: String,
        /// Ids of the keys that would open it.
        needed: String,
        /// Ids of the keys at hand.
        configured: String,
    },
    /// The vault holds data but no keys: a new key would hide what is lost.
    #[error(
        "the vault of agent {agent_id} holds backups but its keys/ objects are gone: \
         restore keys/ from a copy; no new key is made beside data that needs the old one"
    )]
    KeysGone {
        /// The agent.
        agent_id: String,
    },
    /// Another worker writes to the vault, which this work must have for itself.
    #[error(
        "{object} appeared or went while the vault was worked on: another worker is at work there; nothing was retired, do it again later"
    )]
    Changed {
        /// Name of the object in the vault.
        object: String,
    },
    /// Something is wrong where a copy is written to, not where it is read from.
    #[error("at the destination of the copy: {0}")]
    Target(Box<VaultError>),
    /// The caller asked to stop.
    #[error("canceled")]
    Canceled,
    /// Reading the source failed in the middle of a file.
    #[error("read the source: {0}")]
    Source(io::Error),
    /// Writing to the caller's sink failed.
    #[error("write what was read back: {0}")]
    Sink(io::Error),
    /// The caller's entries are not in path order, or not well-formed.
    #[error("entry {path:?} cannot be stored: {what}")]
    Entry {
        /// The entry's path, lossily as text.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A fault of this program, found by one of its own checks.
    #[error("internal check: {0}")]
    Internal(String),
}

impl VaultError {
    /// Whether the same work may succeed later by itself.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.kind.is_retryable(),
            Self::Target(error) => error.is_retryable(),
            Self::Source(_) | Self::Internal(_) | Self::Changed { .. } => true,
            _ => false,
        }
    }

    /// Whether it concerns one stored object, while others may be right: what is
    /// rescued from a damaged vault goes on after it.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Store(error) => matches!(
                error.kind,
                StoreErrorKind::NotFound | StoreErrorKind::Corrupt | StoreErrorKind::Other
            ),
            Self::Missing { .. }
            | Self::Corrupt { .. }
            | Self::Version { .. }
            | Self::Replayed { .. }
            | Self::KeyNotConfigured { .. } => true,
            Self::Target(error) => error.is_fault(),
            _ => false,
        }
    }

    /// The stable reason: a name of `nora.backup.v1.ErrorReason`, less its prefix.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Store(error) => match error.kind {
                StoreErrorKind::NotFound => "OBJECT_MISSING",
                StoreErrorKind::Denied | StoreErrorKind::Refused => "DESTINATION_DENIED",
                StoreErrorKind::Untrusted => "DESTINATION_UNTRUSTED",
                StoreErrorKind::Misconfigured => "DESTINATION_MISCONFIGURED",
                StoreErrorKind::Full => "DESTINATION_FULL",
                StoreErrorKind::Corrupt => "OBJECT_CORRUPT",
                StoreErrorKind::Unavailable | StoreErrorKind::Timeout | StoreErrorKind::Other => {
                    "DESTINATION_UNAVAILABLE"
                }
            },
            Self::Missing { .. } | Self::NoVault { .. } => "OBJECT_MISSING",
            Self::Corrupt { .. } | Self::Version { .. } => "OBJECT_CORRUPT",
            Self::KeysGone { .. } => "KEYS_GONE",
            Self::KeyNotConfigured { .. } => "KEY_NOT_CONFIGURED",
            Self::Replayed { .. } => "OBJECT_REPLAYED",
            Self::RolledBack { .. } => "VAULT_ROLLED_BACK",
            Self::Changed { .. } => "AGENT_BUSY",
            Self::Target(error) => error.reason(),
            Self::Canceled => "CANCELED",
            Self::Source(_) | Self::Sink(_) | Self::Entry { .. } | Self::Internal(_) => "INTERNAL",
        }
    }

    pub(crate) fn corrupt(object: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Corrupt {
            object: object.into(),
            what: what.into(),
        }
    }

    /// A second copy for another waiter of the same failed work.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Store(e) => Self::Store(e.clone()),
            Self::Missing { object } => Self::Missing {
                object: object.clone(),
            },
            Self::Corrupt { object, what } => Self::Corrupt {
                object: object.clone(),
                what: what.clone(),
            },
            Self::Replayed { object } => Self::Replayed {
                object: object.clone(),
            },
            Self::RolledBack { agent_id, lacking } => Self::RolledBack {
                agent_id: agent_id.clone(),
                lacking: lacking.clone(),
            },
            Self::Version {
                object,
                version,
                supported,
            } => Self::Version {
                object: object.clone(),
                version: *version,
                supported: *supported,
            },
            Self::NoVault { agent_id } => Self::NoVault {
                agent_id: agent_id.clone(),
            },
            Self::KeyNotConfigured {
                agent_id,
                needed,
                configured,
            } => Self::KeyNotConfigured {
                agent_id: agent_id.clone(),
                needed: needed.clone(),
                configured: configured.clone(),
            },
            Self::KeysGone { agent_id } => Self::KeysGone {
                agent_id: agent_id.clone(),
            },
            Self::Changed { object } => Self::Changed {
                object: object.clone(),
            },
            Self::Target(error) => Self::Target(Box::new(error.again())),
            Self::Canceled => Self::Canceled,
            Self::Source(e) => Self::Source(io::Error::new(e.kind(), e.to_string())),
            Self::Sink(e) => Self::Sink(io::Error::new(e.kind(), e.to_string())),
            Self::Entry { path, what } => Self::Entry {
                path: path.clone(),
                what,
            },
            Self::Internal(what) => Self::Internal(what.clone()),
        }
    }
}

impl From<VaultError> for io::Error {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Source(e) | VaultError::Sink(e) => e,
            other => io::Error::other(other),
        }
    }
}

/// The destination did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{action} {object}: {kind}: {detail}")]
pub struct StoreError {
    /// What was being done, for example "write".
    pub action: &'static str,
    /// Name of the object below the vault.
    pub object: String,
    /// What sort of failure it is.
    pub kind: StoreErrorKind,
    /// The cause in the destination's words, without paths of this machine or
    /// credentials, and the remedy where the kind alone does not tell it.
    pub detail: String,
}

/// What sort of failure of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The object is not there.
    NotFound,
    /// Permissions; the detail names the action and what it was refused on.
    Denied,
    /// The credentials are not accepted.
    Refused,
    /// The other side is not the one that is expected: TLS, host key.
    Untrusted,
    /// A setting of the destination is wrong; the detail names it.
    Misconfigured,
    /// No room left.
    Full,
    /// The destination cannot be reached.
    Unavailable,
    /// No progress within the time limit.
    Timeout,
    /// What was written reads back otherwise.
    Corrupt,
    /// Anything else.
    Other,
}

impl StoreErrorKind {
    /// Whether the same call may succeed later by itself.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Unavailable | Self::Timeout | Self::Corrupt | Self::Other
        )
    }
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "the object is not there",
            Self::Denied => {
                "the destination denies access; allow this service to read and write there"
            }
            Self::Refused => "the destination does not accept the credentials",
            Self::Untrusted => "the destination is not the one that is expected",
            Self::Misconfigured => "a setting of the destination is wrong",
            Self::Full => {
                "the destination has no room left; make room there or use another destination"
            }
            Self::Unavailable => "the destination cannot be reached",
            Self::Timeout => "the destination made no progress in time",
            Self::Corrupt => "the destination returned other bytes than were written",
            Self::Other => "the destination answered with an error",
        })
    }
}
