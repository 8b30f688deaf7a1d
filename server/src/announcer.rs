//! Tells other services how jobs ended: each end as a CloudEvent (version 1.0, JSON), at least
//! once, under an id that stays the same. `docs/events.md` is the contract.
//!
//! Ends wait in the catalog, written in the transaction that ended the job. Any number of replicas
//! may run this: each takes a page into its hands for a while.

use std::{sync::Arc, time::Duration};

use catalog::Announcement;
use jiff::Timestamp;
use serde_json::json;

use crate::{backoff::rounds, clock::now_ms, state::State, status::ApiError};

/// How often to look.
const POLL: Duration = Duration::from_secs(1);
/// Announcements in one round at the most.
const PAGE: u64 = 100;
/// How long a page is this replica's.
const HOLD: Duration = Duration::from_secs(30);
/// What all kinds begin with.
const KIND: &str = "nora.backup.v1";

/// Runs until the server is told to stop.
pub async fn run(state: Arc<State>) {
    let stop = state.stop.asked.clone();
    let doing = "announce ends of jobs; they are kept and tried again";
    rounds(stop, doing, || round(state.clone())).await;
}

/// Answers when the next one is: at once while there may be more.
async fn round(state: Arc<State>) -> Result<Duration, ApiError> {
    let announced = announce(&state).await?;
    Ok(if announced >= PAGE {
        Duration::ZERO
    } else {
        POLL
    })
}

/// One round; tells how many there were.
async fn announce(state: &State) -> Result<u64, ApiError> {
    let catalog = &state.catalog;
    let hold_ms = HOLD.as_millis() as i64;
    let page = catalog.claim_announcements(PAGE, hold_ms, now_ms()).await?;
    let mut done = Vec::new();
    let mut failure = None;
    for announcement in &page {
        match state.announcer.announce(&event(announcement)).await {
            Ok(()) => done.push(announcement.announcement_id.clone()),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    if !done.is_empty() {
        fail::fail_point!("announcer-before-mark");
        catalog.announced(&done).await?;
    }
    let Some(failure) = failure else {
        return Ok(page.len() as u64);
    };
    let rest: Vec<String> = page
        .iter()
        .skip(done.len())
        .map(|announcement| announcement.announcement_id.clone())
        .collect();
    catalog.release_announcements(&rest).await?;
    Err(failure.into())
}

fn time(ms: i64) -> Option<String> {
    Timestamp::from_millisecond(ms)
        .ok()
        .map(|time| time.to_string())
}

/// The CloudEvent of an end.
fn event(announcement: &Announcement) -> queue::Announcement {
    let ended = &announcement.ended;
    if ended.kind == "storage" {
        return storage_event(announcement);
    }
    let kind = format!("{KIND}.{}.{}", ended.kind, ended.state);
    let failure = (!ended.reason.is_empty())
        .then(|| json!({ "reason": ended.reason, "message": ended.message }));
    let body = json!({
        "specversion": "1.0",
        "id": announcement.announcement_id,
        "source": "/nora/backup",
        "type": kind,
        "subject": ended.subject_id,
        "time": time(ended.end_time_ms),
        "datacontenttype": "application/json",
        "data": {
            "kind": ended.kind,
            "state": ended.state,
            "subjectId": ended.subject_id,
            "jobId": ended.job_id,
            "agentId": ended.agent_id,
            "ownerId": ended.owner_id,
            "failure": failure,
            "attempts": ended.attempts,
            "createTime": time(ended.create_time_ms),
            "endTime": time(ended.end_time_ms),
            "sizeBytes": ended.size_bytes,
            "storedBytes": ended.stored_bytes,
        },
    });
    queue::Announcement {
        id: announcement.announcement_id.clone(),
        kind,
        body: body.to_string().into_bytes(),
    }
}

/// The CloudEvent of a level of the storage that was reached or left.
fn storage_event(announcement: &Announcement) -> queue::Announcement {
    let level = &announcement.ended;
    let kind = format!("{KIND}.{}.{}", level.kind, level.state);
    let body = json!({
        "specversion": "1.0",
        "id": announcement.announcement_id,
        "source": "/nora/backup",
        "type": kind,
        "time": time(level.end_time_ms),
        "datacontenttype": "application/json",
        "data": {
            "kind": level.kind,
            "state": level.state,
            "storedBytes": level.stored_bytes,
            "limitBytes": level.limit_bytes,
        },
    });
    queue::Announcement {
        id: announcement.announcement_id.clone(),
        kind,
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use proto::queue::v1::JobEnded;

    use super::*;

    #[test]
    fn an_end_is_a_cloud_event() {
        let event = event(&Announcement {
            announcement_id: "id-1".to_owned(),
            ended: JobEnded {
                version: 1,
                kind: "backup".to_owned(),
                state: "failed".to_owned(),
                subject_id: "backup-1".to_owned(),
                reason: "WORKER_LOST".to_owned(),
                message: "gone".to_owned(),
                end_time_ms: 1_800_000_000_123,
                ..JobEnded::default()
            },
        });
        assert_eq!(event.kind, "nora.backup.v1.backup.failed");
        let body: serde_json::Value = serde_json::from_slice(&event.body).unwrap();
        for (field, value) in [
            ("specversion", "1.0"),
            ("id", "id-1"),
            ("type", "nora.backup.v1.backup.failed"),
            ("subject", "backup-1"),
            ("time", "2027-01-15T08:00:00.123Z"),
        ] {
            assert_eq!(body[field], value, "{body}");
        }
        assert_eq!(body["data"]["failure"]["reason"], "WORKER_LOST");
    }
}
