//! One new index; then what it replaces, and what waited long enough, goes.

use std::collections::HashSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use proto::vault::v1::{IndexedPack, RetiredPack};
use tracing::warn;

use super::{
    Compaction, Survey,
    copy::Copied,
    plan::{Fate, Plan},
};
use crate::{
    error::{Result, VaultError},
    manifest::ManifestRef,
    pack::pack_name,
    vault::index_name,
};

/// Index objects beyond those that the number of chunks needs, before they are
/// put together.
const SPARE_INDEXES_MAX: usize = 8;
/// Objects removed at once.
const REMOVALS_MAX: usize = 8;

/// What the new index retires, or would.
#[derive(Debug, Default)]
pub(super) struct Retired {
    /// Retired before this compaction.
    before: Vec<RetiredPack>,
    /// Retired by it.
    now: Vec<RetiredPack>,
    /// Not to be removed by this compaction, whatever their age.
    held: HashSet<[u8; 32]>,
    /// Index objects that belong to this compaction.
    index_ids: HashSet<[u8; 32]>,
}

/// Packs on their way into index objects.
#[derive(Default)]
struct Pending {
    packs: Vec<IndexedPack>,
    chunks: usize,
    index_ids: Vec<[u8; 32]>,
}

fn chunks_of(pack: &IndexedPack) -> usize {
    let toc = pack.table_of_contents.as_ref();
    toc.map_or(0, |t| t.segments.iter().map(|s| s.chunk_bytes.len()).sum())
}

fn pack_id(id: &[u8]) -> Option<[u8; 32]> {
    id.try_into().ok()
}

/// Whether a new index would say something new, or save many small ones.
fn is_due(
    survey: &Survey,
    kept: &HashSet<[u8; 32]>,
    retired: &Retired,
    copied: &Copied,
    index_chunks_max: usize,
) -> bool {
    let contents = &survey.contents;
    let adopts = |pack: &IndexedPack| pack_id(&pack.pack_id).is_some_and(|i| kept.contains(&i));
    let chunks = contents
        .chunks
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .len();
    let indexes_max = 2 * chunks / index_chunks_max.max(1) + SPARE_INDEXES_MAX;
    !retired.now.is_empty()
        || !copied.repacked.packs.is_empty()
        || !contents.unreadable_indexes.is_empty()
        || contents.adopted.iter().any(adopts)
        || contents.index_ids.len() > indexes_max
}

impl Compaction {
    /// Stores the new index where it says something new, and removes what it replaces.
    pub(super) async fn retire(
        &mut self,
        survey: &Survey,
        plan: &Plan,
        copied: &Copied,
    ) -> Result<Retired> {
        let contents = &survey.contents;
        let now_ms = self.now_ms();
        let mut retired = Retired {
            before: contents.retired.clone(),
            held: plan.doubtful.clone(),
            ..Retired::default()
        };
        let mut kept: HashSet<[u8; 32]> = HashSet::new();
        let mut retire = |id: &[u8; 32], pack_bytes| {
            retired.now.push(RetiredPack {
                pack_id: id.to_vec(),
                retire_time_ms: now_ms,
                pack_bytes,
            });
        };
        for (number, (id, fate)) in plan.ids.iter().zip(&plan.fates).enumerate() {
            let damaged = copied.damaged.contains(&number);
            match fate {
                Fate::Keep => {
                    kept.insert(*id);
                }
                Fate::Copy if damaged => {
                    kept.insert(*id);
                }
                Fate::Copy | Fate::Retire => retire(id, plan.uses[number].pack_bytes),
                Fate::Rescue if damaged || self.spec.grace_ms > 0 => {
                    retired.held.insert(*id);
                }
                Fate::Rescue | Fate::Leave | Fate::Wait => {}
            }
        }
        for id in &plan.garbage {
            retire(id, survey.listed.get(id).map_or(0, |(bytes, _)| *bytes));
        }
        retired.index_ids = [&contents.index_ids, &contents.superseded_ids]
            .into_iter()
            .flatten()
            .chain(contents.unreadable_indexes.iter().map(|(id, _)| id))
            .chain(&copied.repacked.index_ids)
            .copied()
            .collect();
        fail::fail_point!("compact-packs-copied");

        let mut replaced = contents.superseded_ids.clone();
        let index_chunks_max = self.vault.settings.index_chunks_max;
        if is_due(survey, &kept, &retired, copied, index_chunks_max) {
            if !retired.now.is_empty()
                && let Some(object) = self.appeared(survey, &retired.index_ids).await?
            {
                return Err(VaultError::Changed { object });
            }
            replaced.extend(&contents.index_ids);
            replaced.extend(contents.unreadable_indexes.iter().map(|(id, _)| *id));
            let written = self
                .write_index(survey, &kept, &retired, copied, &replaced)
                .await?;
            retired.index_ids.extend(written);
            fail::fail_point!("compact-index-stored");
        }
        for id in replaced {
            self.check_cancel()?;
            let name = format!("{}{}", self.vault.root, index_name(&id));
            self.vault.store.delete(&name).await?;
            fail::fail_point!("compact-index-removed");
        }
        self.report.retired_packs = retired.now.len() as u64;
        Ok(retired)
    }

