//! Rotate: brings every vault under the writing key. Only the small `keys/` objects are
//! rewritten, several vaults at the same time; what is done is noted, so that another
//! attempt goes on from there, and doing a vault twice changes nothing.
//!
//! The vaults are those that a destination lists: the catalog may not know of all. Each
//! destination is a part by itself: one that does not answer is tried in a few attempts and
//! then named, and holds up no other. Only what takes wraps away needs all of them at first.

use std::{sync::Arc, time::Duration};

use catalog::{CatalogError, DestinationRotation, KeyRotation, RotationStep, VaultProblem};
use destinations::DestinationsError;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use proto::backup::v1::Failure;
use tokio::time::Instant;
use vault::{RewrapPolicy, Store, VaultError};

use self::one_vault::{Done, bring, look};
use crate::{
    clock::now_ms,
    failure::JobError,
    runner::{context::JobContext, stop::StopCause},
};

mod one_vault;

/// Vaults that are worked on at the same time; destinations that are looked at.
const AT_ONCE: usize = 16;
/// Attempts in which a destination that does not answer is tried.
const TRIES_MAX: u32 = 3;
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
        // First: what they describe is opened with them. One that no key opens is named when
        // its destination is looked at.
        context.worker.destinations.reseal(false).await?;
    }
    let places = work.look_around().await?;
    if rotation.retire_previous {
        work.check_all_added(&places).await?;
    }
    for place in places {
        work.destination(place).await?;
    }
    context.check_held().await?;
    work.check_tried()?;
    if rotation.retire_previous {
        retire_descriptions(context).await?;
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

/// Leaves the descriptions of all destinations under the writing key alone.
async fn retire_descriptions(context: &JobContext) -> Result<(), JobError> {
    let resealed = context.worker.destinations.reseal(true).await?;
    match resealed.failed.into_iter().next() {
        None => Ok(()),
        Some((_, why)) => Err(JobError::final_failure("KEY_NOT_CONFIGURED", why)),
    }
}

/// A destination that answers.
struct Place {
    /// Its number in [`RotationStep::destinations`].
    number: usize,
    store: Arc<dyn Store>,
    /// The agents that have a vault there, in order.
    vaults: Vec<String>,
}

/// One attempt of a rotation.
struct Rotation<'a> {
    context: &'a Arc<JobContext>,
    policy: RewrapPolicy,
    step: RotationStep,
    /// Why a destination was left in this attempt, where another may find it well.
    again: Option<Failure>,
    noted: Instant,
    /// When to make room for the other jobs of this worker, before the time limit.
    yield_at: Instant,
}

impl<'a> Rotation<'a> {
    fn new(context: &'a Arc<JobContext>, rotation: &KeyRotation) -> Self {
        Self {
            context,
            policy: if rotation.retire_previous {
                RewrapPolicy::Retire
            } else {
                RewrapPolicy::Add
            },
            step: RotationStep {
                destinations: rotation.destinations.clone(),
                problems: rotation.problems.clone(),
            },
            again: None,
            noted: Instant::now(),
            yield_at: Instant::now() + context.worker.settings.job_timeout / 4 * 3,
        }
    }

    /// The destinations that are not done and answer; the others' failures are noted.
    async fn look_around(&mut self) -> Result<Vec<Place>, JobError> {
        let ids = self.context.worker.destinations.ids().await?;
        let known = &mut self.step.destinations;
        known.retain(|at| at.is_done || ids.contains(&at.destination_id));
        for destination_id in ids {
            if !known.iter().any(|at| at.destination_id == destination_id) {
                known.push(DestinationRotation {
                    destination_id,
                    ..DestinationRotation::default()
                });
            }
        }
        let open = known.iter().enumerate().filter(|(_, at)| !at.is_done);
        let looks: Vec<_> = open
            .map(|(number, at)| look_at(self.context.clone(), number, at.destination_id.clone()))
            .collect();
        let looked: Vec<_> = stream::iter(looks).buffered(AT_ONCE).collect().await;
        let mut places = Vec::new();
        for found in looked {
            let (number, found) = found?;
            let at = &mut self.step.destinations[number];
            match found {
                Found::Vaults(store, vaults) => {
                    let left = vaults.iter().filter(|agent_id| **agent_id > at.cursor);
                    at.counts.vaults_total = at.counts.vaults_done + left.count() as u64;
                    at.failure = None;
                    places.push(Place {
                        number,
                        store,
                        vaults,
                    });
                }
                Found::Forgotten => {
                    at.is_done = true;
                    at.failure = None;
                }
                Found::Unreached(error) => self.leave(number, error)?,
            }
        }
        self.tell();
        self.note().await?;
        Ok(places)
    }

