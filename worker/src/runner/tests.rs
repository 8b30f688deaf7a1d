//! The runner beside a real catalog and an in-process queue, with work that does what a test
//! needs.

use std::{
    future::pending,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use catalog::{BackupState, FailOutcome, Job, JobState, ReapOutcome};
use futures::{FutureExt as _, StreamExt as _};
use proto::queue::v1::JobEvent;
use queue::EventBus as _;
use tokio::sync::Notify;

use super::{context::JobContext, stop::StopCause, *};
use crate::{
    clock::now_ms,
    failure::failure,
    testing::{Running, Site},
};

/// Work that waits until it is told to stop, and remembers why it was.
#[derive(Default)]
struct Waiting {
    begun: Notify,
    cause: Mutex<Option<StopCause>>,
}

impl Waiting {
    fn work(self: &Arc<Self>) -> Work {
        let waiting = self.clone();
        Arc::new(move |context: Arc<JobContext>| {
            let waiting = waiting.clone();
            async move {
                waiting.begun.notify_one();
                context.stop.token().cancelled().await;
                *waiting.cause.lock().unwrap() = context.stop.cause();
                context.check_stop()
            }
            .boxed()
        })
    }

    fn cause(&self) -> Option<StopCause> {
        *self.cause.lock().unwrap()
    }
}

async fn waiting(site: &Site) -> (Arc<Waiting>, Running, catalog::Backup) {
    let waiting = Arc::new(Waiting::default());
    let running = site.start_with(waiting.work());
    let backup = site.create_backup("agent").await;
    waiting.begun.notified().await;
    (waiting, running, backup)
}

/// Completes the job without doing anything.
async fn complete(context: &JobContext) -> Result<(), JobError> {
    let fence = context.fence();
    let result = catalog::BackupResult {
        manifest_attempt: fence.attempt,
        manifest_digest: [1; 32],
        sequence: 1,
        size_bytes: 0,
        stored_bytes: 0,
        new_bytes: 0,
        entries: 0,
        warnings: Vec::new(),
        warnings_total: 0,
        vault_bytes: 0,
        progress: None,
    };
    let catalog = &context.worker.catalog;
    context
        .persist(|| catalog.complete_backup(&fence, result.clone(), now_ms()))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_cancel_takes_effect_soon_even_when_its_event_is_lost() {
    for with_event in [true, false] {
        let site = Site::new().await;
        let (work, _running, backup) = waiting(&site).await;
        let asked = Instant::now();
        let catalog = &site.catalog;
        catalog
            .cancel_backup(&backup.backup_id, now_ms())
            .await
            .unwrap();
        if with_event {
            let event = JobEvent {
                version: 1,
                subject_id: backup.backup_id.clone(),
                job_id: backup.job_id.clone(),
                cancel_requested: true,
                ..JobEvent::default()
            };
            site.bus.publish(event).await.unwrap();
        }
        let job = site.job_ended(&backup.job_id).await;
        assert_eq!(job.state, JobState::Canceled);
        assert_eq!(work.cause(), Some(StopCause::Canceled));
        let within = if with_event { 500 } else { 2000 };
        assert!(
            asked.elapsed() < Duration::from_millis(within),
            "{with_event}"
        );
        let backup = site.backup(&backup.backup_id).await;
        assert_eq!(backup.state, BackupState::Canceled);
    }
}

#[tokio::test]
async fn the_time_limit_ends_the_work() {
    let mut site = Site::new().await;
    site.settings.job_timeout = Duration::from_millis(300);
    let (work, _running, backup) = waiting(&site).await;
    let job = site.job_ended(&backup.job_id).await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(work.cause(), Some(StopCause::TimedOut));
    let failure = site.backup(&backup.backup_id).await.failure.unwrap();
    assert_eq!(failure.reason, "JOB_TIMEOUT");
    assert!(failure.message.contains("NORA_BACKUP_JOB_TIMEOUT_MS"));
}

#[tokio::test]
async fn who_lost_the_lease_stops_and_writes_nothing() {
    let site = Site::new().await;
    let tried = Arc::new(Mutex::new(None));
    let (seen, begun) = (tried.clone(), Arc::new(Notify::new()));
    let began = begun.clone();
    let running = site.start_with(Arc::new(move |context: Arc<JobContext>| {
        let (seen, began) = (seen.clone(), began.clone());
        async move {
            began.notify_one();
            context.stop.token().cancelled().await;
            // Stubborn work that does not look whether it was told to stop.
            let completed = complete(&context).await;
            *seen.lock().unwrap() = Some((context.stop.cause(), format!("{completed:?}")));
            completed
        }
        .boxed()
    }));
    let backup = site.create_backup("agent").await;
    begun.notified().await;
    // The lease runs out, as if the worker had been away; another one may have it.
    let later_ms = now_ms() + 3_600_000;
    let reaped = site.catalog.reap_expired(10, later_ms).await.unwrap();
    assert!(matches!(reaped[0].outcome, ReapOutcome::Requeued { .. }));
    let before = site.catalog.get_job(&backup.job_id).await.unwrap();
    running.stop_when(|| tried.lock().unwrap().is_some()).await;
    let seen = tried.lock().unwrap().take();
    assert_eq!(
        seen,
        Some((Some(StopCause::LeaseLost), "Err(Lost)".to_owned()))
    );
    assert_eq!(site.catalog.get_job(&backup.job_id).await.unwrap(), before);
}

#[tokio::test]
async fn a_shutdown_hands_back_without_counting_the_attempt() {
    let site = Site::new().await;
    let (work, running, backup) = waiting(&site).await;
    running.stop().await;
    assert_eq!(work.cause(), Some(StopCause::ShuttingDown));
    let job = site.catalog.get_job(&backup.job_id).await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Queued);
    assert_eq!(job.tries, 0);
    assert_eq!(job.attempt, 1);

    let _next = site.start_with(Arc::new(|context| {
        async move { complete(&context).await }.boxed()
    }));
    let job = site.job_ended(&backup.job_id).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 2));
}

