//! One connection that stands. When anything about it goes wrong it is given up
//! as a whole; [`super::line::Line`] makes the next one.

use std::{
    collections::HashSet,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use lapin::{Channel, Connection, Event, options::ConfirmSelectOptions};
use proto::queue::v1::JobEvent;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    CALL_LIMIT, ConnectError,
    dial::Dialer,
    error::{PRECONDITION_FAILED, because, code, describe, unavailable},
    publish, topology,
};
use crate::QueueError;

/// Messages on their way at a time that RabbitMQ has not yet confirmed.
const UNCONFIRMED_MAX: usize = 16;
/// How often it is looked whether a connection still stands, beside being told.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Names of pools that are remembered as declared.
const DECLARED_MAX: usize = 10_000;
/// How long a connection may take to end well.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// One connection that stands.
pub(super) struct Link {
    connection: Connection,
    health: Arc<Health>,
    /// For declaring; absent while somebody uses it.
    control: Mutex<Option<Channel>>,
    /// In confirm mode, each with nothing on its way.
    confirming: Mutex<Vec<Channel>>,
    confirming_room: Semaphore,
    /// Pools whose queues were declared.
    declared: Mutex<HashSet<String>>,
    /// Events to publish.
    events: mpsc::Sender<JobEvent>,
}

/// What is known about a connection.
struct Health {
    lost: CancellationToken,
    reason: OnceLock<String>,
    /// Why RabbitMQ takes no messages on it now.
    blocked: watch::Sender<Option<String>>,
}

impl Health {
    fn fail(&self, reason: impl Into<String>) {
        let _ = self.reason.set(reason.into());
        self.lost.cancel();
    }
}

impl Link {
    /// Connects, and declares the exchanges.
    pub(super) async fn open(
        dialer: &Dialer,
        role: &str,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, ConnectError> {
        let connection = dialer.dial(role).await?;
        let health = Arc::new(Health {
            lost: CancellationToken::new(),
            reason: OnceLock::new(),
            blocked: watch::Sender::new(None),
        });
        tasks.spawn(watch_over(
            Arc::clone(&health),
            connection.status().clone(),
            connection.events_listener(),
        ));
        let (events, queued) = mpsc::channel(publish::EVENTS_QUEUED_MAX);
        let link = Arc::new(Self {
            connection,
            health,
            control: Mutex::new(None),
            confirming: Mutex::default(),
            confirming_room: Semaphore::new(UNCONFIRMED_MAX),
            declared: Mutex::default(),
            events,
        });
        let declared = timeout(CALL_LIMIT, async {
            let channel = link.connection.create_channel().await?;
            topology::declare_exchanges(&channel).await?;
            Ok(channel)
        });
        match declared.await {
            Ok(Ok(channel)) => *lock(&link.control) = Some(channel),
            failed => {
                let place = dialer.place();
                let error = match failed {
                    Ok(Err(error)) if is_for_good(&error) => {
                        ConnectError::refused(format!("exchanges at {place}: {}", describe(&error)))
                    }
                    Ok(Err(error)) => ConnectError::unreachable(format!(
                        "exchanges at {place}: {}",
                        describe(&error)
                    )),
                    _ => ConnectError::unreachable(format!(
                        "{place} does not answer the declaration of exchanges"
                    )),
                };
                link.fail(error.to_string());
                link.close().await;
                return Err(error);
            }
        }
        tasks.spawn(publish::write_events(Arc::clone(&link), queued));
        Ok(link)
    }

    /// Gives the connection up.
    pub(super) fn fail(&self, reason: impl Into<String>) {
        self.health.fail(reason);
    }

    /// Returns when the connection is given up.
    pub(super) async fn lost(&self) {
        self.health.lost.cancelled().await;
    }

    /// Why it was given up.
    pub(super) fn reason(&self) -> String {
        let reason = self.health.reason.get().cloned();
        reason.unwrap_or_else(|| "the connection was closed".to_owned())
    }

    /// Closes the connection, as well as it can be.
    pub(super) async fn close(&self) {
        self.health.fail("the connection was closed");
        let _ = timeout(CLOSE_LIMIT, self.connection.close(200, "OK".into())).await;
    }

    /// Does something with the broker, in limited time. What takes longer gives
    /// the connection up, unless the broker blocks it.
    pub(super) async fn within<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        self.within_limit(CALL_LIMIT, doing, work).await
    }

    /// The same, with a time limit of one's own.
    pub(super) async fn within_limit<T>(
        &self,
        limit: Duration,
        doing: &'static str,
        work: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        tokio::select! {
            biased;
            () = self.lost() => Err(because(doing, self.reason())),
            done = timeout(limit, work) => done.unwrap_or_else(|_| {
                let message = format!("RabbitMQ did not answer in {} s", limit.as_secs());
                self.check_blocked(doing)?;
                self.fail(format!("{message} ({doing})"));
                Err(because(doing, message))
            }),
        }
    }

