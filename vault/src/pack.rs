//! Packs: how segments lie in an object, and how they are read back.
//!
//! A pack is the header, the boxes of its segments one after another, the box of
//! its table of contents, and the length of that box as four bytes, little
//! endian. A segment's box position is its number in the pack, from 0; the table
//! of contents has position 2^64 - 1 and is the last box. It covers every byte
//! between header and itself, so a pack can't be shortened unnoticed.

use prost::Message as _;
use proto::vault::v1::{Compression, Segment, TableOfContents};

use crate::{
    error::{Result, VaultError},
    keyring::{DataKey, VaultKeys},
    limits::{CHUNK_BYTES_MAX, CHUNK_ID_BYTES, PACK_BYTES, PACK_BYTES_MAX, SEGMENT_BYTES_MAX},
    random,
    seal::{HEADER_BYTES, Header, Kind, Sealer, TAG_BYTES},
    store::Store,
};

/// Length of the field that tells the table of contents' length.
const TRAILER_BYTES: usize = 4;
/// Position of the table of contents' box: no segment ever has it.
const TOC_POSITION: u64 = u64::MAX;

/// A pack's object name below the vault.
pub(crate) fn pack_name(id: &[u8; 32]) -> String {
    format!("packs/{}", hex::encode(id))
}

/// A segment before it is sealed: compressed, with what is known of it.
#[derive(Debug)]
pub(crate) struct CompressedSegment {
    pub compression: Compression,
    pub bytes: Vec<u8>,
    pub raw_bytes: u32,
    pub chunk_ids: Vec<u8>,
    pub chunk_bytes: Vec<u32>,
}

/// A pack being filled.
pub(crate) struct PackBuilder {
    pub id: [u8; 32],
    key: DataKey,
    sealer: Sealer,
    bytes: Vec<u8>,
    toc: TableOfContents,
    scratch: Vec<u8>,
}

/// A finished pack, ready to be stored.
#[derive(Debug)]
pub(crate) struct FinishedPack {
    pub id: [u8; 32],
    pub key_id: [u8; 16],
    pub bytes: Vec<u8>,
    pub toc: TableOfContents,
}