    /// Notes why a destination's vaults are not seen to.
    fn leave(&mut self, number: usize, error: JobError) -> Result<(), JobError> {
        let JobError::Failed { failure, retryable } = error else {
            return Err(error);
        };
        let at = &mut self.step.destinations[number];
        tracing::warn!(
            destination_id = at.destination_id,
            reason = failure.reason,
            message = failure.message,
            "destination left out of the rotation"
        );
        if retryable {
            self.again = Some(Failure {
                reason: failure.reason.clone(),
                message: format!("destination {}: {}", at.destination_id, failure.message),
            });
        }
        at.failure = Some(failure);
        Ok(())
    }

    /// Whether every destination is done, or was tried often enough.
    fn check_tried(&mut self) -> Result<(), JobError> {
        match self.again.take() {
            Some(failure) if self.has_tries() => Err(JobError::Failed {
                failure,
                retryable: true,
            }),
            _ => Ok(()),
        }
    }

    fn has_tries(&self) -> bool {
        self.context.lease.job.tries < TRIES_MAX
    }

    /// The same error, final once it was tried often enough.
    fn tried(&self, error: JobError) -> JobError {
        match error {
            JobError::Failed { failure, retryable } => JobError::Failed {
                failure,
                retryable: retryable && self.has_tries(),
            },
            error => error,
        }
    }

    /// Before anything is removed: every destination must answer, and every vault must have a
    /// wrap under the key.
    async fn check_all_added(&mut self, places: &[Place]) -> Result<(), JobError> {
        self.check_tried()?;
        let left = self.step.destinations.iter().find_map(|at| {
            let failure = at.failure.as_ref()?;
            Some((&at.destination_id, failure))
        });
        if let Some((destination_id, failure)) = left {
            let message = format!(
                "destination {destination_id}: {}; {}: before that every destination must answer",
                failure.message,
                self.removed()
            );
            return Err(JobError::final_failure(&failure.reason, message));
        }
        for place in places {
            self.check_added(place).await?;
        }
        Ok(())
    }

    async fn check_added(&self, place: &Place) -> Result<(), JobError> {
        let key_id = self.context.worker.keyring.writing().id();
        let look =
            |agent_id: &String| look(self.context.clone(), place.store.clone(), agent_id.clone());
        let mut looking = stream::iter(place.vaults.iter().map(look)).buffered(AT_ONCE);
        let mut without: Vec<String> = Vec::new();
        while let Some((agent_id, found)) = looking.next().await {
            self.context.check_stop()?;
            match found {
                Ok(report) if report.keys.is_empty() || report.is_under(&key_id) => {}
                Err(VaultError::NoVault { .. } | VaultError::KeysGone { .. }) => {}
                Ok(_) | Err(VaultError::Corrupt { .. } | VaultError::Version { .. }) => {
                    without.push(agent_id);
                }
                Err(error) => return Err(self.tried(error.into())),
            }
        }
        if without.is_empty() {
            return Ok(());
        }
        let destination_id = &self.step.destinations[place.number].destination_id;
        let message = format!(
            "{} vaults at destination {destination_id} are not under key {key_id}, among them those of {}: \
             {}; rotate without retiring the previous keys first",
            without.len(),
            without[..without.len().min(NAMED_MAX)].join(", "),
            self.removed()
        );
        Err(JobError::final_failure("KEYS_NOT_ROTATED", message))
    }

