//! Cutting contents into chunks, and keeping long lists of chunk ids short.

use std::sync::Arc;

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

use crate::{
    error::Result,
    id::ChunkId,
    limits::{
        CHUNK_BYTES_AVG, CHUNK_BYTES_CUT_MAX, CHUNK_BYTES_MIN, CHUNK_ID_BYTES, LIST_IDS_MAX,
        LIST_IDS_MIN,
    },
};

/// Bytes in the cutter's buffer: the longest chunk and room to read ahead.
const BUFFER_BYTES: usize = 1024 * 1024;
/// A list ends after an id whose first two bytes, little endian, have these bits zero.
const LIST_MASK: u16 = 0x03ff;

/// Content-defined cutting (FastCDC, 2020) with the vault's own gear table.
pub(super) struct Cutter {
    gear: Arc<[u64; 256]>,
    gear_shifted: Arc<[u64; 256]>,
    masks: (u64, u64),
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Cutter {
    /// A placeholder without a buffer, while the real one is in use.
    fn default() -> Self {
        let gear = Arc::new([0; 256]);
        Self {
            gear,
            gear_shifted: Arc::new([0; 256]),
            masks: (0, 0),
            buffer: Vec::new(),
            start: 0,
            end: 0,
        }
    }
}

impl Cutter {
    pub(super) fn new(gear: Arc<[u64; 256]>) -> Self {
        let gear_shifted = Arc::new(gear.map(|number| number << 1));
        let masks = select_masks(CHUNK_BYTES_AVG, Normalization::Level1);
        Self {
            gear,
            gear_shifted,
            masks,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// Forgets what was not cut.
    pub(super) fn reset(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// What was filled in and not cut yet.
    pub(super) fn pending(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Room to fill in; never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.reset();
        } else if self.buffer.len() - self.end < CHUNK_BYTES_CUT_MAX {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// Says how much of the room was filled in.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// Cuts off the chunks that no further bytes can change.
    pub(super) fn cut(&mut self, emit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while self.end - self.start >= CHUNK_BYTES_CUT_MAX {
            self.cut_one(emit)?;
        }
        Ok(())
    }

    /// Cuts off everything.
    pub(super) fn end(&mut self, emit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while self.end > self.start {
            self.cut_one(emit)?;
        }
        Ok(())
    }

    /// Takes in bytes and cuts off what can be.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        emit: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        while !bytes.is_empty() {
            let space = self.space();
            let taken = space.len().min(bytes.len());
            space[..taken].copy_from_slice(&bytes[..taken]);
            self.filled(taken);
            bytes = &bytes[taken..];
            self.cut(emit)?;
        }
        Ok(())
    }

    fn cut_one(&mut self, emit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let pending = &self.buffer[self.start..self.end];
        let (small, large) = self.masks;
        let (_, length) = cut_gear(
            pending,
            CHUNK_BYTES_MIN,
            CHUNK_BYTES_AVG,
            CHUNK_BYTES_CUT_MAX,
            small,
            large,
            small << 1,
            large << 1,
            &self.gear[..],
            &self.gear_shifted[..],
        );
        let length = length.clamp(1, pending.len());
        emit(&pending[..length])?;
        self.start += length;
        Ok(())
    }
}

/// Chunk ids in order. Where they are many, stretches of them become chunks of
/// their own, so that an entry stays small however large its file is. Stretches
/// end where the ids say so: a change in the middle of a file changes one.
#[derive(Default)]
pub(super) struct IdList {
    levels: Vec<Vec<u8>>,
}

impl IdList {
    pub(super) fn push(
        &mut self,
        id: &ChunkId,
        store: &mut dyn FnMut(&[u8]) -> Result<ChunkId>,
    ) -> Result<()> {
        self.push_at(0, *id, store)
    }

    fn push_at(
        &mut self,
        level: usize,
        id: ChunkId,
        store: &mut dyn FnMut(&[u8]) -> Result<ChunkId>,
    ) -> Result<()> {
        if level == self.levels.len() {
            self.levels.push(Vec::new());
        }
        let list = &mut self.levels[level];
        list.extend_from_slice(&id);
        let ids = list.len() / CHUNK_ID_BYTES;
        let ends_here = u16::from_le_bytes([id[0], id[1]]) & LIST_MASK == 0;
        if ids >= LIST_IDS_MAX || (ids >= LIST_IDS_MIN && ends_here) {
            let list = std::mem::take(list);
            let list_id = store(&list)?;
            self.push_at(level + 1, list_id, store)?;
        }
        Ok(())
    }

    /// The top list, and how many levels of lists lie below it.
    pub(super) fn finish(
        mut self,
        store: &mut dyn FnMut(&[u8]) -> Result<ChunkId>,
    ) -> Result<(Vec<u8>, u32)> {
        let mut level = 0;
        while level + 1 < self.levels.len() {
            let list = std::mem::take(&mut self.levels[level]);
            if !list.is_empty() {
                let list_id = store(&list)?;
                self.push_at(level + 1, list_id, store)?;
            }
            level += 1;
        }
        Ok((self.levels.pop().unwrap_or_default(), level as u32))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn id_of(bytes: &[u8]) -> ChunkId {
        blake3::hash(bytes).as_bytes()[..CHUNK_ID_BYTES]
            .try_into()
            .unwrap()
    }

    fn cut_all(data: &[u8], piece: usize) -> Vec<usize> {
        let mut gear = [0; 256];
        for (n, number) in gear.iter_mut().enumerate() {
            let hash = blake3::hash(&[n as u8]);
            *number = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap());
        }
        let mut cutter = Cutter::new(Arc::new(gear));
        let mut lengths = Vec::new();
        for part in data.chunks(piece) {
            cutter
                .feed(part, &mut |chunk| {
                    lengths.push(chunk.len());
                    Ok(())
                })
                .unwrap();
        }
        cutter
            .end(&mut |chunk| {
                lengths.push(chunk.len());
                Ok(())
            })
            .unwrap();
        lengths
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn cuts_do_not_depend_on_how_the_bytes_arrive() {
        let data = noise(3_000_000);
        let whole = cut_all(&data, data.len());
        assert_eq!(whole, cut_all(&data, 1000));
        assert_eq!(whole, cut_all(&data, 77_777));
        assert_eq!(whole.iter().sum::<usize>(), data.len());
        let body = &whole[..whole.len() - 1];
        assert!(
            body.iter()
                .all(|n| (CHUNK_BYTES_MIN..=CHUNK_BYTES_CUT_MAX).contains(n)),
            "{body:?}"
        );
        let average = data.len() / whole.len();
        assert!(
            (CHUNK_BYTES_AVG / 2..CHUNK_BYTES_AVG * 2).contains(&average),
            "{average}"
        );
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let data = noise(4_000_000);
        let mut changed = data.clone();
        changed.splice(2_000_000..2_000_000, *b"inserted");
        let (before, after) = (cut_all(&data, 1 << 20), cut_all(&changed, 1 << 20));
        let same = before
            .iter()
            .rev()
            .zip(after.iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        assert!(same > before.len() / 4, "{same} of {}", before.len());
    }

    #[test]
    fn long_lists_read_back_in_order() {
        for count in [0u32, 1, 500, 4096, 5000, 20_000, 5_000_000 / 256] {
            let mut stored: HashMap<ChunkId, Vec<u8>> = HashMap::new();
            let mut store = |bytes: &[u8]| {
                let id = id_of(bytes);
                stored.insert(id, bytes.to_vec());
                Ok(id)
            };
            let ids: Vec<ChunkId> = (0..count).map(|n| id_of(&n.to_le_bytes())).collect();
            let mut list = IdList::default();
            for id in &ids {
                list.push(id, &mut store).unwrap();
            }
            let (mut top, depth) = list.finish(&mut store).unwrap();
            for _ in 0..depth {
                top = top
                    .chunks_exact(CHUNK_ID_BYTES)
                    .flat_map(|id| stored[id].clone())
                    .collect();
            }
            assert_eq!(top, ids.concat(), "{count}");
        }
    }
}
