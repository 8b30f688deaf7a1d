//! The messages of one pool.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{DEAD_LETTERS_KEPT, DELIVERIES_MAX, MANUAL_STREAK_MAX, POOL_MESSAGES_MAX};
use crate::{PoolDepth, Urgency, Wanted};

/// Word of a job.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) job_id: String,
    pub(super) urgency: Urgency,
    /// How often it was delivered.
    pub(super) deliveries: u32,
}

/// One pool: what waits, and who is to be woken.
#[derive(Debug, Default)]
pub(super) struct Pool {
    waiting: Mutex<Waiting>,
    /// Told after every change that a waiting consumer must see.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    manual: VecDeque<Message>,
    scheduled: VecDeque<Message>,
    /// Manual messages taken since a scheduled one was.
    manual_streak: u32,
    dead: VecDeque<String>,
    dead_total: u64,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change below is complete before anything can panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a new message; false when the pool is full.
    pub(super) fn publish(&self, message: Message) -> bool {
        {
            let mut waiting = self.lock();
            if waiting.manual.len() + waiting.scheduled.len() >= POOL_MESSAGES_MAX {
                return false;
            }
            waiting.push(message);
        }
        self.changed.notify_waiters();
        true
    }

    /// Takes the message whose turn it is, of those that are wanted.
    pub(super) fn take(&self, wanted: Wanted) -> Option<Message> {
        let mut waiting = self.lock();
        let scheduled_turn = wanted.accepts(Urgency::Scheduled)
            && (waiting.manual.is_empty()
                || (waiting.manual_streak >= MANUAL_STREAK_MAX && !waiting.scheduled.is_empty()));
        let message = if scheduled_turn {
            waiting.manual_streak = 0;
            waiting.scheduled.pop_front()
        } else {
            waiting.manual_streak = waiting.manual_streak.saturating_add(1);
            waiting.manual.pop_front()
        };
        message.map(|mut message| {
            message.deliveries += 1;
            message
        })
    }

    /// Takes a delivered message back, behind the others so that it blocks none.
    pub(super) fn requeue(&self, message: Message) {
        if message.deliveries >= DELIVERIES_MAX {
            tracing::error!(job_id = message.job_id, "message given up: dead letter");
            self.bury(message);
            return;
        }
        self.lock().push(message);
        self.changed.notify_waiters();
    }

    /// Puts a message aside.
    pub(super) fn bury(&self, message: Message) {
        let mut waiting = self.lock();
        waiting.dead_total += 1;
        if waiting.dead.len() == DEAD_LETTERS_KEPT {
            waiting.dead.pop_front();
        }
        waiting.dead.push_back(message.job_id);
    }

    /// The job ids of the last dead letters, oldest first.
    pub(super) fn dead_letters(&self) -> Vec<String> {
        self.lock().dead.iter().cloned().collect()
    }

    pub(super) fn depth(&self) -> PoolDepth {
        let waiting = self.lock();
        PoolDepth {
            manual: waiting.manual.len() as u64,
            scheduled: waiting.scheduled.len() as u64,
            dead_letters: waiting.dead_total,
        }
    }
}

impl Waiting {
    fn push(&mut self, message: Message) {
        match message.urgency {
            Urgency::Manual => self.manual.push_back(message),
            Urgency::Scheduled => self.scheduled.push_back(message),
        }
    }
}