#[tokio::test]
async fn a_shutdown_lets_jobs_end_that_are_quick_enough() {
    let mut site = Site::new().await;
    site.settings.drain = Duration::from_secs(20);
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (began, may) = (begun.clone(), go.clone());
    let running = site.start_with(Arc::new(move |context: Arc<JobContext>| {
        let (began, may) = (began.clone(), may.clone());
        async move {
            began.notify_one();
            may.notified().await;
            complete(&context).await
        }
        .boxed()
    }));
    let backup = site.create_backup("agent").await;
    begun.notified().await;
    running.shared.shutdown.cancel();
    // It takes nothing new meanwhile.
    site.register("other").await;
    let other = site.create_backup("other").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    go.notify_one();
    running.stop().await;
    let state = async |job_id: &str| site.catalog.get_job(job_id).await.unwrap().unwrap().state;
    assert_eq!(state(&backup.job_id).await, JobState::Completed);
    assert_eq!(state(&other.job_id).await, JobState::Queued);
}

#[tokio::test]
async fn a_panic_fails_its_job_and_nothing_else() {
    let site = Site::new().await;
    let times = Arc::new(AtomicUsize::new(0));
    let counted = times.clone();
    let _running = site.start_with(Arc::new(move |context: Arc<JobContext>| {
        let first = counted.fetch_add(1, SeqCst) == 0;
        async move {
            assert!(!first, "as told by the test");
            complete(&context).await
        }
        .boxed()
    }));
    let backup = site.create_backup("agent").await;
    let job = site.job_ended(&backup.job_id).await;
    assert_eq!(job.state, JobState::Failed);
    let failure = job.failure.unwrap();
    assert_eq!(failure.reason, "INTERNAL");
    assert!(!failure.message.contains("as told"), "{}", failure.message);
    let next = site.create_backup("agent").await;
    assert_eq!(
        site.job_ended(&next.job_id).await.state,
        JobState::Completed
    );
}

#[tokio::test]
async fn what_may_succeed_later_is_tried_again() {
    let site = Site::new().await;
    let times = Arc::new(AtomicUsize::new(0));
    let counted = times.clone();
    let _running = site.start_with(Arc::new(move |context: Arc<JobContext>| {
        let time = counted.fetch_add(1, SeqCst);
        async move {
            if time < 2 {
                return Err(JobError::Failed {
                    failure: failure("DESTINATION_UNAVAILABLE", "away"),
                    retryable: true,
                });
            }
            complete(&context).await
        }
        .boxed()
    }));
    let backup = site.create_backup("agent").await;
    let job = site.job_ended(&backup.job_id).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 3));
    let backup = site.backup(&backup.backup_id).await;
    assert_eq!(
        (backup.state, backup.failure),
        (BackupState::Completed, None)
    );
}

#[tokio::test]
async fn no_more_jobs_run_than_there_are_slots() {
    let mut site = Site::new().await;
    site.settings.concurrency = 2;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running_now, at_most) = (now.clone(), most.clone());
    let _running = site.start_with(Arc::new(move |context: Arc<JobContext>| {
        let (now, most) = (running_now.clone(), at_most.clone());
        async move {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(Duration::from_millis(30)).await;
            now.fetch_sub(1, SeqCst);
            complete(&context).await
        }
        .boxed()
    }));
    let mut jobs = Vec::new();
    for number in 0..6 {
        let agent_id = format!("agent{number}");
        site.register(&agent_id).await;
        jobs.push(site.create_backup(&agent_id).await.job_id);
    }
    for job_id in jobs {
        assert_eq!(site.job_ended(&job_id).await.state, JobState::Completed);
    }
    assert_eq!(most.load(SeqCst), 2);
}

