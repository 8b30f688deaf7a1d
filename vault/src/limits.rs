//! Every bound of the format and of the pipelines, by name. What a reader
//! meets beyond a format bound is refused, not believed.

/// Data up to this length stands inside its entry.
pub const INLINE_BYTES_MAX: usize = 512;
/// Shortest chunk that content-defined cutting makes (the last may be shorter).
pub const CHUNK_BYTES_MIN: usize = 8 * 1024;
/// Chunk length that cutting aims at.
pub const CHUNK_BYTES_AVG: usize = 32 * 1024;
/// Longest chunk that cutting makes.
pub const CHUNK_BYTES_CUT_MAX: usize = 128 * 1024;
/// Longest chunk that a reader accepts.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// A segment is closed once its chunks reach this length together.
pub const SEGMENT_BYTES: usize = 2 * 1024 * 1024;
/// Longest segment that a reader accepts: the last chunk may reach over.
pub const SEGMENT_BYTES_MAX: usize = SEGMENT_BYTES + CHUNK_BYTES_MAX;
/// A pack is closed once its sealed segments reach this length together.
pub const PACK_BYTES: usize = 16 * 1024 * 1024;
/// Longest pack that a reader accepts.
pub const PACK_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Longest index or manifest object that a reader accepts.
pub const DOCUMENT_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// An index object is closed once it lists this many chunks, unless a test says otherwise.
pub const INDEX_CHUNKS_MAX: usize = 200_000;
/// Length of a chunk id.
pub const CHUNK_ID_BYTES: usize = 16;
/// A list of chunk ids is closed at this many ids at the latest.
pub const LIST_IDS_MAX: usize = 4096;
/// A list of chunk ids may be closed by content from this many ids on.
pub const LIST_IDS_MIN: usize = 512;
/// Levels of id lists above the data that a reader accepts.
pub const LIST_DEPTH_MAX: u32 = 3;
/// Longest path.
pub const PATH_BYTES_MAX: usize = 65_536;
/// Longest path component.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest entry record that a reader accepts.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Warnings that a manifest lists; further ones are counted.
pub const WARNINGS_MAX: usize = 1000;
/// Packs on their way to the destination at once.
pub const UPLOADS_MAX: usize = 2;
/// Packs on their way from one destination to another at once.
pub const TRANSFERS_MAX: usize = 3;
