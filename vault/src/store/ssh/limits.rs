//! Every bound of the SSH destination, by name.

use std::time::Duration;

/// A connection is made, and someone logged in, within this.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(15);
/// A connection on which nothing arrives is asked for a sign of life this often,
pub(super) const KEEPALIVE: Duration = Duration::from_secs(15);
/// and is dead after so many that were not answered: 45 s.
pub(super) const KEEPALIVES_UNANSWERED_MAX: usize = 2;
/// A channel on which nothing moves for this long while an answer is due has failed.
pub(super) const STALL: Duration = Duration::from_mins(1);
/// An answer that does not come while others do is waited for this long.
pub(super) const REPLY_MAX: Duration = Duration::from_mins(10);

/// What one read or write carries where the server allows it: OpenSSH's own limit.
pub(super) const BLOCK_BYTES: usize = 255 * 1024;
/// What every server takes.
pub(super) const BLOCK_BYTES_SAFE: usize = 32 * 1024;
/// Bytes of one transfer that are under way at once. OpenSSH's server takes this
/// much of a channel before it must be answered.
pub(super) const UNDER_WAY_BYTES: usize = 2 * 1024 * 1024;
/// What a server may send on a channel before it is answered.
pub(super) const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Longest SSH packet that the client takes; the library warns from 64 KiB on.
pub(super) const PACKET_BYTES: u32 = 64 * 1024 - 1;
/// SFTP channels of one connection: a server works on one request of each at a time.
pub(super) const CHANNELS_MAX: usize = 4;
/// Parts of a folder that are asked for at once.
pub(super) const LISTINGS_MAX: usize = 4;

/// A call is tried again while less than this has passed since it first failed:
/// a server that starts anew is met again, one that is gone is told of in time.
pub(super) const RETRY_FOR: Duration = Duration::from_secs(12);
/// The first wait before another try; each further one is twice as long.
pub(super) const RETRY_FIRST_MS: u64 = 250;
