//! What no backup needs any more goes: dead packs are retired and, after a
//! grace period, removed; packs less than half live are copied into new ones.
//!
//! In reading order:
//!
//! - `mark`: which chunks the stored backups need
//! - `plan`: what becomes of each pack
//! - `copy`: what is live in the packs that go, into new packs
//! - `retire`: one new index; then what it replaces, and what waited long enough, goes
//!
//! # Why a live chunk is always found
//!
//! The caller holds the vault's lease, but a lease is a belief: whoever held it
//! before may have been paused and wake up at any moment, in the middle of a
//! backup or of a compaction. So nothing here relies on being alone:
//!
//! 1. *Retired is final.* A pack that an index retires *must never* be listed as
//!    present again. If a backup turns out to need it, its chunks are copied.
//! 2. A pack is removed only when an index that was stored at least the grace
//!    period ago retires it, and when every chunk that any stored manifest needs
//!    lies in a pack that is not retired. Both are looked at anew each time.
//! 3. Backups do not build upon retired packs, so after 1 nothing new can come to
//!    need a pack that 2 removes, however late the removal comes. The exception
//!    is a backup that read the indexes before the pack was retired: it is older
//!    than the grace period, which *must* be longer than a job may take.
//! 4. What a compaction without a lease retires wrongly is still there for the
//!    grace period: readers look into retired packs when they must, and the next
//!    compaction copies what is needed out of them.
//! 5. Packs in no index that are younger than the grace period may belong to a
//!    backup that runs: they are left alone.
//!
//! Write order: new packs, new index, removal of the indexes that it replaces,
//! removal of packs. After a crash between any two of them every chunk is found,
//! some twice, and the next compaction ends the work.
//!
//! With a grace period of zero, 3 to 5 do not hold: it is for vaults that nobody
//! else can be using.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError},
    time::Instant,
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{mark::Marked, plan::Plan};
use crate::{
    error::{Result, VaultError},
    manifest::ManifestRef,
    meter::{Meter, Phase},
    read::blocking,
    store::Listed,
    vault::{Contents, Vault},
};

mod copy;
mod mark;
mod plan;
mod retire;

/// What unfinished writes are at least old before they are swept: those of the
/// destination's other vaults may be in the middle of one.
const SWEEP_AGE_MS_MIN: u64 = 15 * 60 * 1000;

/// What a compaction may do.
#[derive(Debug, Clone)]
pub struct CompactSpec {
    /// Manifests that are known to be garbage: of failed, canceled or deleted
    /// backups, and of attempts that lost. They are removed first. All others
    /// that are stored count as live, known to the caller or not.
    pub garbage: HashSet<ManifestRef>,
    /// Manifests that are known to be stored, with their digests. When the
    /// destination lacks one, or serves another, it serves an old state: then
    /// nothing is retired or removed that a backup may need.
    pub expected: Vec<ManifestRef>,
    /// How long a retired pack waits for its removal, milliseconds. Longer than
    /// any job may take.
    pub grace_ms: u64,
    /// Whether retired packs may be removed now (nobody reads the vault).
    pub may_remove: bool,
    /// The time now, milliseconds since 1970.
    pub now_ms: i64,
}

/// What a compaction did.
#[derive(Debug, Clone, Default)]
pub struct CompactReport {
    /// Manifests removed.
    pub removed_manifests: u64,
    /// Packs rewritten because less than half of them was live, because many
    /// were small, or because they were retired and are needed.
    pub rewritten_packs: u64,
    /// Packs retired.
    pub retired_packs: u64,
    /// Packs removed.
    pub removed_packs: u64,
    /// Bytes of manifests and packs removed at the destination.
    pub removed_bytes: u64,
    /// Packs that wait for their grace period to pass.
    pub waiting_packs: u64,
    /// When the next of them may go, milliseconds since 1970; in the past when
    /// only `may_remove` kept it.
    pub next_removal_ms: Option<i64>,
    /// Bytes the vault takes at the destination afterwards.
    pub vault_bytes: u64,
}

