//! Events: one queue a process, shared by all who watch in it.
//!
//! A task knows who watches what. On each new connection it declares the queue
//! and binds every subject that is watched; so streams outlive a connection, and
//! miss what happened while there was none.

use std::{collections::HashMap, sync::Arc};

use futures::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use proto::queue::v1::JobEvent;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    error::{because, unavailable},
    line::State,
    link::Link,
    message,
    topology::{PROGRESS, bind, declare_subscriber, encode},
};
use crate::{EventStream, QueueError, in_process::EVENTS_MAX};

/// Events that are sent before those before are acknowledged.
const PREFETCH: u16 = 512;
/// Events that are acknowledged at once at the most.
const BATCH: usize = 128;
const DOING: &str = "subscribe to events";

/// What is watched: one subject, or all.
type Watched = Option<String>;
type Answer = Result<broadcast::Receiver<JobEvent>, QueueError>;

enum Order {
    Subscribe(Watched, oneshot::Sender<Answer>),
    Leave(Watched),
}

/// Subscribes to events.
#[derive(Clone)]
pub(super) struct Bus {
    orders: mpsc::UnboundedSender<Order>,
}

impl Bus {
    /// A bus, and the task that serves it.
    pub(super) fn new(
        line: watch::Receiver<State>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (orders, received) = mpsc::unbounded_channel();
        let desk = Exchange {
            orders: received,
            subjects: HashMap::new(),
            session: None,
        };
        (Self { orders }, desk.run(line, stop))
    }

    /// Events of one subject, or of all.
    pub(super) async fn subscribe(&self, subject_id: Watched) -> Result<EventStream, QueueError> {
        let closed = || because(DOING, "it was closed, the process is stopping");
        let (answer, answered) = oneshot::channel();
        let order = Order::Subscribe(subject_id.clone(), answer);
        self.orders.send(order).map_err(|_| closed())?;
        // From here on somebody counts us, so somebody is told when we go.
        let leave = Leave {
            watched: subject_id,
            orders: self.orders.clone(),
        };
        let events = answered.await.map_err(|_| closed())??;
        Ok(EventStream::of_broadcast(events, leave))
    }
}

/// Tells that a subscriber went.
struct Leave {
    watched: Watched,
    orders: mpsc::UnboundedSender<Order>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Leave(self.watched.take()));
    }
}

/// Who watches what, and the queue from which they are served.
struct Exchange {
    orders: mpsc::UnboundedReceiver<Order>,
    subjects: HashMap<Watched, Subject>,
    session: Option<Session>,
}

/// Those who watch one subject.
struct Subject {
    events: broadcast::Sender<JobEvent>,
    subscribers: usize,
    /// Whether the queue of the present connection gets its events.
    bound: bool,
}

/// This process's queue on one connection.
struct Session {
    link: Arc<Link>,
    channel: Channel,
    queue: String,
    consumer: Consumer,
}

