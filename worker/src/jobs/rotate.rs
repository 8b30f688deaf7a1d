//! Rotate: brings every vault under the writing key. Only the small `keys/` objects are
//! rewritten, several vaults at the same time; what is done is noted, so that another
//! attempt goes on from there, and doing a vault twice changes nothing.
//!
//! The vaults are those that the destination lists: the catalog may not know of all.

use std::{sync::Arc, time::Duration};

use catalog::{KeyRotation, RotationStep, VaultProblem};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use tokio::time::Instant;
use vault::{RewrapPolicy, RewrapReport, Store, VaultError, erase, rewrap, survey};

use crate::{
    clock::now_ms,
    failure::JobError,
    runner::{context::JobContext, stop::StopCause},
};

/// Vaults that are worked on at the same time.
const AT_ONCE: usize = 16;
/// How often it is noted how far the job is.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Vaults that a message names.
const NAMED_MAX: usize = 10;

pub(super) async fn run(context: &Arc<JobContext>) -> Result<(), JobError> {
    let catalog = &context.worker.catalog;
    let rotation_id = &context.lease.job.job_id;
    let rotation = context
        .persist(|| catalog.get_key_rotation(rotation_id))
        .await?
        .ok_or_else(|| JobError::internal(&"a rotate job without a rotation", false))?;
    check_key(context, &rotation)?;
    let mut work = Rotation::new(context, &rotation);
    if rotation.retire_previous {
        check_descriptions_added(context).await?;
    } else {
        // First: what they describe is opened with them.
        seal_descriptions(context, false).await?;
    }
    let mut found = Vec::new();
    for (destination_id, store) in context.worker.destinations.all().await? {
        let vaults = vaults(&*store).await?;
        work.step.counts.vaults_total += vaults.len() as u64;
        if rotation.retire_previous {
            work.check_all_added(&destination_id, &store, &vaults)
                .await?;
        }
        found.push((destination_id, store, vaults));
    }
    for (destination_id, store, vaults) in found {
        work.destination(&destination_id, &store, vaults).await?;
    }
    context.check_held().await?;
    if rotation.retire_previous {
        seal_descriptions(context, true).await?;
    }
    fail::fail_point!("worker-rotate-before-complete");
    let fence = context.fence();
    context
        .persist(|| catalog.complete_rotation(&fence, &work.step, now_ms()))
        .await?;
    fail::fail_point!("worker-rotate-completed");
    Ok(())
}

/// The key that vaults are to be under must be the one that this worker writes with.
fn check_key(context: &JobContext, rotation: &KeyRotation) -> Result<(), JobError> {
    let writing = context.worker.keyring.writing().id();
    if writing == rotation.writing_key_id {
        return Ok(());
    }
    let message = format!(
        "worker {} writes with key {writing}, and the rotation is to key {}: set \
         NORA_BACKUP_ENCRYPTION_KEY of every worker to that key",
        context.worker.name, rotation.writing_key_id
    );
    Err(JobError::Failed {
        failure: crate::failure::failure("KEY_NOT_HELD", message),
        // Another worker may hold it.
        retryable: true,
    })
}

/// Before anything is removed: the writing key must open the descriptions of all destinations.
async fn check_descriptions_added(context: &JobContext) -> Result<(), JobError> {
    let without = context.worker.destinations.not_under_writing_key().await?;
    if without.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the descriptions of these destinations are not under key {}: {}; nothing was removed: \
         rotate without retiring the previous keys first",
        context.worker.keyring.writing().id(),
        without.join(", ")
    );
    Err(JobError::final_failure("KEYS_NOT_ROTATED", message))
}

/// Brings the descriptions of all destinations under the writing key.
async fn seal_descriptions(context: &JobContext, retire: bool) -> Result<(), JobError> {
    let resealed = context.worker.destinations.reseal(retire).await?;
    match resealed.failed.into_iter().next() {
        None => Ok(()),
        Some((_, why)) => Err(JobError::final_failure("KEY_NOT_CONFIGURED", why)),
    }
}

