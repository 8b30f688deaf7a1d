//! The task of a consumer that gets messages from the queues: those that are wanted, and
//! when they are.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{StreamExt as _, future::try_join_all};
use lapin::{
    Acker, Channel, Consumer,
    message::Delivery as Message,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicGetOptions},
    types::FieldTable,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    super::{
        MANUAL_STREAK_MAX,
        error::{NOT_FOUND, code, unavailable},
        link::Link,
        message,
        topology::PoolNames,
    },
    DOING, Desk, Item, Order, nack,
};
use crate::{QueueError, Urgency, Wanted};

/// How long what nobody wants any more is kept, before it is given back.
const LINGER: Duration = Duration::from_millis(500);

/// How long a queue may take to say what it has. One that comes up after its broker may leave the
/// question unanswered for ever: it is asked again soon.
const GET_LIMIT: Duration = Duration::from_secs(4);

/// Fetches messages when they are wanted.
pub(super) struct Fetcher {
    link: Arc<Link>,
    channel: Channel,
    pool: String,
    names: PoolNames,
    desk: Arc<Desk>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// Came while one was on its way to the desk already.
    held: VecDeque<Item>,
    /// Manual messages handed out since a scheduled one was.
    manual_streak: u32,
    listening: Option<Listening>,
}

/// Consumers of the queues whose messages are wanted.
struct Listening {
    manual: Consumer,
    scheduled: Option<Consumer>,
}

impl Listening {
    fn hears(&self, wanted: Wanted) -> bool {
        self.scheduled.is_some() == wanted.accepts(Urgency::Scheduled)
    }
}

/// Why a fetcher ends.
enum End {
    /// Nobody needs it any more.
    Done,
    /// The channel or the connection is gone.
    Lost,
}

impl From<QueueError> for End {
    fn from(_: QueueError) -> Self {
        Self::Lost
    }
}

impl Fetcher {
    pub(super) fn new(
        link: &Arc<Link>,
        channel: Channel,
        pool: &str,
        names: PoolNames,
        desk: &Arc<Desk>,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Self {
        Self {
            link: Arc::clone(link),
            channel,
            pool: pool.to_owned(),
            names,
            desk: Arc::clone(desk),
            orders,
            held: VecDeque::new(),
            manual_streak: 0,
            listening: None,
        }
    }

    pub(super) async fn run(mut self) {
        let link = Arc::clone(&self.link);
        let end = tokio::select! {
            () = link.lost() => End::Lost,
            end = self.serve() => end,
        };
        self.desk.lock().closed = true;
        self.desk.ready.notify_waiters();
        if matches!(end, End::Lost) {
            // Perhaps its queues were deleted.
            self.link.forget_pool(&self.pool);
        }
        // What was not settled goes back with the channel.
        let closed = self.channel.close(200, "OK".into());
        let _ = self
            .link
            .within(DOING, async { Ok(closed.await.is_ok()) })
            .await;
    }

    async fn serve(&mut self) -> End {
        let mut idle_since = Instant::now();
        loop {
            match self.supply().await {
                Ok(()) => {}
                Err(end) => return end,
            }
            let idle = self.desk.lock().wanted.is_none() && self.has_something();
            let step = tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Look) => {
                        idle_since = Instant::now();
                        Ok(())
                    }
                    Some(Order::GiveBack(acker)) => self.give_back(&acker).await,
                    None => Err(End::Done),
                },
                came = hear(&mut self.listening) => match came {
                    Some((urgency, message)) => self.came(urgency, message).await,
                    None => Err(End::Lost),
                },
                () = sleep_until(idle_since + LINGER), if idle => self.rest().await,
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Brings an item to the desk when one is wanted, or listens for one.
    async fn supply(&mut self) -> Result<(), End> {
        let Some(wanted) = self.desk.lacks() else {
            return Ok(());
        };
        if let Some(listening) = &self.listening {
            if listening.hears(wanted) {
                return Ok(());
            }
            self.stop_listening().await?;
        }
        self.give_back_except(wanted).await?;
        match self.fetch(wanted).await? {
            Some(item) => {
                self.hand_out(item);
                Ok(())
            }
            None => self.listen(wanted).await,
        }
    }

    /// Others can have what is not wanted here any more.
    async fn give_back_except(&mut self, wanted: Wanted) -> Result<(), End> {
        let unwanted = |item: &mut Item| !wanted.accepts(item.urgency);
        let lying = self.desk.lock().item.take_if(unwanted);
        let (kept, held) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|item| wanted.accepts(item.urgency));
        self.held = kept;
        for item in lying.into_iter().chain::<VecDeque<_>>(held) {
            self.give_back(&item.acker).await?;
        }
        Ok(())
    }

    fn has_something(&self) -> bool {
        self.listening.is_some() || !self.held.is_empty() || self.desk.lock().item.is_some()
    }

    fn hand_out(&mut self, item: Item) {
        self.manual_streak = match item.urgency {
            Urgency::Manual => self.manual_streak.saturating_add(1),
            Urgency::Scheduled => 0,
        };
        self.desk.lock().item = Some(item);
        self.desk.ready.notify_waiters();
    }

