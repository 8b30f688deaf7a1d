//! Getting messages again after trouble, over a queue that plays a script. Time is paused.

use std::{collections::VecDeque, sync::Mutex};

use async_trait::async_trait;
use queue::{JobQueue, PoolDepth, Route, Settlement, Verdict};

use super::*;
use crate::testing::Site;

/// What becomes of a call of `consume`.
enum Play {
    /// It fails.
    Refused,
    /// It works, and for so long no message comes; then the consumer is lost.
    LostAfter(Duration),
    /// It works, and a message is there.
    Message,
}

struct Script(Mutex<VecDeque<Play>>);

struct Consumer(Option<Duration>);

struct Settled;

#[async_trait]
impl JobQueue for Script {
    async fn publish(&self, _: &Route, _: &str) -> Result<(), QueueError> {
        unreachable!("nothing is published here")
    }

    async fn consume(&self, _: &str, _: u16) -> Result<Box<dyn JobConsumer>, QueueError> {
        match self
            .0
            .lock()
            .unwrap()
            .pop_front()
            .expect("more in the script")
        {
            Play::Refused => Err(QueueError::Closed),
            Play::LostAfter(while_) => Ok(Box::new(Consumer(Some(while_)))),
            Play::Message => Ok(Box::new(Consumer(None))),
        }
    }

    async fn depth(&self, _: &str) -> Result<PoolDepth, QueueError> {
        Ok(PoolDepth::default())
    }

    async fn check(&self) -> Result<(), QueueError> {
        Ok(())
    }
}

#[async_trait]
impl JobConsumer for Consumer {
    async fn next_of(&mut self, _: Wanted) -> Result<Delivery, QueueError> {
        if let Some(lost_after) = self.0 {
            sleep(lost_after).await;
            return Err(QueueError::Closed);
        }
        let settled = Box::new(Settled);
        Ok(Delivery::new(
            "job".to_owned(),
            Urgency::Manual,
            false,
            settled,
        ))
    }
}

#[async_trait]
impl Settlement for Settled {
    async fn settle(self: Box<Self>, _: Verdict) -> Result<(), QueueError> {
        Ok(())
    }

    fn abandon(self: Box<Self>) {}
}

/// How long it takes to get a message.
async fn time_to_message(script: impl IntoIterator<Item = Play>) -> Duration {
    let site = Site::new().await;
    let shared = Shared {
        queue: Arc::new(Script(Mutex::new(script.into_iter().collect()))),
        ..site.shared(Arc::new(|_| unreachable!("no job is run here")))
    };
    tokio::time::pause();
    let mut feed = Feed::new(Arc::new(shared), "default");
    let begun = Instant::now();
    assert_eq!(feed.next(Wanted::Any).await.job_id, "job");
    let took = begun.elapsed();
    tokio::time::resume();
    took
}

/// The same but for the few milliseconds to which timers are rounded.
#[track_caller]
fn assert_about(took: Duration, expected: Duration) {
    let off = took.abs_diff(expected);
    assert!(off < AGAIN.0 / 2, "{took:?} is not about {expected:?}");
}

fn refused(times: usize) -> impl Iterator<Item = Play> {
    std::iter::repeat_with(|| Play::Refused).take(times)
}

#[tokio::test]
async fn waits_grow_while_nothing_works() {
    let once = time_to_message(refused(1).chain([Play::Message])).await;
    assert_about(once, AGAIN.0);
    let often = time_to_message(refused(20).chain([Play::Message])).await;
    assert!(often > AGAIN.1 * 16 && often < AGAIN.1 * 20, "{often:?}");
    // What is lost at once does not count as having worked.
    let at_once = || Play::LostAfter(Duration::ZERO);
    let script = std::iter::repeat_with(at_once)
        .take(20)
        .chain([Play::Message]);
    assert_about(time_to_message(script).await, often);
}

#[tokio::test]
async fn who_received_for_a_while_is_back_at_once() {
    let while_ = AGAIN.1 * 2;
    let before = time_to_message(refused(20).chain([Play::Message])).await;
    let script = refused(20).chain([Play::LostAfter(while_), Play::Message]);
    assert_about(time_to_message(script).await, before + while_ + AGAIN.0);
}
