//! Key-encryption keys: who holds them, what is under them, and their rotation. The
//! keys themselves are nowhere here, only their ids.

use proto::backup::v1::{Failure, Progress};

use super::{JobState, RequestKey};

/// A rotation of keys: every vault is brought under the writing key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRotation {
    /// Its id, and its job's.
    pub rotation_id: String,
    /// The key that every vault is to be under.
    pub writing_key_id: String,
    /// Whether all other keys' wraps are removed.
    pub retire_previous: bool,
    /// Where it stands.
    pub state: JobState,
    /// Which attempt its job is in.
    pub attempt: u32,
    /// The last vault that was seen to, in the words of the job; empty: none.
    pub cursor: String,
    /// How far it is.
    pub counts: RotationCounts,
    /// The first vaults that failed, at most [`crate::limits::PROBLEMS_MAX`].
    pub problems: Vec<VaultProblem>,
    /// Why it failed; while it waits for its next attempt, why the last one did.
    pub failure: Option<Failure>,
    /// How far its job is.
    pub progress: Progress,
    /// When it was asked for.
    pub create_time_ms: i64,
    /// When a worker first began.
    pub start_time_ms: Option<i64>,
    /// When it ended.
    pub end_time_ms: Option<i64>,
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RotationCounts {
    /// Vaults seen to, failed ones too.
    pub vaults_done: u64,
    /// Vaults in all, as far as known.
    pub vaults_total: u64,
    /// Vaults of which something was rewritten.
    pub vaults_changed: u64,
    /// Vaults that are not under the key.
    pub vaults_failed: u64,
}

/// A vault that could not be brought under the writing key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VaultProblem {
    /// The destination it lies at.
    #[prost(string, tag = "1")]
    pub destination_id: String,
    /// Whose vault it is.
    #[prost(string, tag = "2")]
    pub agent_id: String,
    /// Why.
    #[prost(message, optional, tag = "3")]
    pub failure: Option<Failure>,
}

/// A rotation to make.
#[derive(Clone, Debug, PartialEq)]
pub struct NewKeyRotation {
    /// The key that every vault is to be under: the one that the caller's server writes with.
    pub writing_key_id: String,
    /// Whether all other keys' wraps are removed.
    pub retire_previous: bool,
    /// Who asks.
    pub owner_id: String,
    /// Makes the call idempotent.
    pub request: Option<RequestKey>,
}

/// Where a rotation's attempt is, to be gone on from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RotationStep {
    /// See [`KeyRotation::cursor`].
    pub cursor: String,
    /// How far it is.
    pub counts: RotationCounts,
    /// See [`KeyRotation::problems`].
    pub problems: Vec<VaultProblem>,
}

/// A process that holds keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHolder {
    /// Its name, new with every start.
    pub replica: String,
    /// "worker" or "server".
    pub kind: String,
    /// Ids of the keys, the writing one first.
    pub key_ids: Vec<String>,
    /// Its last sign of life.
    pub seen_time_ms: i64,
}

/// How many vaults are under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// The key.
    pub key_id: String,
    /// Vaults that it opens.
    pub vaults: u64,
    /// Those of them that no other key opens.
    pub vaults_only: u64,
}
