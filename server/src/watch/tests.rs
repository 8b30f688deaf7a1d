//! Watch streams over a fake catalog and buses that lose things. Time is paused.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures::StreamExt as _;
use proto::backup::v1::{Backup, ErrorReason, WatchBackupResponse, backup};
use queue::{InProcessBus, QueueError};
use tonic_types::StatusExt as _;

use super::*;

const ID: &str = "b";

/// A bus that loses everything.
struct LostBus;

#[async_trait]
impl EventBus for LostBus {
    async fn publish(&self, _: JobEvent) -> Result<(), QueueError> {
        Ok(())
    }

    async fn subscribe(&self, _: &str) -> Result<EventStream, QueueError> {
        Ok(EventStream::new(futures::stream::pending()))
    }

    async fn subscribe_all(&self) -> Result<EventStream, QueueError> {
        Err(QueueError::Closed)
    }
}

#[derive(Clone, Default)]
struct Fake {
    state: Arc<Mutex<backup::State>>,
    away: Arc<AtomicUsize>,
    loads: Arc<AtomicUsize>,
}

impl Subject for Fake {
    type Event = WatchBackupResponse;

    fn subject_id(&self) -> &str {
        ID
    }

    async fn load(&self) -> Result<Now<WatchBackupResponse>, ApiError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) > 0 {
            self.away.fetch_sub(1, Ordering::Relaxed);
            return Err(ApiError::new(ErrorReason::DatabaseUnavailable, "away"));
        }
        let state = *self.state.lock().unwrap();
        let backup = Backup {
            state: state.into(),
            progress: Some(Progress::default()),
            ..Backup::default()
        };
        Ok(Now {
            ended: state == backup::State::Completed,
            event: WatchBackupResponse {
                backup: Some(backup),
            },
        })
    }

    fn progress(event: &mut WatchBackupResponse) -> Option<&mut Progress> {
        event.backup.as_mut()?.progress.as_mut()
    }
}

impl Fake {
    fn set(&self, state: backup::State) {
        *self.state.lock().unwrap() = state;
    }
}

fn ground(bus: impl EventBus + 'static) -> Ground {
    Ground {
        bus: Arc::new(bus),
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
        slow_reader: Duration::from_mins(1),
    }
}

fn state(message: &WatchBackupResponse) -> backup::State {
    message.backup.as_ref().unwrap().state()
}

fn done(message: &WatchBackupResponse) -> u64 {
    let backup = message.backup.as_ref().unwrap();
    backup.progress.as_ref().unwrap().bytes_done
}

fn event(number: u64) -> JobEvent {
    JobEvent {
        subject_id: ID.into(),
        progress: Some(Progress {
            bytes_done: number,
            update_time: Some(prost_types::Timestamp {
                seconds: number as i64,
                nanos: 0,
            }),
            ..Progress::default()
        }),
        ..JobEvent::default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_is_true_when_all_events_are_lost() {
    let fake = Fake::default();
    fake.set(backup::State::Running);
    let mut stream = watch(ground(LostBus), fake.clone(), None).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(state(&first), backup::State::Running);
    fake.set(backup::State::Completed);
    let last = stream.next().await.unwrap().unwrap();
    assert_eq!(state(&last), backup::State::Completed);
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_is_told_once() {
    let fake = Fake::default();
    fake.set(backup::State::Completed);
    let stream = watch(ground(LostBus), fake, None).await.unwrap();
    let all: Vec<_> = stream.collect().await;
    assert_eq!(all.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn events_are_joined_to_four_a_second_and_late_ones_dropped() {
    let fake = Fake::default();
    fake.set(backup::State::Running);
    let bus = InProcessBus::new();
    let mut stream = watch(ground(bus.clone()), fake.clone(), None)
        .await
        .unwrap();
    let begun = Instant::now();
    let sender = tokio::spawn(async move {
        for number in 1..=100 {
            bus.publish(event(number)).await.unwrap();
            bus.publish(event(number / 2)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fake.set(backup::State::Completed);
        let changed = JobEvent {
            subject_id: ID.into(),
            state_changed: true,
            ..JobEvent::default()
        };
        bus.publish(changed).await.unwrap();
    });
    let mut seen = Vec::new();
    while let Some(message) = stream.next().await {
        let message = message.unwrap();
        if state(&message) == backup::State::Running {
            seen.push(done(&message));
        }
    }
    assert!(
        seen.is_sorted() && seen.len() >= 3 && seen.len() <= 6,
        "{seen:?}"
    );
    assert!(begun.elapsed() < POLL, "the event, not the poll, ended it");
    sender.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_it_with_unavailable() {
    let fake = Fake::default();
    let ground = ground(LostBus);
    let mut stream = watch(ground.clone(), fake.clone(), None).await.unwrap();
    stream.next().await.unwrap().unwrap();
    ground.stopping.cancel();
    let status = stream.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(
        status.get_details_error_info().unwrap().reason,
        "SHUTTING_DOWN"
    );
    assert!(stream.next().await.is_none());
    ground.tasks.close();
    ground.tasks.wait().await;
    assert!(watch(ground, fake, None).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_cut_and_its_work_ends() {
    let fake = Fake::default();
    let bus = InProcessBus::new();
    let ground = ground(bus.clone());
    let mut stream = watch(ground.clone(), fake, None).await.unwrap();
    let news = tokio::spawn(async move {
        for number in 1_u64.. {
            bus.publish(event(number)).await.unwrap();
            tokio::time::sleep(SPACING).await;
        }
    });
    ground.tasks.close();
    ground.tasks.wait().await;
    let status = stream.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(
        status.get_details_error_info().unwrap().reason,
        "SLOW_READER"
    );
    news.abort();
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_ends_the_work() {
    let ground = ground(LostBus);
    let stream = watch(ground.clone(), Fake::default(), None).await.unwrap();
    drop(stream);
    ground.tasks.close();
    ground.tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_short_absence_of_the_database_is_sat_out_and_a_long_one_told() {
    let fake = Fake::default();
    let mut stream = watch(ground(LostBus), fake.clone(), None).await.unwrap();
    stream.next().await.unwrap().unwrap();
    fake.away.store(2, Ordering::Relaxed);
    fake.set(backup::State::Running);
    assert_eq!(
        state(&stream.next().await.unwrap().unwrap()),
        backup::State::Running
    );
    fake.away.store(100, Ordering::Relaxed);
    let status = stream.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.get_details_retry_info().is_some());
}
