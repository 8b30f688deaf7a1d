//! A line to RabbitMQ that is kept up: when its connection is lost, all of it is
//! dropped, and a new one is made, again and again until it stands.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ConnectError, dial::Dialer, error::because, link::Link};
use crate::QueueError;

/// First and longest wait before the next attempt.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// A line that is kept up.
pub(super) struct Line {
    dialer: Arc<Dialer>,
    role: &'static str,
    state: watch::Sender<State>,
}

/// How a line is.
#[derive(Clone)]
pub(super) enum State {
    Up(Arc<Link>),
    /// With the reason.
    Down(String),
}

impl Line {
    pub(super) fn new(dialer: &Arc<Dialer>, role: &'static str) -> Arc<Self> {
        let reason = "not connected yet".to_owned();
        Arc::new(Self {
            dialer: Arc::clone(dialer),
            role,
            state: watch::Sender::new(State::Down(reason)),
        })
    }

    /// Makes one connection.
    pub(super) async fn open(&self, tasks: &TaskTracker) -> Result<Arc<Link>, ConnectError> {
        let link = Link::open(&self.dialer, self.role, tasks).await?;
        self.state.send_replace(State::Up(Arc::clone(&link)));
        Ok(link)
    }

    /// The connection, when it stands.
    pub(super) fn link(&self, doing: &'static str) -> Result<Arc<Link>, QueueError> {
        match &*self.state.borrow() {
            State::Up(link) => Ok(Arc::clone(link)),
            State::Down(reason) => Err(because(doing, reason.as_str())),
        }
    }

    /// To be told how it is.
    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Keeps the line up until it is told to stop.
    pub(super) async fn keep_up(
        self: Arc<Self>,
        mut link: Option<Arc<Link>>,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) {
        let mut wait = AGAIN.0;
        let mut told = String::new();
        loop {
            if let Some(link) = link.take() {
                tracing::info!(
                    rabbitmq = self.dialer.place(),
                    role = self.role,
                    "connected to RabbitMQ"
                );
                told.clear();
                let since = Instant::now();
                tokio::select! {
                    () = stop.cancelled() => {
                        self.down("it was closed, the process is stopping");
                        return link.close().await;
                    }
                    () = link.lost() => {}
                }
                let reason = link.reason();
                tracing::warn!(role = self.role, reason, "connection to RabbitMQ lost");
                self.down(&reason);
                // One that hangs must not hold up the next.
                tasks.spawn(async move { link.close().await });
                if since.elapsed() > AGAIN.1 {
                    wait = AGAIN.0;
                }
            }
            let opened = tokio::select! {
                () = stop.cancelled() => Err(None),
                opened = self.open(&tasks) => opened.map_err(Some),
            };
            match opened {
                Ok(opened) => {
                    link = Some(opened);
                    continue;
                }
                Err(None) => return self.down("it was closed, the process is stopping"),
                Err(Some(error)) => {
                    let error = error.to_string();
                    // Once, not every few seconds.
                    if told != error {
                        tracing::warn!(role = self.role, error, "connect to RabbitMQ");
                    }
                    self.down(&error);
                    told = error;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return self.down("it was closed, the process is stopping"),
                () = sleep(wait.mul_f64(rand::random_range(0.5..1.0))) => {}
            }
            wait = (wait * 2).min(AGAIN.1);
        }
    }

    fn down(&self, reason: &str) {
        self.state.send_replace(State::Down(reason.to_owned()));
    }
}