impl Exchange {
    async fn run(mut self, mut line: watch::Receiver<State>, stop: CancellationToken) {
        loop {
            if self.session.is_none() && !self.subjects.is_empty() {
                let state = line.borrow_and_update().clone();
                if let State::Up(link) = state {
                    self.begin(&link).await;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                order = self.orders.recv() => match order {
                    Some(Order::Subscribe(watched, answer)) => {
                        let state = line.borrow_and_update().clone();
                        self.subscribe(watched, &state, answer).await;
                    }
                    Some(Order::Leave(watched)) => self.leave(&watched).await,
                    None => return,
                },
                alive = receive(&mut self.session, &self.subjects) => if !alive {
                    self.session = None;
                },
                changed = line.changed() => match changed {
                    Ok(()) => self.look_after(&line.borrow_and_update().clone()),
                    Err(_) => return,
                },
            }
        }
    }

    /// The line has changed: a queue of a connection that is gone is gone too.
    fn look_after(&mut self, state: &State) {
        let same = match (state, &self.session) {
            (State::Up(link), Some(session)) => Arc::ptr_eq(link, &session.link),
            _ => false,
        };
        if !same {
            self.session = None;
        }
    }

    /// Begins anew on a connection, for all who watch.
    async fn begin(&mut self, link: &Arc<Link>) {
        for subject in self.subjects.values_mut() {
            subject.bound = false;
        }
        match Session::begin(link).await {
            Ok(session) => {
                for (watched, subject) in &mut self.subjects {
                    match session.bind(watched).await {
                        Ok(()) => subject.bound = true,
                        Err(error) => return give_up(link, &error),
                    }
                }
                self.session = Some(session);
            }
            Err(error) => give_up(link, &error),
        }
    }

    async fn subscribe(
        &mut self,
        watched: Watched,
        state: &State,
        answer: oneshot::Sender<Answer>,
    ) {
        let subject = self
            .subjects
            .entry(watched.clone())
            .or_insert_with(|| Subject {
                events: broadcast::Sender::new(EVENTS_MAX),
                subscribers: 0,
                bound: false,
            });
        subject.subscribers += 1;
        let events = subject.events.subscribe();
        let bound = match state {
            State::Up(link) => self.ensure_bound(&watched, link).await,
            State::Down(reason) => Err(because(DOING, reason.as_str())),
        };
        // Who does not wait for the answer any more leaves by itself.
        let _ = answer.send(bound.map(|()| events));
    }

    async fn ensure_bound(
        &mut self,
        watched: &Watched,
        link: &Arc<Link>,
    ) -> Result<(), QueueError> {
        if self.session.is_none() {
            self.begin(link).await;
        }
        let session = self.session.as_ref();
        let session = session.ok_or_else(|| because(DOING, "no queue for events"))?;
        let Some(subject) = self.subjects.get_mut(watched) else {
            return Ok(());
        };
        if !subject.bound {
            session.bind(watched).await?;
            subject.bound = true;
        }
        Ok(())
    }

    async fn leave(&mut self, watched: &Watched) {
        let Some(subject) = self.subjects.get_mut(watched) else {
            return;
        };
        subject.subscribers = subject.subscribers.saturating_sub(1);
        if subject.subscribers > 0 {
            return;
        }
        let bound = subject.bound;
        self.subjects.remove(watched);
        if let Some(session) = self.session.as_ref().filter(|_| bound)
            && let Err(error) = session.unbind(watched).await
        {
            tracing::debug!(%error, "unbind a subject");
            self.session = None;
        }
    }
}

/// Without its queue the process would watch nothing, and not know.
fn give_up(link: &Link, error: &QueueError) {
    link.fail(format!("no queue for events: {error}"));
}

impl Session {
    async fn begin(link: &Arc<Link>) -> Result<Self, QueueError> {
        link.within(DOING, async {
            let channel = link.channel(DOING).await?;
            let begun = async {
                let queue = declare_subscriber(&channel).await?;
                channel
                    .basic_qos(PREFETCH, BasicQosOptions::default())
                    .await?;
                let options = BasicConsumeOptions {
                    exclusive: true,
                    ..BasicConsumeOptions::default()
                };
                let name = queue.as_str().into();
                let consumer = channel
                    .basic_consume(name, "".into(), options, FieldTable::default())
                    .await?;
                Ok((queue, consumer))
            };
            let (queue, consumer) = begun.await.map_err(unavailable(DOING))?;
            Ok(Self {
                link: Arc::clone(link),
                channel,
                queue,
                consumer,
            })
        })
        .await
    }

    async fn bind(&self, watched: &Watched) -> Result<(), QueueError> {
        let key = key(watched);
        let bound = bind(&self.channel, &self.queue, PROGRESS, &key);
        let bound = async { bound.await.map_err(unavailable(DOING)) };
        self.link.within(DOING, bound).await
    }

    async fn unbind(&self, watched: &Watched) -> Result<(), QueueError> {
        let (queue, key) = (self.queue.as_str().into(), key(watched).as_str().into());
        let arguments = FieldTable::default();
        let unbound = self
            .channel
            .queue_unbind(queue, PROGRESS.into(), key, arguments);
        let unbound = async { unbound.await.map_err(unavailable(DOING)) };
        self.link.within(DOING, unbound).await
    }
}

fn key(watched: &Watched) -> String {
    watched.as_deref().map_or_else(|| "#".to_owned(), encode)
}

/// Brings some events to those who watch; false when the queue is gone.
async fn receive(session: &mut Option<Session>, subjects: &HashMap<Watched, Subject>) -> bool {
    let Some(session) = session else {
        return std::future::pending().await;
    };
    let mut next = session.consumer.next().await;
    for received in 1.. {
        let Some(Ok(delivery)) = next else {
            return false;
        };
        match message::read_event(&delivery) {
            Ok(event) => tell(subjects, event),
            Err(wrong) => tracing::debug!(wrong, "event cannot be read"),
        }
        // All that is there already, then one acknowledgement for them.
        let more = if received < BATCH {
            session.consumer.next().now_or_never()
        } else {
            None
        };
        let Some(more) = more else {
            let options = BasicAckOptions { multiple: true };
            return matches!(delivery.acker.ack(options).await, Ok(true));
        };
        next = more;
    }
    true
}

fn tell(subjects: &HashMap<Watched, Subject>, event: JobEvent) {
    // Sending fails only when nobody listens, which is fine.
    if let Some(subject) = subjects.get(&None) {
        let _ = subject.events.send(event.clone());
    }
    let watched = Some(event.subject_id.clone());
    if let Some(subject) = subjects.get(&watched) {
        let _ = subject.events.send(event);
    }
}