#[tokio::test]
async fn a_manual_job_never_waits_behind_scheduled_ones() {
    let mut site = Site::new().await;
    site.settings.concurrency = 2;
    let begun = Arc::new(Mutex::new(Vec::new()));
    let (seen, freed) = (begun.clone(), Arc::new(tokio::sync::Semaphore::new(0)));
    let free = freed.clone();
    let _running = site.start_with(Arc::new(move |context: Arc<JobContext>| {
        let (seen, free) = (seen.clone(), free.clone());
        async move {
            seen.lock().unwrap().push(context.lease.job.job_id.clone());
            if context.lease.job.urgency == catalog::Urgency::Scheduled {
                free.acquire().await.unwrap().forget();
            }
            complete(&context).await
        }
        .boxed()
    }));
    let mut scheduled = Vec::new();
    for number in 0..3 {
        let agent_id = format!("scheduled{number}");
        site.register(&agent_id).await;
        let trigger = catalog::Trigger::Schedule;
        scheduled.push(site.create_backup_by(&agent_id, trigger).await.job_id);
    }
    site.register("manual").await;
    // Two in turn: the second finds the worker as the first left it.
    for _ in 0..2 {
        let manual = site.create_backup("manual").await.job_id;
        let ended = site.job_ended(&manual).await;
        assert_eq!(ended.state, JobState::Completed);
    }
    // The first scheduled one has begun, or is about to; no second one beside it.
    let running = begun.lock().unwrap().clone();
    assert!(running.iter().filter(|id| scheduled.contains(id)).count() <= 1);
    freed.add_permits(scheduled.len());
    for job_id in &scheduled {
        assert_eq!(site.job_ended(job_id).await.state, JobState::Completed);
    }
}

#[tokio::test]
async fn a_long_job_keeps_its_lease_and_its_progress_shows() {
    let mut site = Site::new().await;
    site.settings.lease = Duration::from_millis(600);
    let work: Work = Arc::new(|context: Arc<JobContext>| {
        async move {
            context.meter.add_bytes(4321);
            pending::<()>().await;
            Ok(())
        }
        .boxed()
    });
    let _running = site.start_with(work);
    let backup = site.create_backup("agent").await;
    let subject = &backup.backup_id;
    let mut events = site.bus.subscribe(subject).await.unwrap();
    let is_told = |event: &JobEvent| {
        let told = event.progress.as_ref();
        told.is_some_and(|progress| progress.bytes_done == 4321)
    };
    while !is_told(&futures::StreamExt::next(&mut events).await.unwrap()) {}
    let kept = |job: &Job| job.progress.bytes_done == 4321 && job.state == JobState::Running;
    site.job_until(&backup.job_id, kept).await;
    // Well beyond one lease, it still is this attempt's.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let reaped = site.catalog.reap_expired(10, now_ms()).await.unwrap();
    assert_eq!(reaped, []);
}

#[tokio::test]
async fn a_message_of_no_job_is_settled_and_the_queue_goes_on() {
    let site = Site::new().await;
    let _running = site.start_with(Arc::new(|context| {
        async move { complete(&context).await }.boxed()
    }));
    let route = queue::Route {
        pool: "default".to_owned(),
        urgency: queue::Urgency::Manual,
    };
    site.queue.publish(&route, "no-such-job").await.unwrap();
    let backup = site.create_backup("agent").await;
    // Word of it twice: it is done once.
    site.queue.publish(&route, &backup.job_id).await.unwrap();
    let job = site.job_ended(&backup.job_id).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1));
    let again = site
        .catalog
        .fail_job(&job_fence(&job), failure("X", "x"), true, now_ms())
        .await;
    assert!(!matches!(again, Ok(FailOutcome::WillRetry { .. })));
}

fn job_fence(job: &Job) -> catalog::Fence {
    catalog::Fence {
        job_id: job.job_id.clone(),
        attempt: job.attempt,
    }
}

#[tokio::test]
async fn work_that_a_job_sets_free_is_told_to_the_servers() {
    let site = Site::new().await;
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (began, goes_on) = (begun.clone(), go_on.clone());
    let running = site.start_with(Arc::new(move |context: Arc<JobContext>| {
        let (began, goes_on) = (began.clone(), goes_on.clone());
        async move {
            began.notify_one();
            goes_on.notified().await;
            complete(&context).await
        }
        .boxed()
    }));
    site.create_backup("agent").await;
    begun.notified().await;
    // It finds the agent busy, and waits for the first one's end.
    let second = site.create_backup("agent").await;
    site.job_until(&second.job_id, |job| {
        !job.progress.waiting_reason.is_empty()
    })
    .await;
    let mut news = site.bus.subscribe(queue::WORK).await.unwrap();
    let telling = tokio::spawn(tell_of_work(running.shared.clone()));
    go_on.notify_one();
    let told = tokio::time::timeout(Duration::from_secs(10), news.next()).await;
    assert_eq!(told.expect("told").unwrap().subject_id, queue::WORK);
    go_on.notify_one();
    let ended = site.job_ended(&second.job_id).await;
    assert_eq!(ended.state, JobState::Completed);
    running.stop().await;
    telling.await.unwrap();
}
