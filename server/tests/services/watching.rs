//! Watch streams over the network.

use std::sync::Arc;

use async_trait::async_trait;
use catalog::Failure;
use proto::{
    backup::v1::{
        Phase, Progress, VerifyBackupRequest, WatchBackupRequest, WatchVerificationRequest, backup,
    },
    queue::v1::JobEvent,
};
use queue::{EventBus, EventStream, QueueError};

use crate::harness::{Rig, file, folder, now_ms};

/// A bus that loses everything.
struct LostBus;

#[async_trait]
impl EventBus for LostBus {
    async fn publish(&self, _: JobEvent) -> Result<(), QueueError> {
        Err(QueueError::Closed)
    }

    async fn subscribe(&self, _: &str) -> Result<EventStream, QueueError> {
        Ok(EventStream::new(futures::stream::empty()))
    }

    async fn subscribe_all(&self) -> Result<EventStream, QueueError> {
        Err(QueueError::Closed)
    }
}

#[tokio::test]
async fn the_end_is_true_although_every_event_is_lost() {
    let rig = Rig::start_on_bus(Arc::new(LostBus)).await;
    rig.register("one", "ann").await;
    let backup_id = rig.create("one", "ann").await.backup_id;
    let request = WatchBackupRequest {
        backup_id: backup_id.clone(),
    };
    let mut stream = rig
        .backups("ann")
        .watch_backup(request)
        .await
        .unwrap()
        .into_inner();
    let first = stream.message().await.unwrap().unwrap().backup.unwrap();
    assert_eq!(first.state(), backup::State::Pending);
    assert_eq!(first.progress.unwrap().phase(), Phase::Queued);
    let fence = rig.claim(&backup_id).await;
    let failure = Failure {
        reason: "SOURCE_NOT_FOUND".into(),
        message: "the folder is gone".into(),
    };
    rig.catalog
        .fail_job(&fence, failure, false, now_ms())
        .await
        .unwrap();
    let mut last = first.state;
    let mut why = None;
    while let Some(message) = stream.message().await.unwrap() {
        let backup = message.backup.unwrap();
        (last, why) = (backup.state, backup.failure);
    }
    assert_eq!(last, i32::from(backup::State::Failed));
    assert_eq!(why.unwrap().reason, "SOURCE_NOT_FOUND");
}

#[tokio::test]
async fn events_show_progress_before_the_catalog_does() {
    let rig = Rig::start().await;
    rig.register("one", "ann").await;
    let backup_id = rig.create("one", "ann").await.backup_id;
    rig.claim(&backup_id).await;
    let request = WatchBackupRequest {
        backup_id: backup_id.clone(),
    };
    let mut client = rig.backups("ann");
    let mut stream = client.watch_backup(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let progress = Progress {
        phase: Phase::Transferring.into(),
        attempt: 1,
        bytes_done: 77,
        update_time: Some(prost_types::Timestamp {
            seconds: now_ms() / 1_000 + 60,
            nanos: 0,
        }),
        ..Progress::default()
    };
    let event = JobEvent {
        version: 1,
        subject_id: backup_id,
        progress: Some(progress),
        ..JobEvent::default()
    };
    rig.bus.publish(event).await.unwrap();
    loop {
        let message = stream.message().await.unwrap().unwrap();
        if message.backup.unwrap().progress.unwrap().bytes_done == 77 {
            break;
        }
    }
}

#[tokio::test]
async fn a_verification_tells_what_it_found() {
    let rig = Rig::start().await;
    rig.register("one", "ann").await;
    let files = [folder(""), file("a", "x")];
    let backup_id = rig.completed("one", "ann", &files).await.backup_id;
    for found in [
        None,
        Some(Failure {
            reason: "OBJECT_CORRUPT".into(),
            message: "packs/1 is not what was written".into(),
        }),
    ] {
        let request = VerifyBackupRequest {
            backup_id: backup_id.clone(),
            ..VerifyBackupRequest::default()
        };
        let mut client = rig.backups("ann");
        let answer = client.verify_backup(request).await.unwrap();
        let verification_id = answer.into_inner().verification_id;
        let request = WatchVerificationRequest {
            backup_id: backup_id.clone(),
            verification_id: verification_id.clone(),
        };
        let mut stream = client
            .watch_verification(request)
            .await
            .unwrap()
            .into_inner();
        let first = stream.message().await.unwrap().unwrap();
        assert_eq!(first.progress.unwrap().phase(), Phase::Queued);
        let claim = rig
            .catalog
            .claim_job(&verification_id, "test", 60_000, now_ms())
            .await;
        let catalog::ClaimOutcome::Claimed(lease) = claim.unwrap() else {
            panic!("not claimed")
        };
        rig.catalog
            .complete_verify(&lease.fence(), found.clone(), None, now_ms())
            .await
            .unwrap();
        let mut last = None;
        while let Some(message) = stream.message().await.unwrap() {
            last = Some(message);
        }
        let last = last.unwrap();
        assert_eq!(last.progress.unwrap().phase(), Phase::Ended);
        assert_eq!(last.verify_time.is_some(), found.is_none());
        assert_eq!(last.failure, found);
    }
}