/// One compaction under way.
struct Compaction {
    vault: Vault,
    spec: CompactSpec,
    begun: Instant,
    cancel: CancellationToken,
    meter: Arc<Meter>,
    report: CompactReport,
}

/// The vault as it is found.
struct Survey {
    /// Every manifest that counts as live.
    manifests: Vec<ManifestRef>,
    /// The packs that are stored: their lengths, and since when, where the
    /// destination tells.
    listed: HashMap<[u8; 32], (u64, Option<i64>)>,
    contents: Contents,
}

impl Vault {
    /// Removes what no backup needs any more. The caller must be the vault's
    /// only writer, as far as it knows. Interrupted at any point, a later call
    /// goes on. An unreadable manifest or entry stream is an error that names it,
    /// and nothing is retired or removed: what it needs can't be told.
    pub async fn compact(
        &self,
        spec: CompactSpec,
        cancel: CancellationToken,
        meter: Arc<Meter>,
    ) -> Result<CompactReport> {
        // Threads that work for this call end when it is dropped.
        let cancel = cancel.child_token();
        let _ended = cancel.clone().drop_guard();
        let compaction = Compaction {
            vault: self.clone(),
            spec,
            begun: Instant::now(),
            cancel,
            meter,
            report: CompactReport::default(),
        };
        compaction.run().await
    }
}

impl Compaction {
    async fn run(mut self) -> Result<CompactReport> {
        self.meter.set_phase(Phase::Preparing);
        let manifests = self.remove_garbage().await?;
        self.check_cancel()?;
        let mut survey = self.survey(manifests).await?;
        let marked = self.mark(&mut survey).await?;
        let plan = Plan::make(&survey, &marked, &self.spec);
        self.check_cancel()?;

        self.meter.set_phase(Phase::Transferring);
        let copied = self.copy(&survey, &plan, marked).await?;
        self.check_cancel()?;

        self.meter.set_phase(Phase::Committing);
        let retired = self.retire(&survey, &plan, &copied).await?;
        self.check_cancel()?;
        self.remove_packs(&survey, &plan, retired).await?;
        let age_ms = self.spec.grace_ms.max(SWEEP_AGE_MS_MIN);
        self.vault.store.sweep(age_ms).await?;
        self.report.vault_bytes = self.vault.stored_bytes().await?;
        let report = &self.report;
        info!(agent_id = %self.vault.agent_id, ?report, "vault compacted");
        Ok(self.report)
    }

