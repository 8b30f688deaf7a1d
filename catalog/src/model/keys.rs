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
    /// How far it is, all destinations together.
    pub counts: RotationCounts,
    /// How far it is at each destination; empty before a worker has looked.
    pub destinations: Vec<DestinationRotation>,
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
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RotationCounts {
    /// Vaults seen to, failed ones too.
    #[prost(uint64, tag = "1")]
    pub vaults_done: u64,
    /// Vaults in all, as far as known.
    #[prost(uint64, tag = "2")]
    pub vaults_total: u64,
    /// Vaults of which something was rewritten.
    #[prost(uint64, tag = "3")]
    pub vaults_changed: u64,
    /// Vaults that are not under the key.
    #[prost(uint64, tag = "4")]
    pub vaults_failed: u64,
}

/// How far a rotation is at one destination, to be gone on from.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DestinationRotation {
    /// The destination.
    #[prost(string, tag = "1")]
    pub destination_id: String,
    /// How far it is there.
    #[prost(message, required, tag = "2")]
    pub counts: RotationCounts,
    /// The last agent whose vault was seen to, in their order; empty: none.
    #[prost(string, tag = "3")]
    pub cursor: String,
    /// Every vault was seen to.
    #[prost(bool, tag = "4")]
    pub is_done: bool,
    /// Why the last attempt could not see to every vault.
    #[prost(message, optional, tag = "5")]
    pub failure: Option<Failure>,
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
    /// See [`KeyRotation::destinations`].
    pub destinations: Vec<DestinationRotation>,
    /// See [`KeyRotation::problems`].
    pub problems: Vec<VaultProblem>,
}

impl RotationStep {
    /// How far it is, all destinations together.
    pub fn counts(&self) -> RotationCounts {
        let mut all = RotationCounts::default();
        for DestinationRotation { counts, .. } in &self.destinations {
            all.vaults_done += counts.vaults_done;
            all.vaults_total += counts.vaults_total;
            all.vaults_changed += counts.vaults_changed;
            all.vaults_failed += counts.vaults_failed;
        }
        all
    }
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