    /// `Unavailable` while RabbitMQ takes no messages.
    pub(super) fn check_blocked(&self, doing: &'static str) -> Result<(), QueueError> {
        match &*self.health.blocked.borrow() {
            Some(reason) => Err(blocked(doing, reason)),
            None => Ok(()),
        }
    }

    /// Returns `Unavailable` as soon as RabbitMQ takes no messages.
    pub(super) async fn blocked(&self, doing: &'static str) -> QueueError {
        let mut changes = self.health.blocked.subscribe();
        let reason = changes.wait_for(Option::is_some).await;
        // The connection, which is ours, tells: there always is a reason.
        let reason = reason.ok().and_then(|reason| reason.clone());
        let reason = reason.unwrap_or_default();
        blocked(doing, &reason)
    }

    /// A new channel.
    pub(super) async fn channel(&self, doing: &'static str) -> Result<Channel, QueueError> {
        let made = self.connection.create_channel().await;
        made.map_err(unavailable(doing))
    }

    /// Does something on the channel for declaring. One that failed, or was
    /// left in the middle, is not used again.
    pub(super) async fn control<T, F>(
        &self,
        doing: &'static str,
        work: impl FnOnce(Channel) -> F,
    ) -> Result<T, QueueError>
    where
        F: Future<Output = lapin::Result<T>>,
    {
        let kept = lock(&self.control).take();
        let channel = match kept {
            Some(channel) if channel.status().connected() => channel,
            _ => self.channel(doing).await?,
        };
        let done = work(channel.clone()).await.map_err(unavailable(doing))?;
        *lock(&self.control) = Some(channel);
        Ok(done)
    }

    /// Declares a pool's queues, once a connection.
    pub(super) async fn ensure_pool(
        &self,
        pool: &str,
        names: &topology::PoolNames,
    ) -> Result<(), QueueError> {
        if lock(&self.declared).contains(pool) {
            return Ok(());
        }
        self.control("declare the queues of a pool", async |channel| {
            topology::declare_pool(&channel, names).await
        })
        .await?;
        let mut declared = lock(&self.declared);
        if declared.len() >= DECLARED_MAX {
            declared.clear();
        }
        declared.insert(pool.to_owned());
        Ok(())
    }

    /// The pool's queues are not what they were: declares them again next time.
    pub(super) fn forget_pool(&self, pool: &str) {
        lock(&self.declared).remove(pool);
    }

    /// Does something on a channel in confirm mode on which nothing else is on
    /// its way. One that failed, or was left in the middle, is not used again.
    pub(super) async fn confirming<T, F>(
        &self,
        doing: &'static str,
        work: impl FnOnce(Channel) -> F,
    ) -> Result<T, QueueError>
    where
        F: Future<Output = lapin::Result<T>>,
    {
        let room = self.confirming_room.acquire().await;
        let _room = room.map_err(|_| QueueError::Closed)?;
        let kept = lock(&self.confirming).pop();
        let channel = match kept {
            Some(channel) if channel.status().connected() => channel,
            _ => {
                let channel = self.channel(doing).await?;
                let options = ConfirmSelectOptions::default();
                let made = channel.confirm_select(options).await;
                made.map_err(unavailable(doing))?;
                channel
            }
        };
        let done = work(channel.clone()).await.map_err(unavailable(doing))?;
        lock(&self.confirming).push(channel);
        Ok(done)
    }

    /// Where events to publish go.
    pub(super) fn events(&self) -> &mpsc::Sender<JobEvent> {
        &self.events
    }
}

/// Whether a declaration will never succeed as things are.
fn is_for_good(error: &lapin::Error) -> bool {
    matches!(
        code(error),
        Some(PRECONDITION_FAILED | super::error::ACCESS_REFUSED)
    )
}

fn blocked(doing: &'static str, reason: &str) -> QueueError {
    because(doing, format!("RabbitMQ takes no messages now: {reason}"))
}

/// Notices when the connection is lost, and when it is blocked.
async fn watch_over(
    health: Arc<Health>,
    status: lapin::ConnectionStatus,
    events: impl futures::Stream<Item = Event>,
) {
    let mut events = std::pin::pin!(events);
    let mut look = interval(LOOK_EVERY);
    loop {
        let event = tokio::select! {
            () = health.lost.cancelled() => return,
            event = events.next() => event,
            _ = look.tick() => {
                if status.connected() {
                    continue;
                }
                None
            }
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(reason, "RabbitMQ takes no messages");
                health.blocked.send_replace(Some(reason));
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!("RabbitMQ takes messages again");
                health.blocked.send_replace(None);
            }
            // Of a channel that failed, too: whoever used it knows.
            Some(Event::Error(error)) => {
                if !status.connected() {
                    return health.fail(describe(&error));
                }
            }
            None => return health.fail("the connection was lost"),
            Some(_) => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
