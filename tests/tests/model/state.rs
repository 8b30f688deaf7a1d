//! What there is: rows, messages, objects and workers, as small as can be.

use std::hash::{DefaultHasher, Hash, Hasher as _};

/// Workers of the fleet.
pub const WORKERS: usize = 3;
/// How often a job is tried.
pub const ATTEMPTS_MAX: u8 = 2;
/// Messages of one job at the same time.
pub const MESSAGES_MAX: u8 = 2;

/// The jobs, all of one agent.
pub const BACKUP: usize = 0;
/// The compaction that is there from the beginning.
pub const COMPACT: usize = 1;
/// The one that it asks for.
pub const COMPACT_AGAIN: usize = 2;
pub const JOBS: usize = 3;

/// A set of small numbers: packs, chunks or attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Set(pub u16);

impl Set {
    pub const EMPTY: Self = Self(0);

    pub fn of(number: usize) -> Self {
        Self(1 << number)
    }

    pub fn has(self, number: usize) -> bool {
        self.0 & 1 << number != 0
    }

    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn numbers(self) -> impl Iterator<Item = usize> {
        (0..16).filter(move |number| self.has(*number))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Not asked for yet.
    #[default]
    Absent,
    Queued,
    Running,
    Completed,
    Failed,
}

/// Whether a dispatcher is about to note that the queue has word of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InHand {
    #[default]
    No,
    /// It published what the row says.
    Published,
    /// The row has changed since (`dispatch_version`).
    Outdated,
}

/// A row of the catalog, and the messages that tell of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Job {
    pub state: JobState,
    pub attempt: u8,
    pub dispatched: bool,
    /// It found the agent busy.
    pub waiting: bool,
    pub in_hand: InHand,
    /// Messages in the queue.
    pub messages: u8,
    /// How often it ended: watched by the checker, known to nobody.
    pub ends: u8,
}

impl Job {
    pub fn has_ended(&self) -> bool {
        matches!(self.state, JobState::Completed | JobState::Failed)
    }
}

/// Packs: the one that is there from the beginning, one of each attempt of the backup,
/// one of each attempt of a compaction.
pub const OLD_PACK: usize = 0;
pub const PACKS: usize = 1 + JOBS * ATTEMPTS_MAX as usize;

pub fn pack_of(job: usize, attempt: u8) -> usize {
    1 + job * ATTEMPTS_MAX as usize + usize::from(attempt) - 1
}

/// The chunk that the old pack holds, and the backup needs.
pub const OLD_CHUNK: usize = 0;

/// What an attempt of the backup finds: the agent changes between two of them.
pub fn chunks_of(attempt: u8) -> Set {
    Set::of(OLD_CHUNK).and(Set::of(usize::from(attempt)))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    #[default]
    Absent,
    /// In no index, and younger than the grace period.
    Unlisted,
    /// In no index, and older.
    Forgotten,
    Listed,
    /// Retired less than the grace period ago.
    Retired,
    /// Retired long ago.
    Due,
    Removed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pack {
    pub place: Place,
    pub chunks: Set,
}

impl Pack {
    pub fn is_stored(&self) -> bool {
        !matches!(self.place, Place::Absent | Place::Removed)
    }

    pub fn is_retired(&self) -> bool {
        matches!(self.place, Place::Retired | Place::Due)
    }

    /// Whether a backup may build upon it.
    pub fn is_present(&self) -> bool {
        self.is_stored() && !self.is_retired()
    }
}

/// What the destination holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vault {
    pub packs: [Pack; PACKS],
    /// By name: which attempt wrote the manifest that is stored under it; 0 is none.
    pub manifests: [u8; ATTEMPTS_MAX as usize],
}

impl Vault {
    pub fn packs_that(&self, is_so: impl Fn(&Pack) -> bool) -> Set {
        let numbers = (0..PACKS).filter(|number| is_so(&self.packs[*number]));
        numbers.fold(Set::EMPTY, |set, number| set.and(Set::of(number)))
    }

    /// Chunks that some pack of these holds.
    pub fn chunks_in(&self, packs: Set) -> Set {
        let chunks = packs.numbers().map(|number| self.packs[number].chunks);
        chunks.fold(Set::EMPTY, Set::and)
    }

    /// Names of manifests that are stored.
    pub fn stored_manifests(&self) -> Set {
        let names = (0..self.manifests.len()).filter(|name| self.manifests[*name] != 0);
        names.fold(Set::EMPTY, |set, name| set.and(Set::of(name)))
    }
}

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Claimed; the message is not acknowledged yet.
    Acknowledge,
    // A backup:
    ReadContents,
    StorePack,
    StoreIndex,
    StoreManifest,
    // A compaction:
    ListManifests,
    AskCatalog,
    RemoveGarbage,
    Survey,
    CopyChunks,
    LookBeforeIndex,
    ReplaceIndex,
    LookBeforeRemoval,
    RemovePacks,
    /// One transaction in the catalog.
    Complete,
}

/// What a worker believes; what it no longer needs is forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Belief {
    /// Packs that are present, with or without an index.
    pub present: Set,
    /// Packs that indexes list, and that they retire.
    pub listed: Set,
    pub retired: Set,
    /// Chunks that it has to store.
    pub lacking: Set,
    /// Names of manifests: those it saw, and of these the garbage.
    pub manifests: Set,
    pub garbage: Set,
    /// Packs that stay, that it retires, and that it removes.
    pub keep: Set,
    pub retire: Set,
    pub remove: Set,
}

/// A worker at an attempt of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run {
    pub job: usize,
    pub attempt: u8,
    pub step: Step,
    pub paused: bool,
    pub belief: Belief,
}

/// The whole fleet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub jobs: [Job; JOBS],
    /// The attempt whose manifest counts, once the backup is COMPLETED.
    pub counts: u8,
    pub vault: Vault,
    /// Those that work, in order: which is which does not matter.
    pub workers: [Option<Run>; WORKERS],
    /// What may still go wrong.
    pub faults: u8,
    /// The catalog took something from an attempt that had lost its lease.
    pub stale_write: bool,
}

impl State {
    pub fn start(faults: u8) -> Self {
        let queued = Job {
            state: JobState::Queued,
            ..Job::default()
        };
        let mut vault = Vault::default();
        vault.packs[OLD_PACK] = Pack {
            place: Place::Listed,
            chunks: Set::of(OLD_CHUNK),
        };
        Self {
            jobs: [queued, queued, Job::default()],
            counts: 0,
            vault,
            workers: [None; WORKERS],
            faults,
            stale_write: false,
        }
    }

    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.workers.iter().flatten()
    }

    /// Whether this attempt has the lease.
    pub fn holds(&self, run: &Run) -> bool {
        let job = &self.jobs[run.job];
        job.state == JobState::Running && job.attempt == run.attempt
    }
}
