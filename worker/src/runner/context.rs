//! What a running job has at hand.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use catalog::{AfterHook, CatalogError, Fence, Lease, Renewal};
use proto::{backup::v1::Progress, queue::v1::JobEvent};
use tokio::time::{Instant, sleep};
use vault::Meter;

use super::{
    Shared,
    stop::{Stop, StopCause},
};
use crate::{clock::now_ms, failure::JobError, progress::Gauge, sources::UndoLog};

/// First and longest wait before a write of the catalog is tried again.
const WRITE_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// One claimed job and what belongs to it.
pub struct JobContext {
    /// What all jobs share.
    pub worker: Arc<Shared>,
    /// The job, with what it is about.
    pub lease: Lease,
    /// Tells the job to stop.
    pub stop: Stop,
    /// How far it is.
    pub meter: Arc<Meter>,
    gauge: Mutex<Gauge>,
    /// Until when the job is this worker's, as far as it knows.
    held_until: Mutex<Instant>,
    /// The pin that keeps what the job reads.
    pin_id: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobContext {
    pub(super) fn new(worker: Arc<Shared>, lease: Lease, claimed: Instant) -> Self {
        Self {
            gauge: Mutex::new(Gauge::new(lease.attempt)),
            held_until: Mutex::new(claimed + worker.settings.lease),
            worker,
            lease,
            stop: Stop::default(),
            meter: Arc::default(),
            pin_id: Mutex::default(),
        }
    }

    /// What to name with every write.
    pub fn fence(&self) -> Fence {
        self.lease.fence()
    }

    /// The lease's length in milliseconds.
    pub(super) fn lease_ms(&self) -> i64 {
        self.worker.settings.lease.as_millis() as i64
    }

    /// How far the job is now.
    pub fn progress(&self) -> Progress {
        lock(&self.gauge).read(&self.meter, std::time::Instant::now(), now_ms())
    }

    /// When the lease runs out, as far as is known here.
    pub(super) fn held_until(&self) -> Instant {
        *lock(&self.held_until)
    }

    /// Renews the lease, and the pin with it; tells the job to stop when it is not to go on.
    pub(super) async fn renew(&self) {
        let asked = Instant::now();
        let catalog = &self.worker.catalog;
        let progress = self.progress();
        let fence = self.fence();
        let renewed = catalog
            .renew_lease(&fence, self.lease_ms(), now_ms(), Some(&progress))
            .await;
        match renewed {
            Ok(Renewal::Held { cancel_requested }) => {
                *lock(&self.held_until) = asked + self.worker.settings.lease;
                if cancel_requested {
                    self.stop.tell(StopCause::Canceled);
                }
            }
            Ok(Renewal::Lost) => self.stop.tell(StopCause::LeaseLost),
            Err(error) => tracing::warn!(job_id = fence.job_id, %error, "renew a lease"),
        }
        let pin_id = lock(&self.pin_id).clone();
        if let Some(pin_id) = pin_id {
            match catalog.renew_pin(&pin_id, self.pin_ms(), now_ms()).await {
                Err(CatalogError::PinLost { .. }) => self.stop.tell(StopCause::PinLost),
                Err(error) => tracing::warn!(job_id = fence.job_id, %error, "renew a pin"),
                Ok(()) => {}
            }
        }
    }

    /// Makes sure that the job still is this worker's: to be called before a step that can't be
    /// taken back.
    pub async fn check_held(&self) -> Result<(), JobError> {
        let fence = self.fence();
        let renewal = self
            .persist(|| {
                let catalog = &self.worker.catalog;
                catalog.renew_lease(&fence, self.lease_ms(), now_ms(), None)
            })
            .await?;
        match renewal {
            Renewal::Lost => {
                self.stop.tell(StopCause::LeaseLost);
                Err(JobError::Lost)
            }
            Renewal::Held {
                cancel_requested: true,
            } => {
                self.stop.tell(StopCause::Canceled);
                Err(JobError::Stopped)
            }
            Renewal::Held { .. } => self.check_stop(),
        }
    }

    /// Ends the job's work when it was told to stop.
    pub fn check_stop(&self) -> Result<(), JobError> {
        match self.stop.cause() {
            None => Ok(()),
            Some(StopCause::LeaseLost) => Err(JobError::Lost),
            Some(_) => Err(JobError::Stopped),
        }
    }

    /// Writes to the catalog, again and again while it can't be reached, until the lease has run
    /// out: then the job may be another's.
    pub async fn persist<T, F>(&self, write: impl Fn() -> F) -> Result<T, JobError>
    where
        F: Future<Output = Result<T, CatalogError>>,
    {
        let mut wait = WRITE_AGAIN.0;
        loop {
            match write().await {
                Err(error) if error.is_retryable() => {
                    let job_id = &self.lease.job.job_id;
                    tracing::warn!(job_id, %error, "write to the catalog");
                    if self.stop.cause() == Some(StopCause::LeaseLost)
                        || Instant::now() + wait >= self.held_until()
                    {
                        return Err(JobError::Lost);
                    }
                    sleep(wait).await;
                    wait = (wait * 2).min(WRITE_AGAIN.1);
                }
                Err(error) => return Err(error.into()),
                Ok(written) => return Ok(written),
            }
        }
    }

    /// How long a pin lasts without a sign of life.
    fn pin_ms(&self) -> i64 {
        self.lease_ms() * 2
    }

    /// Keeps a backup while the job reads it; renewed together with the lease.
    pub async fn pin(&self, backup_id: &str) -> Result<(), JobError> {
        let catalog = &self.worker.catalog;
        let holder = &self.lease.job.job_id;
        let pin = self
            .persist(|| catalog.pin_backup(backup_id, holder, self.pin_ms(), now_ms()))
            .await?;
        *lock(&self.pin_id) = Some(pin.pin_id);
        Ok(())
    }

    /// Ends the pin. One that stays behind ends by itself.
    pub async fn unpin(&self) {
        let pin_id = lock(&self.pin_id).take();
        if let Some(pin_id) = pin_id
            && let Err(error) = self.worker.catalog.unpin(&pin_id).await
        {
            tracing::warn!(pin_id, %error, "end a pin");
        }
    }

    /// Tells watchers how far the job is, or that its state changed.
    pub(super) async fn announce(&self, progress: Option<Progress>, state_changed: bool) {
        let job = &self.lease.job;
        let event = JobEvent {
            version: queue::EVENT_VERSION,
            subject_id: job.subject_id().to_owned(),
            job_id: job.job_id.clone(),
            progress,
            state_changed,
            cancel_requested: false,
        };
        if let Err(error) = self.worker.bus.publish(event).await {
            tracing::debug!(job_id = job.job_id, %error, "publish an event");
        }
    }
}

/// Notes in the catalog what an attempt has to undo.
pub(crate) struct CatalogUndo(pub(crate) Arc<JobContext>);

#[async_trait]
impl UndoLog for CatalogUndo {
    async fn note_paused(&self, container: Option<&str>) -> Result<(), CatalogError> {
        let context = &self.0;
        let fence = context.fence();
        context.worker.catalog.note_paused(&fence, container).await
    }

    async fn note_after(&self, hook: Option<&AfterHook>) -> Result<(), CatalogError> {
        let context = &self.0;
        let fence = context.fence();
        context.worker.catalog.note_after_hook(&fence, hook).await
    }
}
