//! What becomes of each pack.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
};

use super::{CompactSpec, Compaction, Survey, mark::Marked};
use crate::{index::ChunkIndex, limits::PACK_BYTES};

/// A pack shorter than this is small…
const SMALL_PACK_BYTES: u64 = PACK_BYTES as u64 / 4;
/// …and this many small ones are not merged yet.
const SMALL_PACKS_MAX: usize = 8;

/// What becomes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is listed in the next index, as it is.
    Keep,
    /// It is listed nowhere and young: it may belong to a backup that runs.
    Leave,
    /// Its live chunks are copied, then it is retired.
    Copy,
    /// Nothing in it is live: it is retired.
    Retire,
    /// It is retired already and nothing in it is live.
    Wait,
    /// It is retired already and is needed: its live chunks are copied.
    Rescue,
}

/// How a pack is used.
#[derive(Debug, Clone, Default)]
pub(super) struct Use {
    pub pack_bytes: u64,
    pub raw_bytes: u64,
    pub live_bytes: u64,
    /// It is in an index's list of retired packs.
    pub retired: bool,
    /// It is in no index, and younger than the grace period.
    pub unlisted_and_young: bool,
    pub key_id: [u8; 16],
}

/// What becomes of the packs, in the order of the index's numbers.
pub(super) struct Plan {
    pub fates: Vec<Fate>,
    pub uses: Vec<Use>,
    pub ids: Vec<[u8; 32]>,
    /// Packs that can't be read, that nothing needs and that are old.
    pub garbage: Vec<[u8; 32]>,
    /// Retired packs that may hold what a damaged backup lacks.
    pub doubtful: HashSet<[u8; 32]>,
    /// When the young packs in no index stop being young.
    pub young_until_ms: Vec<i64>,
}

impl Plan {
    pub(super) fn make(survey: &Survey, marked: &Marked, spec: &CompactSpec) -> Self {
        let contents = &survey.contents;
        let chunks = contents
            .chunks
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let mut uses = count(&chunks, marked);
        let retired: HashSet<&[u8]> = contents.retired.iter().map(|r| &r.pack_id[..]).collect();
        let adopted: HashSet<&[u8]> = contents.adopted.iter().map(|p| &p.pack_id[..]).collect();
        let young_until = |id: &[u8; 32]| {
            let at_ms = survey.listed.get(id)?.1?;
            Compaction::is_young(spec.now_ms, spec.grace_ms, at_ms)
                .then(|| at_ms.saturating_add_unsigned(spec.grace_ms))
        };
        for (pack, used) in chunks.packs.iter().zip(&mut uses) {
            used.retired = retired.contains(&pack.id[..]);
            used.unlisted_and_young =
                adopted.contains(&pack.id[..]) && young_until(&pack.id).is_some();
        }
        let fates = decide(&uses);
        let ids: Vec<[u8; 32]> = chunks.packs.iter().map(|pack| pack.id).collect();
        let mut young_until_ms: Vec<i64> = ids
            .iter()
            .zip(&fates)
            .filter(|(_, fate)| **fate == Fate::Leave)
            .filter_map(|(id, _)| young_until(id))
            .collect();
        let mut garbage = Vec::new();
        for (id, _) in &contents.unreadable {
            match young_until(id) {
                Some(until) => young_until_ms.push(until),
                None if marked.missing > 0 => {}
                None => garbage.push(*id),
            }
        }
        let readable = marked.retired_readable.as_ref();
        let doubtful = retired
            .iter()
            .filter_map(|id| <[u8; 32]>::try_from(*id).ok())
            .filter(|id| marked.missing > 0 && readable.is_none_or(|r| !r.contains(id)))
            .collect();
        Self {
            fates,
            uses,
            ids,
            garbage,
            doubtful,
            young_until_ms,
        }
    }

