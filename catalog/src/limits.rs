//! The bounds of this crate, each with its unit.

/// Items in a page at the most.
pub const PAGE_MAX: u64 = 1_000;
/// Warnings kept of a backup or restore; the rest is only counted.
pub const WARNINGS_MAX: usize = 100;
/// Vaults that are named when they could not be brought under a key.
pub const PROBLEMS_MAX: usize = 100;
/// A process without a sign of life for this long is gone.
pub const REPLICA_GONE_MS: i64 = 2 * 60 * 1_000;
/// How long a `request_id` is remembered.
pub const REQUEST_TTL_MS: i64 = 24 * 60 * 60 * 1_000;
/// How long an unstarted draft stays.
pub const DRAFT_TTL_MS: i64 = 24 * 60 * 60 * 1_000;
/// A job that found its agent busy is tried again after this time even when
/// the wake-up of the job before it was lost.
pub const BUSY_RETRY_MS: i64 = 15_000;
/// Rows changed by one housekeeping transaction.
pub const BATCH_ROWS_MAX: u64 = 500;
/// How long a statement waits for another process's SQLite lock.
pub const SQLITE_BUSY_TIMEOUT_MS: u64 = 10_000;
/// How long a statement waits for a row that another session of PostgreSQL has locked.
pub const LOCK_TIMEOUT_MS: u64 = 5_000;
/// How long PostgreSQL works at one statement.
pub const STATEMENT_TIMEOUT_MS: u64 = 30_000;
/// How long PostgreSQL waits within a transaction for its next statement: whoever is silent for
/// longer is frozen or cut off, and must not keep others from the rows it has locked.
pub const IDLE_IN_TRANSACTION_TIMEOUT_MS: u64 = 10_000;
/// How long closing waits for calls that still use a connection.
pub const CLOSE_TIMEOUT_MS: u64 = 3_000;
/// How long a call waits for a free connection.
pub const ACQUIRE_TIMEOUT_MS: u64 = 15_000;
/// A job that is due and that no worker took for so long is stuck.
pub const UNTAKEN_MS: i64 = 5 * 60 * 1_000;
/// So is one whose worker's hold ended so long ago: the reaper takes it back in
/// seconds.
pub const SILENT_MS: i64 = 60 * 1_000;