    /// The message whose turn it is.
    async fn fetch(&mut self, wanted: Wanted) -> Result<Option<Item>, End> {
        let order = if self.manual_streak >= MANUAL_STREAK_MAX {
            [Urgency::Scheduled, Urgency::Manual]
        } else {
            [Urgency::Manual, Urgency::Scheduled]
        };
        for urgency in order.into_iter().filter(|urgency| wanted.accepts(*urgency)) {
            if let Some(place) = self.held.iter().position(|item| item.urgency == urgency) {
                return Ok(self.held.remove(place));
            }
            while let Some(message) = self.get(urgency).await? {
                if let Some(item) = self.read(urgency, message).await? {
                    return Ok(Some(item));
                }
            }
        }
        Ok(None)
    }

    async fn get(&self, urgency: Urgency) -> Result<Option<Message>, QueueError> {
        let queue = self.names.jobs(urgency);
        let got = self.link.within_limit(GET_LIMIT, DOING, async {
            let got = self
                .channel
                .basic_get(queue.into(), BasicGetOptions::default())
                .await;
            got.map_err(|error| {
                if code(&error) == Some(NOT_FOUND) {
                    tracing::warn!(queue, "queue deleted: it is declared again");
                }
                unavailable(DOING)(error)
            })
        });
        Ok(got.await?.map(|got| got.delivery))
    }

    /// Listens to the queues of what is wanted.
    async fn listen(&mut self, wanted: Wanted) -> Result<(), End> {
        let (manual, scheduled) = self
            .link
            .within(DOING, async {
                let scheduled = async {
                    if wanted.accepts(Urgency::Scheduled) {
                        self.listen_to(Urgency::Scheduled).await.map(Some)
                    } else {
                        Ok(None)
                    }
                };
                futures::try_join!(self.listen_to(Urgency::Manual), scheduled)
                    .map_err(unavailable(DOING))
            })
            .await?;
        self.listening = Some(Listening { manual, scheduled });
        Ok(())
    }

    async fn listen_to(&self, urgency: Urgency) -> lapin::Result<Consumer> {
        let queue = self.names.jobs(urgency);
        let options = BasicConsumeOptions::default();
        let consumer =
            self.channel
                .basic_consume(queue.into(), "".into(), options, FieldTable::default());
        consumer.await
    }

    /// A message came while it listened.
    async fn came(&mut self, urgency: Urgency, message: Message) -> Result<(), End> {
        let Some(item) = self.read(urgency, message).await? else {
            return Ok(());
        };
        let lacks = self.desk.lacks();
        if lacks.is_some_and(|wanted| wanted.accepts(item.urgency)) {
            self.hand_out(item);
        } else {
            self.held.push_back(item);
        }
        self.stop_listening().await
    }

    /// Stops; what came in the meantime is held.
    async fn stop_listening(&mut self) -> Result<(), End> {
        let Some(Listening { manual, scheduled }) = self.listening.take() else {
            return Ok(());
        };
        let scheduled = scheduled.map(|consumer| (Urgency::Scheduled, consumer));
        let consumers: Vec<_> = [(Urgency::Manual, manual)]
            .into_iter()
            .chain(scheduled)
            .collect();
        self.link
            .within(DOING, async {
                let cancelled = consumers.iter().map(|(_, consumer)| {
                    let options = BasicCancelOptions::default();
                    self.channel.basic_cancel(consumer.tag(), options)
                });
                try_join_all(cancelled).await.map_err(unavailable(DOING))
            })
            .await?;
        for (urgency, mut consumer) in consumers {
            // Ends where it was cancelled.
            while let Some(message) = consumer.next().await {
                let message = message.map_err(|_| End::Lost)?;
                if let Some(item) = self.read(urgency, message).await? {
                    self.held.push_back(item);
                }
            }
        }
        Ok(())
    }

    /// Nobody wants anything: gives back all there is.
    async fn rest(&mut self) -> Result<(), End> {
        self.stop_listening().await?;
        let undelivered = self.desk.lock().item.take();
        for item in undelivered
            .into_iter()
            .chain(std::mem::take(&mut self.held))
        {
            self.give_back(&item.acker).await?;
        }
        Ok(())
    }

    async fn give_back(&self, acker: &Acker) -> Result<(), End> {
        self.refuse(acker, true).await
    }

    async fn refuse(&self, acker: &Acker, requeue: bool) -> Result<(), End> {
        let refused = self.link.within(DOING, async {
            let refused = acker.nack(nack(requeue)).await;
            refused.map_err(unavailable(DOING))
        });
        if refused.await? {
            return Ok(());
        }
        Err(End::Lost)
    }

    /// The job that a message is about; what is none of ours is put aside.
    async fn read(&self, urgency: Urgency, message: Message) -> Result<Option<Item>, End> {
        match message::read_job(&message) {
            Ok(job_id) => Ok(Some(Item {
                job_id,
                urgency,
                redelivered: message.redelivered,
                acker: message.acker,
            })),
            Err(wrong) => {
                tracing::error!(
                    queue = self.names.jobs(urgency),
                    body_bytes = message.data.len(),
                    wrong,
                    "message of the queue cannot be read: dead letter"
                );
                self.refuse(&message.acker, false).await?;
                Ok(None)
            }
        }
    }
}

/// The next message of either queue; `None` when one of them is gone.
async fn hear(listening: &mut Option<Listening>) -> Option<(Urgency, Message)> {
    let Some(Listening { manual, scheduled }) = listening else {
        return std::future::pending().await;
    };
    let (urgency, message) = tokio::select! {
        biased;
        message = manual.next() => (Urgency::Manual, message),
        message = async {
            match scheduled {
                Some(scheduled) => scheduled.next().await,
                None => std::future::pending().await,
            }
        } => (Urgency::Scheduled, message),
    };
    Some((urgency, message?.ok()?))
}
