//! What messages look like on the wire.

use lapin::{BasicProperties, message::Delivery};
use prost::Message as _;
use proto::queue::v1::{JobEvent, JobMessage};

use crate::{Announcement, EVENT_VERSION};

/// The version of word of a job.
const VERSION: u32 = 1;
const PROTOBUF: &str = "application/x-protobuf";
const CLOUD_EVENT: &str = "application/cloudevents+json; charset=utf-8";
const JOB: &str = "nora.queue.v1.JobMessage";
const EVENT: &str = "nora.queue.v1.JobEvent";
const APPLICATION: &str = "nora-backup";
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;
/// Longest id of a job that is taken for one.
const JOB_ID_BYTES_MAX: usize = 255;

pub(super) fn job(job_id: &str) -> (BasicProperties, Vec<u8>) {
    let message = JobMessage {
        version: VERSION,
        job_id: job_id.to_owned(),
    };
    (
        properties(PROTOBUF, JOB, PERSISTENT),
        message.encode_to_vec(),
    )
}

/// The id of the job, or what is wrong with the message.
pub(super) fn read_job(delivery: &Delivery) -> Result<String, String> {
    expect(delivery, JOB)?;
    let message = JobMessage::decode(delivery.data.as_slice())
        .map_err(|error| format!("its body is no {JOB}: {error}"))?;
    if message.version != VERSION {
        return Err(format!(
            "it has version {}, known is {VERSION}",
            message.version
        ));
    }
    if message.job_id.is_empty() || message.job_id.len() > JOB_ID_BYTES_MAX {
        return Err(format!("its job id has {} bytes", message.job_id.len()));
    }
    Ok(message.job_id)
}

pub(super) fn event(event: &JobEvent) -> (BasicProperties, Vec<u8>) {
    (
        properties(PROTOBUF, EVENT, TRANSIENT),
        event.encode_to_vec(),
    )
}

/// The event, or what is wrong with the message.
pub(super) fn read_event(delivery: &Delivery) -> Result<JobEvent, String> {
    expect(delivery, EVENT)?;
    let event = JobEvent::decode(delivery.data.as_slice())
        .map_err(|error| format!("its body is no {EVENT}: {error}"))?;
    if event.version != EVENT_VERSION {
        return Err(format!(
            "it has version {}, known is {EVENT_VERSION}",
            event.version
        ));
    }
    Ok(event)
}

pub(super) fn announcement(announcement: &Announcement) -> (BasicProperties, Vec<u8>) {
    let properties = properties(CLOUD_EVENT, &announcement.kind, PERSISTENT)
        .with_message_id(announcement.id.as_str().into());
    (properties, announcement.body.clone())
}

fn properties(content_type: &str, kind: &str, delivery_mode: u8) -> BasicProperties {
    BasicProperties::default()
        .with_content_type(content_type.into())
        .with_type(kind.into())
        .with_delivery_mode(delivery_mode)
        .with_app_id(APPLICATION.into())
}

fn expect(delivery: &Delivery, kind: &str) -> Result<(), String> {
    let properties = &delivery.properties;
    let found = properties.content_type().as_ref();
    let found = found.map_or("", |content_type| content_type.as_str());
    if found != PROTOBUF {
        return Err(format!("its content type is {found:?}, not {PROTOBUF:?}"));
    }
    let found = properties.kind().as_ref().map_or("", |kind| kind.as_str());
    if found != kind {
        return Err(format!("its type is {found:?}, not {kind:?}"));
    }
    Ok(())
}
