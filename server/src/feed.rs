//! A bounded channel between the work behind a stream and the caller who reads it.
//!
//! Unlike a plain channel, the sending end can *cut* it: a caller that has not read for too long
//! loses what waits for it (the memory is free at once), and finds the status when it reads again.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::Stream;
use proto::backup::v1::ErrorReason;
use tokio::sync::Notify;
use tonic::Status;

use crate::status::ApiError;

struct State<T> {
    waiting: VecDeque<T>,
    /// Set when nothing more comes: how it ended.
    end: Option<Result<(), Status>>,
    reader_gone: bool,
    waker: Option<Waker>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Rung when there is room, or the reader is gone.
    changed: Notify,
    items_max: usize,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nothing more can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The caller went away.
    #[error("the caller has gone")]
    Gone,
    /// The caller did not read for too long; the feed is cut.
    #[error("the caller does not read")]
    Slow,
}

/// The sending end. Dropped without an end, the stream ends as INTERNAL.
pub struct Feed<T> {
    shared: Arc<Shared<T>>,
    patience: Duration,
}

/// The reading end: what tonic streams to the caller.
pub struct FeedStream<T> {
    shared: Arc<Shared<T>>,
}

/// A feed of at most `items_max` waiting items, whose reader may pause for `patience`.
pub fn feed<T>(items_max: usize, patience: Duration) -> (Feed<T>, FeedStream<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            waiting: VecDeque::new(),
            end: None,
            reader_gone: false,
            waker: None,
        }),
        changed: Notify::new(),
        items_max,
    });
    (
        Feed {
            shared: shared.clone(),
            patience,
        },
        FeedStream { shared },
    )
}

impl<T> Feed<T> {
    /// Hands an item over, waiting for room as long as patience lasts. After an error there is
    /// nothing left to do but to stop.
    pub async fn send(&self, item: T) -> Result<(), SendError> {
        let mut item = Some(item);
        let sent = tokio::time::timeout(self.patience, async {
            loop {
                let changed = self.shared.changed.notified();
                {
                    let mut state = self.shared.lock();
                    if state.reader_gone {
                        return Err(SendError::Gone);
                    }
                    if state.waiting.len() < self.shared.items_max {
                        state.waiting.extend(item.take());
                        if let Some(waker) = state.waker.take() {
                            waker.wake();
                        }
                        return Ok(());
                    }
                }
                changed.await;
            }
        })
        .await;
        sent.unwrap_or_else(|_| {
            self.cut();
            Err(SendError::Slow)
        })
    }

    fn cut(&self) {
        let mut state = self.shared.lock();
        state.waiting = VecDeque::new();
        state.end.get_or_insert(Err(ApiError::new(
            ErrorReason::SlowReader,
            format!(
                "the stream was not read for {} seconds: call again, and read it as it comes",
                self.patience.as_secs()
            ),
        )
        .into()));
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Returns when the caller went away.
    pub async fn gone(&self) {
        loop {
            let changed = self.shared.changed.notified();
            if self.shared.lock().reader_gone {
                return;
            }
            changed.await;
        }
    }

    /// Ends the stream: with OK, or with an error. An end that was set before stays.
    pub fn end(&self, end: Result<(), ApiError>) {
        self.set_end(end.map_err(Status::from));
    }

    fn set_end(&self, end: Result<(), Status>) {
        let mut state = self.shared.lock();
        state.end.get_or_insert(end);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Drop for Feed<T> {
    fn drop(&mut self) {
        let unfinished = {
            let state = self.shared.lock();
            state.end.is_none() && !state.reader_gone
        };
        if unfinished {
            let lost = ApiError::internal("stream to a caller", "the work behind it ended early");
            self.set_end(Err(lost.into()));
        }
    }
}

impl<T> Stream for FeedStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.lock();
        if let Some(item) = state.waiting.pop_front() {
            drop(state);
            self.shared.changed.notify_waiters();
            return Poll::Ready(Some(Ok(item)));
        }
        if let Some(end) = &mut state.end {
            Poll::Ready(std::mem::replace(end, Ok(())).err().map(Err))
        } else {
            state.waker = Some(context.waker().clone());
            Poll::Pending
        }
    }
}

impl<T> Drop for FeedStream<T> {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.reader_gone = true;
            state.waiting = VecDeque::new();
        }
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tonic_types::StatusExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn items_come_in_order_and_the_end_last() {
        let (feed, mut stream) = feed(2, PATIENCE);
        let sender = tokio::spawn(async move {
            for number in 0..10 {
                feed.send(number).await.unwrap();
            }
            feed.end(Ok(()));
        });
        for number in 0..10 {
            assert_eq!(stream.next().await.unwrap().unwrap(), number);
        }
        assert!(stream.next().await.is_none());
        sender.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_cut_and_told_why() {
        let (feed, mut stream) = feed(1, PATIENCE);
        feed.send(1).await.unwrap();
        assert_eq!(feed.send(2).await, Err(SendError::Slow));
        feed.end(Ok(()));
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(
            status.get_details_error_info().unwrap().reason,
            "SLOW_READER"
        );
        assert!(stream.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_goes_is_noticed() {
        let (feed, stream) = feed(1, PATIENCE);
        feed.send(1).await.unwrap();
        let ((), sent) = tokio::join!(async { drop(stream) }, feed.send(2));
        assert_eq!(sent, Err(SendError::Gone));
        feed.gone().await;
    }

    #[tokio::test]
    async fn work_that_dies_is_no_success() {
        let (feed, mut stream) = feed::<u8>(1, PATIENCE);
        drop(feed);
        assert_eq!(
            stream.next().await.unwrap().unwrap_err().code(),
            tonic::Code::Internal
        );
    }
}