/// The agents that have a vault at a destination, in order.
async fn vaults(store: &dyn Store) -> Result<Vec<String>, JobError> {
    let mut vaults = store
        .list_folders("vaults/")
        .await
        .map_err(VaultError::from)?;
    vaults.sort();
    Ok(vaults)
}

/// One attempt of a rotation.
struct Rotation<'a> {
    context: &'a Arc<JobContext>,
    policy: RewrapPolicy,
    step: RotationStep,
    noted: Instant,
    /// When to make room for the other jobs of this worker, before the time limit.
    yield_at: Instant,
}

/// What became of one vault.
enum Done {
    Rewrapped(RewrapReport),
    /// Nothing that has keys.
    Empty,
    /// It can't be brought under the key.
    Failed(JobError),
}

impl<'a> Rotation<'a> {
    fn new(context: &'a Arc<JobContext>, rotation: &KeyRotation) -> Self {
        let mut step = RotationStep {
            cursor: rotation.cursor.clone(),
            counts: rotation.counts,
            problems: rotation.problems.clone(),
        };
        step.counts.vaults_total = 0;
        Self {
            context,
            policy: if rotation.retire_previous {
                RewrapPolicy::Retire
            } else {
                RewrapPolicy::Add
            },
            step,
            noted: Instant::now(),
            yield_at: Instant::now() + context.worker.settings.job_timeout / 4 * 3,
        }
    }

    /// Before anything is removed: every vault must have a wrap under the key.
    async fn check_all_added(
        &self,
        destination_id: &str,
        store: &Arc<dyn Store>,
        vaults: &[String],
    ) -> Result<(), JobError> {
        let key_id = self.context.worker.keyring.writing().id();
        let look = |agent_id: &String| look(self.context.clone(), store.clone(), agent_id.clone());
        let mut left = vaults.iter();
        let mut looking: FuturesOrdered<_> = left.by_ref().take(AT_ONCE).map(look).collect();
        let mut without: Vec<String> = Vec::new();
        while let Some((agent_id, found)) = looking.next().await {
            looking.extend(left.next().map(look));
            self.context.check_stop()?;
            match found {
                Ok(report) if report.keys.is_empty() || report.is_under(&key_id) => {}
                Err(VaultError::NoVault { .. } | VaultError::KeysGone { .. }) => {}
                Ok(_) | Err(VaultError::Corrupt { .. } | VaultError::Version { .. }) => {
                    without.push(agent_id);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if without.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{} vaults at destination {destination_id} are not under key {key_id}, among them those of {}: \
             nothing was removed; rotate without retiring the previous keys first",
            without.len(),
            without[..without.len().min(NAMED_MAX)].join(", ")
        );
        Err(JobError::final_failure("KEYS_NOT_ROTATED", message))
    }

    /// Brings the vaults of a destination under the key, those that are not done yet.
    async fn destination(
        &mut self,
        destination_id: &str,
        store: &Arc<dyn Store>,
        mut vaults: Vec<String>,
    ) -> Result<(), JobError> {
        let at = |agent_id: &str| format!("{destination_id}/{agent_id}");
        vaults.retain(|agent_id| at(agent_id) > self.step.cursor);
        let (context, policy) = (self.context.clone(), self.policy);
        let begin = |agent_id: String| {
            let (context, store) = (context.clone(), store.clone());
            one(context, destination_id.to_owned(), store, agent_id, policy)
        };
        let mut left = vaults.into_iter();
        let mut running: FuturesOrdered<_> = left.by_ref().take(AT_ONCE).map(begin).collect();
        while let Some((agent_id, done)) = running.next().await {
            running.extend(left.next().map(begin));
            self.count(destination_id, &agent_id, done?);
            self.step.cursor = at(&agent_id);
            self.tell();
            self.context.check_stop()?;
            if self.noted.elapsed() >= NOTE_EVERY {
                self.note().await?;
                if Instant::now() >= self.yield_at {
                    // It goes on in another attempt, which is not counted as a failed one.
                    self.context.stop.tell(StopCause::ShuttingDown);
                    return Err(JobError::Stopped);
                }
            }
        }
        self.note().await
    }

    fn count(&mut self, destination_id: &str, agent_id: &str, done: Done) {
        let counts = &mut self.step.counts;
        counts.vaults_done += 1;
        match done {
            Done::Rewrapped(report) => counts.vaults_changed += u64::from(report.rewritten() > 0),
            Done::Empty => {}
            Done::Failed(error) => {
                counts.vaults_failed += 1;
                if let JobError::Failed { failure, .. } = error {
                    tracing::warn!(
                        agent_id,
                        destination_id,
                        reason = failure.reason,
                        message = failure.message,
                        "vault not brought under the key"
                    );
                    if self.step.problems.len() < catalog::limits::PROBLEMS_MAX {
                        self.step.problems.push(VaultProblem {
                            destination_id: destination_id.to_owned(),
                            agent_id: agent_id.to_owned(),
                            failure: Some(failure),
                        });
                    }
                }
            }
        }
    }

    /// Shows watchers how far it is: its entries are vaults.
    fn tell(&self) {
        use std::sync::atomic::Ordering::Relaxed;
        let meter = &self.context.meter;
        meter.set_phase(vault::Phase::Transferring);
        meter
            .entries_total
            .store(self.step.counts.vaults_total, Relaxed);
        meter
            .entries_done
            .store(self.step.counts.vaults_done, Relaxed);
    }

    async fn note(&mut self) -> Result<(), JobError> {
        let (catalog, fence) = (&self.context.worker.catalog, self.context.fence());
        self.context
            .persist(|| catalog.note_rotation(&fence, &self.step))
            .await?;
        fail::fail_point!("worker-rotate-noted");
        self.noted = Instant::now();
        Ok(())
    }
}

/// Looks at one vault.
fn look(
    context: Arc<JobContext>,
    store: Arc<dyn Store>,
    agent_id: String,
) -> BoxFuture<'static, (String, vault::Result<RewrapReport>)> {
    async move {
        let found = survey(&*store, &agent_id, &context.worker.keyring).await;
        (agent_id, found)
    }
    .boxed()
}

/// Brings one vault under the key.
fn one(
    context: Arc<JobContext>,
    destination_id: String,
    store: Arc<dyn Store>,
    agent_id: String,
    policy: RewrapPolicy,
) -> BoxFuture<'static, (String, Result<Done, JobError>)> {
    async move {
        let done = under_key(&context, &destination_id, &*store, &agent_id, policy).await;
        (agent_id, done)
    }
    .boxed()
}

