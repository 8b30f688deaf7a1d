//! The checks of an event bus.

use futures::StreamExt as _;
use proto::queue::v1::JobEvent;

use super::{never, unique, within};
use crate::{EventBus, EventStream};

fn event(subject_id: &str, job_id: &str) -> JobEvent {
    JobEvent {
        version: 1,
        subject_id: subject_id.to_owned(),
        job_id: job_id.to_owned(),
        ..JobEvent::default()
    }
}

async fn next(stream: &mut EventStream) -> JobEvent {
    within("an event", stream.next()).await.expect("an event")
}

async fn publish(bus: &dyn EventBus, event: JobEvent) {
    bus.publish(event).await.expect("publish");
}

pub(super) async fn brings_only_the_subjects_events(bus: &dyn EventBus) {
    let (one, other) = (unique("subject"), unique("subject"));
    let mut stream = bus.subscribe(&one).await.expect("subscribe");
    publish(bus, event(&other, "job-1")).await;
    publish(bus, event(&one, "job-2")).await;
    let sent = next(&mut stream).await;
    assert_eq!(sent, event(&one, "job-2"));
    never("another event", stream.next()).await;
}

pub(super) async fn brings_all_events_to_those_who_want_all(bus: &dyn EventBus) {
    let (one, other) = (unique("subject"), unique("subject"));
    let stream = bus.subscribe_all().await.expect("subscribe");
    // Others may use the bus too: only our subjects count.
    let mine = [one.clone(), other.clone()];
    let mut stream = EventStream::new(
        stream.filter(move |event| std::future::ready(mine.contains(&event.subject_id))),
    );
    publish(bus, event(&one, "job-1")).await;
    publish(bus, event(&other, "job-2")).await;
    assert_eq!(next(&mut stream).await.job_id, "job-1");
    assert_eq!(next(&mut stream).await.job_id, "job-2");
}

pub(super) async fn brings_each_event_to_every_subscriber(bus: &dyn EventBus) {
    let subject = unique("subject");
    let mut first = bus.subscribe(&subject).await.expect("subscribe");
    let mut second = bus.subscribe(&subject).await.expect("subscribe");
    publish(bus, event(&subject, "job-1")).await;
    assert_eq!(next(&mut first).await.job_id, "job-1");
    assert_eq!(next(&mut second).await.job_id, "job-1");
    drop(first);
    publish(bus, event(&subject, "job-2")).await;
    assert_eq!(next(&mut second).await.job_id, "job-2");
}

/// A subscriber that reads nothing costs a bounded buffer: publishing goes on,
/// and in the end it has lost the oldest, not the newest.
pub(super) async fn does_not_wait_for_slow_subscribers(bus: &dyn EventBus) {
    let subject = unique("subject");
    let mut slow = bus.subscribe(&subject).await.expect("subscribe");
    let count = 20_000_u32;
    within("publishing", async {
        for number in 0..count {
            publish(bus, event(&subject, &number.to_string())).await;
        }
    })
    .await;
    let newest = (count - 1).to_string();
    let mut received = 0_u32;
    loop {
        received += 1;
        if next(&mut slow).await.job_id == newest {
            break;
        }
    }
    assert!(received < count, "the buffer has no bound");
}

pub(super) async fn publishes_to_nobody(bus: &dyn EventBus) {
    publish(bus, event(&unique("subject"), "job-1")).await;
}