impl PackBuilder {
    pub(crate) fn new(key: &DataKey) -> Self {
        let id: [u8; 32] = random::bytes();
        let header = Header {
            kind: Kind::Pack,
            key_id: key.id(),
            salt: id,
        };
        let sealer = Sealer::new(key, &header, &pack_name(&id));
        let mut bytes = Vec::with_capacity(PACK_BYTES + PACK_BYTES / 8);
        bytes.extend_from_slice(&header.encode());
        Self {
            id,
            key: key.clone(),
            sealer,
            bytes,
            toc: TableOfContents::default(),
            scratch: Vec::new(),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= PACK_BYTES
    }

    /// Seals a segment into the pack, and opens it again to see that it is right.
    pub(crate) fn push(&mut self, segment: CompressedSegment) -> Result<()> {
        let offset = self.bytes.len();
        let position = self.toc.segments.len() as u64;
        self.sealer
            .seal_into(&mut self.bytes, &segment.bytes, position, false);
        self.scratch.clear();
        self.scratch.extend_from_slice(&self.bytes[offset..]);
        if *self.sealer.open(&mut self.scratch, position, false)? != segment.bytes[..] {
            return Err(VaultError::Internal(
                "a sealed segment does not open to what was sealed".to_owned(),
            ));
        }
        self.toc.segments.push(Segment {
            offset_bytes: offset as u64,
            stored_bytes: (self.bytes.len() - offset) as u32,
            raw_bytes: segment.raw_bytes,
            compression: segment.compression.into(),
            chunk_ids: segment.chunk_ids,
            chunk_bytes: segment.chunk_bytes,
        });
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<FinishedPack> {
        let plain = self.toc.encode_to_vec();
        let start = self.bytes.len();
        self.sealer
            .seal_into(&mut self.bytes, &plain, TOC_POSITION, true);
        let toc_bytes = (self.bytes.len() - start) as u32;
        self.bytes.extend_from_slice(&toc_bytes.to_le_bytes());
        let (id, name) = (self.id, pack_name(&self.id));
        let mut toc_box = self.bytes[start..start + toc_bytes as usize].to_vec();
        let opened = open_toc_box(&self.sealer, &name, &mut toc_box, start as u64)?;
        if opened != self.toc {
            return Err(VaultError::Internal(format!(
                "{name} does not open to what was sealed"
            )));
        }
        Ok(FinishedPack {
            id,
            key_id: self.key.id(),
            bytes: self.bytes,
            toc: self.toc,
        })
    }
}

/// Reads the table of contents at the end of a pack.
pub(crate) async fn read_toc(
    store: &dyn Store,
    root: &str,
    keys: &VaultKeys,
    id: &[u8; 32],
    pack_bytes: u64,
) -> Result<(TableOfContents, [u8; 16])> {
    let name = pack_name(id);
    let full = format!("{root}{name}");
    check_length(&name, pack_bytes)?;
    let head = store.get_range(&full, 0, HEADER_BYTES as u64).await?;
    let (header, sealer) = opener(keys, &name, id, &head)?;
    let trailer = store
        .get_range(
            &full,
            pack_bytes - TRAILER_BYTES as u64,
            TRAILER_BYTES as u64,
        )
        .await?;
    let toc_start = toc_start(&name, pack_bytes, &trailer)?;
    let toc_bytes = pack_bytes - TRAILER_BYTES as u64 - toc_start;
    let mut toc_box = store.get_range(&full, toc_start, toc_bytes).await?.to_vec();
    let toc = open_toc_box(&sealer, &name, &mut toc_box, toc_start)?;
    Ok((toc, header.key_id))
}

/// Opens every box of a pack that was read whole: each byte of it is what was sealed.
pub(crate) fn check_whole(
    keys: &VaultKeys,
    id: &[u8; 32],
    bytes: &[u8],
) -> Result<(TableOfContents, [u8; 16])> {
    let name = pack_name(id);
    check_length(&name, bytes.len() as u64)?;
    let (header, sealer) = opener(keys, &name, id, bytes)?;
    let (before, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
    let toc_start = toc_start(&name, bytes.len() as u64, trailer)?;
    let mut scratch = before[toc_start as usize..].to_vec();
    let toc = open_toc_box(&sealer, &name, &mut scratch, toc_start)?;
    for (position, segment) in toc.segments.iter().enumerate() {
        // Within the pack: the table of contents was checked against its length.
        let start = segment.offset_bytes as usize;
        scratch.clear();
        scratch.extend_from_slice(&before[start..start + segment.stored_bytes as usize]);
        sealer.open(&mut scratch, position as u64, false)?;
    }
    Ok((toc, header.key_id))
}

fn check_length(name: &str, pack_bytes: u64) -> Result<()> {
    let least = (HEADER_BYTES + TAG_BYTES + TRAILER_BYTES) as u64;
    if (least..=PACK_BYTES_MAX).contains(&pack_bytes) {
        return Ok(());
    }
    Err(VaultError::corrupt(
        name,
        "its length is not that of a pack",
    ))
}

/// What opens the boxes of a pack that begins so.
fn opener(keys: &VaultKeys, name: &str, id: &[u8; 32], head: &[u8]) -> Result<(Header, Sealer)> {
    let header = Header::decode(Kind::Pack, name, head)?;
    if header.salt != *id {
        return Err(VaultError::corrupt(
            name,
            "it is another pack than its name says",
        ));
    }
    let key = keys.by_id(&header.key_id, name)?;
    let sealer = Sealer::new(key, &header, name);
    Ok((header, sealer))
}

/// Where the table of contents of a pack begins that ends so.
fn toc_start(name: &str, pack_bytes: u64, trailer: &[u8]) -> Result<u64> {
    let trailer: [u8; TRAILER_BYTES] = trailer
        .try_into()
        .map_err(|_| VaultError::corrupt(name, "cut short"))?;
    let toc_bytes = u64::from(u32::from_le_bytes(trailer));
    pack_bytes
        .checked_sub(TRAILER_BYTES as u64 + toc_bytes)
        .filter(|start| *start >= HEADER_BYTES as u64)
        .ok_or_else(|| VaultError::corrupt(name, "its table of contents is longer than the pack"))
}

fn open_toc_box(
    sealer: &Sealer,
    name: &str,
    toc_box: &mut [u8],
    toc_start: u64,
) -> Result<TableOfContents> {
    let plain = sealer.open(toc_box, TOC_POSITION, true)?;
    let toc = TableOfContents::decode(&*plain)
        .map_err(|_| VaultError::corrupt(name, "its table of contents is malformed"))?;
    check_toc(name, &toc, toc_start)?;
    Ok(toc)
}

/// Refuses tables of contents that contradict themselves.
pub(crate) fn check_toc(name: &str, toc: &TableOfContents, segments_end: u64) -> Result<()> {
    let corrupt = |what: &str| VaultError::corrupt(name, what);
    let mut offset = HEADER_BYTES as u64;
    for segment in &toc.segments {
        let chunks = segment.chunk_bytes.len();
        let raw: u64 = segment
            .chunk_bytes
            .iter()
            .map(|bytes| u64::from(*bytes))
            .sum();
        if segment.offset_bytes != offset
            || segment.stored_bytes as usize <= TAG_BYTES
            || segment.raw_bytes as usize > SEGMENT_BYTES_MAX
            || segment.stored_bytes as usize > SEGMENT_BYTES_MAX + SEGMENT_BYTES_MAX / 64 + 1024
            || u64::from(segment.raw_bytes) != raw
            || chunks == 0
            || segment.chunk_ids.len() != chunks * CHUNK_ID_BYTES
            || segment
                .chunk_bytes
                .iter()
                .any(|bytes| *bytes == 0 || *bytes as usize > CHUNK_BYTES_MAX)
            || segment.compression() == Compression::Unspecified
        {
            return Err(corrupt("its table of contents contradicts itself"));
        }
        offset += u64::from(segment.stored_bytes);
    }
    if offset != segments_end {
        return Err(corrupt("its table of contents does not cover the pack"));
    }
    Ok(())
}