    /// What was removed when a rotation that retires keys ends before it goes on to.
    fn removed(&self) -> &'static str {
        if self.step.counts().vaults_done == 0 {
            "nothing was removed"
        } else {
            "nothing more was removed"
        }
    }

    /// Brings the vaults of a destination under the key, those that are not done yet.
    async fn destination(&mut self, place: Place) -> Result<(), JobError> {
        let number = place.number;
        let at = &self.step.destinations[number];
        let (destination_id, cursor) = (at.destination_id.clone(), at.cursor.clone());
        let (context, policy) = (self.context.clone(), self.policy);
        let begin = |agent_id: String| {
            let (context, store) = (context.clone(), place.store.clone());
            bring(context, destination_id.clone(), store, agent_id, policy)
        };
        let left = place.vaults.into_iter().filter(|id| *id > cursor);
        let mut running = stream::iter(left.map(begin)).buffered(AT_ONCE);
        while let Some((agent_id, done)) = running.next().await {
            match done? {
                Done::Unreached(error) => {
                    self.leave(number, error)?;
                    return self.note().await;
                }
                done => self.count(number, &agent_id, done),
            }
            self.step.destinations[number].cursor = agent_id;
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
        self.step.destinations[number].is_done = true;
        self.note().await
    }

    fn count(&mut self, number: usize, agent_id: &str, done: Done) {
        let at = &mut self.step.destinations[number];
        let (destination_id, counts) = (&at.destination_id, &mut at.counts);
        counts.vaults_done += 1;
        match done {
            Done::Rewrapped(report) => counts.vaults_changed += u64::from(report.rewritten() > 0),
            Done::Empty | Done::Unreached(_) => {}
            Done::Failed(failure) => {
                counts.vaults_failed += 1;
                tracing::warn!(
                    agent_id,
                    destination_id,
                    reason = failure.reason,
                    message = failure.message,
                    "vault not brought under the key"
                );
                if self.step.problems.len() < catalog::limits::PROBLEMS_MAX {
                    self.step.problems.push(VaultProblem {
                        destination_id: destination_id.clone(),
                        agent_id: agent_id.to_owned(),
                        failure: Some(failure),
                    });
                }
            }
        }
    }

    /// Shows watchers how far it is: its entries are vaults.
    fn tell(&self) {
        use std::sync::atomic::Ordering::Relaxed;
        let (meter, counts) = (&self.context.meter, self.step.counts());
        meter.set_phase(vault::Phase::Transferring);
        meter.entries_total.store(counts.vaults_total, Relaxed);
        meter.entries_done.store(counts.vaults_done, Relaxed);
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

/// What a look at a destination has found.
enum Found {
    /// The agents that have a vault there, in order.
    Vaults(Arc<dyn Store>, Vec<String>),
    /// Nobody knows of it any more.
    Forgotten,
    /// It does not answer as it should.
    Unreached(JobError),
}

fn look_at(
    context: Arc<JobContext>,
    number: usize,
    destination_id: String,
) -> BoxFuture<'static, Result<(usize, Found), JobError>> {
    async move { Ok((number, vaults(&context, &destination_id).await?)) }.boxed()
}

async fn vaults(context: &JobContext, destination_id: &str) -> Result<Found, JobError> {
    let store = match context.worker.destinations.store(destination_id).await {
        Ok(store) => store,
        Err(DestinationsError::Catalog(CatalogError::DestinationNotFound { .. })) => {
            return Ok(Found::Forgotten);
        }
        Err(DestinationsError::Catalog(error)) => return Err(error.into()),
        Err(DestinationsError::Vault(error)) => return Ok(Found::Unreached(error.into())),
    };
    Ok(match store.list_folders("vaults/").await {
        Ok(mut vaults) => {
            vaults.sort();
            Found::Vaults(store, vaults)
        }
        Err(error) => Found::Unreached(VaultError::from(error).into()),
    })
}