    fn check_cancel(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(VaultError::Canceled);
        }
        Ok(())
    }

    /// The caller's time, going on.
    fn now_ms(&self) -> i64 {
        let elapsed = self.begun.elapsed().as_millis() as i64;
        self.spec.now_ms.saturating_add(elapsed)
    }

    /// Whether something of this time is younger than the grace period.
    fn is_young(now_ms: i64, grace_ms: u64, time_ms: i64) -> bool {
        now_ms.saturating_sub(time_ms) < i64::try_from(grace_ms).unwrap_or(i64::MAX)
    }

    /// Removes the manifests that the caller knows to be garbage; returns the
    /// others, with the digests that are known.
    async fn remove_garbage(&mut self) -> Result<Vec<ManifestRef>> {
        let prefix = format!("{}backups/", self.vault.root);
        let listed = self.vault.store.list(&prefix).await?;
        let stored = |object: &Listed| ManifestRef::from_name(object.name.strip_prefix(&prefix)?);
        let digests = self.check_expected(listed.iter().filter_map(stored))?;
        // The digest of a manifest that a listing shows is not known.
        let garbage: HashSet<String> = self.spec.garbage.iter().map(ManifestRef::name).collect();
        let mut live = Vec::new();
        for object in listed {
            let Some(mut at) = stored(&object) else {
                continue;
            };
            if !garbage.contains(&at.name()) {
                at.digest = digests.get(&at.name()).copied();
                live.push(at);
                continue;
            }
            self.check_cancel()?;
            self.vault.store.delete(&object.name).await?;
            fail::fail_point!("compact-manifest-removed");
            self.report.removed_manifests += 1;
            self.report.removed_bytes += object.bytes;
        }
        Ok(live)
    }

    /// Every manifest that must be there is; returns their digests by name.
    fn check_expected(
        &self,
        stored: impl Iterator<Item = ManifestRef>,
    ) -> Result<HashMap<String, [u8; 32]>> {
        let stored: HashSet<String> = stored.map(|at| at.name()).collect();
        let expected = &self.spec.expected;
        let lacking: Vec<String> = expected
            .iter()
            .map(ManifestRef::name)
            .filter(|name| !stored.contains(name))
            .collect();
        let Some(first) = lacking.first() else {
            let known = expected
                .iter()
                .filter_map(|at| Some((at.name(), at.digest?)));
            return Ok(known.collect());
        };
        Err(VaultError::RolledBack {
            agent_id: self.vault.agent_id.clone(),
            lacking: match lacking.len() {
                1 => format!("{first} is not there; nothing was removed"),
                n => format!(
                    "{first} and {} more are not there; nothing was removed",
                    n - 1
                ),
            },
        })
    }

    /// Manifests are listed before contents are loaded: what a manifest needs is
    /// stored before it is.
    async fn survey(&self, manifests: Vec<ManifestRef>) -> Result<Survey> {
        let contents = self.vault.load_contents().await?;
        let prefix = format!("{}packs/", self.vault.root);
        let mut listed = HashMap::new();
        for object in self.vault.store.list(&prefix).await? {
            let mut id = [0; 32];
            let name = object.name.strip_prefix(&prefix).unwrap_or_default();
            if hex::decode_to_slice(name, &mut id).is_ok() {
                listed.insert(id, (object.bytes, object.modify_time_ms));
            }
        }
        let newer = contents
            .unreadable_indexes
            .iter()
            .find(|(_, error)| matches!(error, VaultError::Version { .. }));
        if let Some((_, error)) = newer {
            // A newer version of this program knows better what may go.
            return Err(error.again());
        }
        Ok(Survey {
            manifests,
            listed,
            contents,
        })
    }

    /// Marks what is live. Chunks that are only in retired packs, by the work of
    /// a compaction that had lost its lease, are found there.
    async fn mark(&self, survey: &mut Survey) -> Result<Marked> {
        let marked = self.mark_once(survey).await;
        let lacking = match &marked {
            Ok(marked) => marked.missing > 0,
            Err(VaultError::Corrupt { .. } | VaultError::Missing { .. }) => true,
            Err(_) => false,
        };
        if !lacking || survey.contents.retired.is_empty() {
            return marked;
        }
        let packs = self.vault.read_retired(&survey.contents.retired).await?;
        let readable: HashSet<[u8; 32]> = packs.iter().map(|(pack, _)| pack.id).collect();
        {
            let chunks = &survey.contents.chunks;
            let mut chunks = chunks.write().unwrap_or_else(PoisonError::into_inner);
            for (pack, toc) in &packs {
                chunks.add_pack(*pack, toc);
            }
        }
        warn!(agent_id = %self.vault.agent_id, "stored backups need chunks that no present pack holds; looking into retired packs");
        let mut marked = self.mark_once(survey).await?;
        marked.retired_readable = Some(readable);
        Ok(marked)
    }

    async fn mark_once(&self, survey: &Survey) -> Result<Marked> {
        let (vault, manifests) = (self.vault.clone(), survey.manifests.clone());
        let chunks = survey.contents.chunks.clone();
        let (cancel, meter) = (self.cancel.clone(), self.meter.clone());
        blocking(move || mark::mark(&vault, &manifests, &chunks, &cancel, &meter)).await
    }
}
