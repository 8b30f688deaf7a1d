//! Segments: about a megabyte of new chunks that are compressed together.

use std::io;

use proto::vault::v1::Compression;
use zstd::zstd_safe::{CParameter, Strategy};

use crate::{
    error::{Result, VaultError},
    id::ChunkId,
    limits::{CHUNK_BYTES_CUT_MAX, CHUNK_BYTES_MAX, SEGMENT_BYTES},
    pack::CompressedSegment,
};

/// What does not shrink below this part of its length is stored as it is.
const WORTHWHILE_PERMILLE: usize = 990;
/// A sample that does not shrink below this part of its length tells that the
/// whole does not shrink…
const NOT_PERMILLE: usize = 995;
/// …and below this part, that it shrinks little.
const LITTLE_PERMILLE: usize = 350;
/// The level whose quick form is tuned here; others are left as zstd has them.
const DEFAULT_LEVEL: i32 = 3;
/// A probe looks at this many places…
const PROBES: usize = 8;
/// …of this length each.
const PROBE_BYTES: usize = 4096;
/// From this length on a segment's buffer grows to its full length at once.
const GROWN_BYTES: usize = 256 * 1024;

/// The segment that chunks are being added to.
#[derive(Default)]
pub(super) struct SegmentBuilder {
    /// Its number in the index, once it has a chunk.
    pub number: Option<u32>,
    raw: Vec<u8>,
    chunk_ids: Vec<u8>,
    chunk_bytes: Vec<u32>,
}

/// A full segment, before compression.
pub(super) struct RawSegment {
    pub number: u32,
    pub raw: Vec<u8>,
    pub chunk_ids: Vec<u8>,
    pub chunk_bytes: Vec<u32>,
}

impl SegmentBuilder {
    /// Adds a chunk; returns its offset in the segment.
    pub(super) fn push(&mut self, id: &ChunkId, chunk: &[u8]) -> u32 {
        debug_assert!(!chunk.is_empty() && chunk.len() <= CHUNK_BYTES_MAX);
        let offset = self.raw.len() as u32;
        if self.raw.len() + chunk.len() > self.raw.capacity() && self.raw.len() >= GROWN_BYTES {
            // Doubling would end at twice what a segment needs.
            let full = SEGMENT_BYTES + CHUNK_BYTES_CUT_MAX;
            self.raw
                .reserve_exact(full.max(self.raw.len() + chunk.len()) - self.raw.len());
        }
        self.raw.extend_from_slice(chunk);
        self.chunk_ids.extend_from_slice(id);
        self.chunk_bytes.push(chunk.len() as u32);
        offset
    }

    pub(super) fn is_full(&self) -> bool {
        self.raw.len() >= SEGMENT_BYTES
    }

    /// The segment, if it has a chunk; the next one is built in `spare`.
    pub(super) fn take(&mut self, spare: Vec<u8>) -> Option<RawSegment> {
        let number = self.number.take()?;
        let raw = std::mem::replace(&mut self.raw, spare);
        self.raw.clear();
        Some(RawSegment {
            number,
            raw,
            chunk_ids: std::mem::take(&mut self.chunk_ids),
            chunk_bytes: std::mem::take(&mut self.chunk_bytes),
        })
    }
}

/// Compresses segments, one after another, with the same working memory.
pub(super) struct Compressor {
    /// For what shrinks well (text, source code): two hash tables, as zstd has
    /// it at this level.
    thorough: zstd::bulk::Compressor<'static>,
    /// For what shrinks little (machine code, embeddings): one hash table finds
    /// nearly as much there, in two thirds of the time.
    quick: zstd::bulk::Compressor<'static>,
    probe: zstd::bulk::Compressor<'static>,
    opener: zstd::bulk::Decompressor<'static>,
    scratch: Vec<u8>,
}

/// What a probe says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shrinks {
    Not,
    Little,
    Well,
}

fn internal(error: io::Error) -> VaultError {
    VaultError::Internal(format!("zstd: {error}"))
}

impl Compressor {
    pub(super) fn new(level: i32) -> Result<Self> {
        let mut quick = zstd::bulk::Compressor::new(level).map_err(internal)?;
        if level == DEFAULT_LEVEL {
            for parameter in [
                CParameter::Strategy(Strategy::ZSTD_fast),
                CParameter::HashLog(17),
                CParameter::MinMatch(5),
            ] {
                quick.set_parameter(parameter).map_err(internal)?;
            }
        }
        Ok(Self {
            thorough: zstd::bulk::Compressor::new(level).map_err(internal)?,
            quick,
            probe: zstd::bulk::Compressor::new(1).map_err(internal)?,
            opener: zstd::bulk::Decompressor::new().map_err(internal)?,
            scratch: Vec::new(),
        })
    }

    /// Compresses a segment, and decompresses it again to see that it is right.
    /// Gives the segment's buffer back for the next one.
    pub(super) fn compress(&mut self, segment: RawSegment) -> Result<(CompressedSegment, Vec<u8>)> {
        let RawSegment {
            raw,
            chunk_ids,
            chunk_bytes,
            ..
        } = segment;
        let raw_bytes = raw.len() as u32;
        let made = |compression, bytes| CompressedSegment {
            compression,
            bytes,
            raw_bytes,
            chunk_ids,
            chunk_bytes,
        };
        let compressed = match self.probe(&raw) {
            Shrinks::Not => return Ok((made(Compression::None, raw), Vec::new())),
            Shrinks::Little => self.quick.compress(&raw),
            Shrinks::Well => self.thorough.compress(&raw),
        }
        .map_err(internal)?;
        if compressed.len() * 1000 > raw.len() * WORTHWHILE_PERMILLE {
            return Ok((made(Compression::None, raw), Vec::new()));
        }
        if self.scratch.len() < raw.len() {
            self.scratch.resize(raw.len(), 0);
        }
        let opened = self
            .opener
            .decompress_to_buffer(&compressed, &mut self.scratch[..raw.len()])
            .map_err(internal)?;
        if self.scratch[..opened] != raw[..] {
            return Err(VaultError::Internal(
                "a compressed segment does not decompress to itself".to_owned(),
            ));
        }
        let mut exact = compressed;
        exact.shrink_to_fit();
        Ok((made(Compression::Zstd, exact), raw))
    }

    /// How much a sample shrinks.
    fn probe(&mut self, raw: &[u8]) -> Shrinks {
        if raw.len() < 4 * PROBES * PROBE_BYTES {
            return Shrinks::Well;
        }
        let step = raw.len() / PROBES;
        let sample: Vec<u8> = (0..PROBES)
            .flat_map(|n| &raw[n * step..n * step + PROBE_BYTES])
            .copied()
            .collect();
        let Ok(small) = self.probe.compress(&sample) else {
            return Shrinks::Well;
        };
        match small.len() * 1000 / sample.len() {
            NOT_PERMILLE.. => Shrinks::Not,
            LITTLE_PERMILLE.. => Shrinks::Little,
            _ => Shrinks::Well,
        }
    }
}