    /// The numbers of the packs whose live chunks are copied.
    pub(super) fn to_copy(&self) -> impl Iterator<Item = usize> + '_ {
        let copied = |fate: &Fate| matches!(fate, Fate::Copy | Fate::Rescue);
        (0..self.fates.len()).filter(move |n| copied(&self.fates[*n]))
    }
}

/// How much of each pack is live.
fn count(chunks: &ChunkIndex, marked: &Marked) -> Vec<Use> {
    let mut uses: Vec<Use> = chunks
        .packs
        .iter()
        .map(|pack| Use {
            pack_bytes: pack.bytes,
            key_id: pack.key_id,
            ..Use::default()
        })
        .collect();
    for segment in &chunks.segments {
        if let Some(used) = uses.get_mut(segment.pack as usize) {
            used.raw_bytes += u64::from(segment.raw_bytes);
        }
    }
    for number in marked.live.iter() {
        let at = chunks.location(number);
        let pack = chunks.segments[at.segment as usize].pack;
        if let Some(used) = uses.get_mut(pack as usize) {
            used.live_bytes += u64::from(at.bytes);
        }
    }
    uses
}

fn decide(uses: &[Use]) -> Vec<Fate> {
    let mut fates: Vec<Fate> = uses
        .iter()
        .map(|used| match (used.retired, used.live_bytes) {
            (true, 0) => Fate::Wait,
            (true, _) => Fate::Rescue,
            (false, 0) if used.unlisted_and_young => Fate::Leave,
            (false, 0) => Fate::Retire,
            (false, live) if live * 2 < used.raw_bytes && !used.unlisted_and_young => Fate::Copy,
            _ => Fate::Keep,
        })
        .collect();
    // Backups that store little leave small packs: they must not grow without
    // bound in number. Packs under different data keys can't be merged.
    let mut small: HashMap<[u8; 16], Vec<usize>> = HashMap::new();
    for (number, used) in uses.iter().enumerate() {
        let small_enough = used.pack_bytes < SMALL_PACK_BYTES && !used.unlisted_and_young;
        if fates[number] == Fate::Keep && small_enough {
            small.entry(used.key_id).or_default().push(number);
        }
    }
    for numbers in small.into_values().filter(|n| n.len() > SMALL_PACKS_MAX) {
        for number in numbers {
            fates[number] = Fate::Copy;
        }
    }
    fates
}

#[cfg(test)]
mod tests {
    use super::{
        Fate::{Copy, Keep, Leave, Rescue, Retire, Wait},
        *,
    };

    fn used(pack_bytes: u64, live_bytes: u64) -> Use {
        Use {
            pack_bytes,
            raw_bytes: 100,
            live_bytes,
            ..Use::default()
        }
    }

    #[test]
    fn packs_are_kept_copied_or_retired_by_what_is_live_in_them() {
        let large = PACK_BYTES as u64;
        let retired = |live| Use {
            retired: true,
            ..used(large, live)
        };
        let young = |live| Use {
            unlisted_and_young: true,
            ..used(large, live)
        };
        let fates = decide(&[
            used(large, 100),
            used(large, 50),
            used(large, 49),
            used(large, 0),
            retired(0),
            retired(1),
            young(0),
            young(100),
        ]);
        assert_eq!(fates, [Keep, Keep, Copy, Retire, Wait, Rescue, Leave, Keep]);
    }

    #[test]
    fn small_packs_are_merged_when_they_are_many() {
        let eight = vec![used(1000, 100); 8];
        assert!(decide(&eight).iter().all(|fate| *fate == Fate::Keep));
        let mut many = vec![used(1000, 100); 9];
        many.push(used(PACK_BYTES as u64, 100));
        many.push(Use {
            key_id: [1; 16],
            ..used(1000, 100)
        });
        let fates = decide(&many);
        assert!(fates[..9].iter().all(|fate| *fate == Fate::Copy));
        assert_eq!(fates[9..], [Fate::Keep, Fate::Keep]);
    }
}
