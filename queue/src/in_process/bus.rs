//! The event bus inside one process: one broadcast channel a subject that
//! somebody watches, and one for those who watch everything.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use proto::queue::v1::JobEvent;
use tokio::sync::broadcast;

use super::EVENTS_MAX;
use crate::{EventBus, EventStream, QueueError};

/// An event bus inside one process. Clones are the same bus.
#[derive(Clone, Debug)]
pub struct InProcessBus {
    all: broadcast::Sender<JobEvent>,
    subjects: Arc<Subjects>,
}

#[derive(Debug, Default)]
struct Subjects(Mutex<HashMap<String, broadcast::Sender<JobEvent>>>);

impl Subjects {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, broadcast::Sender<JobEvent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InProcessBus {
    /// A bus with nobody on it.
    pub fn new() -> Self {
        Self {
            all: broadcast::Sender::new(EVENTS_MAX),
            subjects: Arc::default(),
        }
    }

    /// Subjects that somebody watches.
    pub fn watched_subjects(&self) -> usize {
        self.subjects.lock().len()
    }
}

impl Default for InProcessBus {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl EventBus for InProcessBus {
    async fn publish(&self, event: JobEvent) -> Result<(), QueueError> {
        // Sending fails only when nobody listens, which is fine.
        if let Some(sender) = self.subjects.lock().get(&event.subject_id) {
            let _ = sender.send(event.clone());
        }
        let _ = self.all.send(event);
        Ok(())
    }

    async fn subscribe(&self, subject_id: &str) -> Result<EventStream, QueueError> {
        let receiver = self
            .subjects
            .lock()
            .entry(subject_id.to_owned())
            .or_insert_with(|| broadcast::Sender::new(EVENTS_MAX))
            .subscribe();
        let guard = SubjectGuard {
            subject_id: subject_id.to_owned(),
            subjects: Arc::clone(&self.subjects),
        };
        Ok(EventStream::of_broadcast(receiver, guard))
    }

    async fn subscribe_all(&self) -> Result<EventStream, QueueError> {
        Ok(EventStream::of_broadcast(self.all.subscribe(), ()))
    }
}

/// Forgets a subject when its last subscriber goes.
struct SubjectGuard {
    subject_id: String,
    subjects: Arc<Subjects>,
}

impl Drop for SubjectGuard {
    fn drop(&mut self) {
        let mut subjects = self.subjects.lock();
        if subjects
            .get(&self.subject_id)
            .is_some_and(|sender| sender.receiver_count() == 0)
        {
            subjects.remove(&self.subject_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subject_is_forgotten_with_its_last_subscriber() {
        let bus = InProcessBus::new();
        let first = bus.subscribe("backup").await.unwrap();
        let second = bus.subscribe("backup").await.unwrap();
        drop(first);
        assert_eq!(bus.watched_subjects(), 1);
        drop(second);
        assert_eq!(bus.watched_subjects(), 0);
    }
}