/// The same, begun. An error is one that waiting may mend.
async fn under_key(
    context: &JobContext,
    destination_id: &str,
    store: &dyn Store,
    agent_id: &str,
    policy: RewrapPolicy,
) -> Result<Done, JobError> {
    context.check_stop()?;
    let (catalog, keyring) = (&context.worker.catalog, &context.worker.keyring);
    let report = match rewrap(store, agent_id, keyring, policy, context.stop.token()).await {
        Ok(report) => report,
        // An agent's that is being erased, or was: there is no key to rotate.
        Err(VaultError::NoVault { .. } | VaultError::KeysGone { .. }) => return Ok(Done::Empty),
        Err(
            error @ (VaultError::KeyNotConfigured { .. }
            | VaultError::Corrupt { .. }
            | VaultError::Version { .. }),
        ) => return Ok(Done::Failed(error.into())),
        Err(error) => return Err(error.into()),
    };
    fail::fail_point!("worker-rotate-vault");
    // What was destroyed while it was rewritten must not come back.
    let data_key_ids = report.data_key_ids();
    let erased = context
        .persist(|| catalog.erased_among(&data_key_ids))
        .await?;
    if !erased.is_empty() {
        erase::destroy_keys_named(store, agent_id, &erased).await?;
        return Ok(Done::Empty);
    }
    let key_ids = report.wrapped_under();
    context
        .persist(|| catalog.note_vault_keys(destination_id, agent_id, &key_ids, now_ms()))
        .await?;
    Ok(Done::Rewrapped(report))
}