    /// Stores the index: all packs that stay and all new ones, what is retired,
    /// and what it replaces. Where it needs several objects, the last one alone
    /// replaces and retires: without it, the others say nothing new.
    async fn write_index(
        &self,
        survey: &Survey,
        kept: &HashSet<[u8; 32]>,
        retired: &Retired,
        copied: &Copied,
        replaced: &[[u8; 32]],
    ) -> Result<Vec<[u8; 32]>> {
        let contents = &survey.contents;
        let mut pending = Pending::default();
        let mut listed: HashSet<[u8; 32]> = HashSet::new();
        let stays = |pack: &IndexedPack, listed: &mut HashSet<[u8; 32]>| {
            let id = pack_id(&pack.pack_id);
            id.is_some_and(|id| kept.contains(&id) && listed.insert(id))
        };
        // One old index at a time: tables of contents are large.
        for id in &contents.index_ids {
            self.check_cancel()?;
            let index = match self.vault.read_index(id).await {
                Err(VaultError::Missing { object }) => return Err(VaultError::Changed { object }),
                read => read?,
            };
            for pack in index.packs {
                let is_stored = pack_id(&pack.pack_id)
                    .and_then(|id| survey.listed.get(&id))
                    .is_some_and(|(bytes, _)| *bytes == pack.pack_bytes);
                if is_stored && stays(&pack, &mut listed) {
                    self.list_pack(&mut pending, pack).await?;
                }
            }
        }
        for pack in &contents.adopted {
            if stays(pack, &mut listed) {
                self.list_pack(&mut pending, pack.clone()).await?;
            }
        }
        if let Some(id) = kept.iter().find(|id| !listed.contains(*id)) {
            return Err(VaultError::Changed {
                object: pack_name(id),
            });
        }
        for pack in &copied.repacked.packs {
            self.list_pack(&mut pending, pack.clone()).await?;
        }
        let retired = retired.before.iter().chain(&retired.now).cloned().collect();
        let (ids, _) = self
            .vault
            .write_indexes(pending.packs, retired, replaced.to_vec())
            .await?;
        pending.index_ids.extend(ids);
        Ok(pending.index_ids)
    }

    async fn list_pack(&self, pending: &mut Pending, pack: IndexedPack) -> Result<()> {
        let chunks = chunks_of(&pack);
        if pending.chunks > 0 && pending.chunks + chunks > self.vault.settings.index_chunks_max {
            let full = std::mem::take(&mut pending.packs);
            let (ids, _) = self
                .vault
                .write_indexes(full, Vec::new(), Vec::new())
                .await?;
            pending.index_ids.extend(ids);
            pending.chunks = 0;
            fail::fail_point!("compact-index-part-stored");
        }
        pending.chunks += chunks;
        pending.packs.push(pack);
        Ok(())
    }

    /// A manifest or an index that was not there when this compaction looked, and
    /// that it did not write: another worker is at work.
    async fn appeared(
        &self,
        survey: &Survey,
        index_ids: &HashSet<[u8; 32]>,
    ) -> Result<Option<String>> {
        let known: HashSet<String> = survey.manifests.iter().map(ManifestRef::name).collect();
        for at in self.vault.manifests().await? {
            if !known.contains(&at.name()) {
                return Ok(Some(at.name()));
            }
        }
        for (id, _) in self.vault.list_ids("indexes/").await? {
            if !index_ids.contains(&id) {
                return Ok(Some(index_name(&id)));
            }
        }
        Ok(None)
    }

    /// Removes the packs that waited long enough.
    pub(super) async fn remove_packs(
        &mut self,
        survey: &Survey,
        plan: &Plan,
        retired: Retired,
    ) -> Result<()> {
        let (now_ms, grace_ms) = (self.now_ms(), self.spec.grace_ms);
        let is_due = |pack: &RetiredPack| {
            let held = pack_id(&pack.pack_id).is_none_or(|id| retired.held.contains(&id));
            !held && !Self::is_young(now_ms, grace_ms, pack.retire_time_ms)
        };
        // With a grace period, what this compaction retired waits for a later
        // look, whatever the clock says.
        let (mut due, mut waiting): (Vec<_>, Vec<_>) =
            retired.before.iter().cloned().partition(is_due);
        if grace_ms == 0 {
            // A retired pack that was just copied from is free already.
            due.extend(retired.now.iter().cloned());
        } else {
            waiting.extend(retired.now.iter().cloned());
        }
        if !self.spec.may_remove {
            waiting.append(&mut due);
        } else if !due.is_empty()
            && let Some(object) = self.appeared(survey, &retired.index_ids).await?
        {
            warn!(agent_id = %self.vault.agent_id, object, "another worker is at work in the vault; no pack is removed");
            waiting.append(&mut due);
        }
        let (vault, cancel) = (&self.vault, &self.cancel);
        let remove = |pack: RetiredPack| async move {
            if cancel.is_cancelled() {
                return Err(VaultError::Canceled);
            }
            let id = pack_id(&pack.pack_id).unwrap_or_default();
            let name = format!("{}{}", vault.root, pack_name(&id));
            vault.store.delete(&name).await?;
            fail::fail_point!("compact-pack-removed");
            Ok(pack.pack_bytes)
        };
        let removed: Vec<u64> = stream::iter(due)
            .map(remove)
            .buffer_unordered(REMOVALS_MAX)
            .try_collect()
            .await?;
        self.report.removed_packs = removed.len() as u64;
        self.report.removed_bytes += removed.iter().sum::<u64>();
        let until = |pack: &RetiredPack| pack.retire_time_ms.saturating_add_unsigned(grace_ms);
        self.report.waiting_packs = (waiting.len() + plan.young_until_ms.len()) as u64;
        self.report.next_removal_ms = waiting
            .iter()
            .map(until)
            .chain(plan.young_until_ms.iter().copied())
            .min();
        Ok(())
    }
}
