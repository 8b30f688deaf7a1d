//! What is another's is answered as what does not exist: the same words, the same details.

// Some requests have one field only.
#![allow(clippy::needless_update)]

use std::future::Future;

use futures::StreamExt as _;
use proto::backup::v1::*;
use tonic::{Code, Response, Status, Streaming};

use crate::harness::{Rig, file, folder};

/// A status as a caller sees it, with the id it named taken out.
fn seen(status: &Status, id: &str) -> (Code, String, Vec<u8>) {
    let hidden = "#".repeat(id.len());
    let details = String::from_utf8_lossy(status.details()).replace(id, &hidden);
    (
        status.code(),
        status.message().replace(id, &hidden),
        details.into_bytes(),
    )
}

/// Asks for another's, and for what is not there, of the same length.
async fn same<T, F>(what: &str, foreign: &str, ask: impl Fn(String) -> F)
where
    F: Future<Output = Result<T, Status>>,
{
    let missing = match foreign.rsplit_once('-') {
        Some((head, tail)) => format!("{head}-{}", "0".repeat(tail.len())),
        None => "z".repeat(foreign.len()),
    };
    let Err(theirs) = ask(foreign.to_owned()).await else {
        panic!("{what}: another's was shown");
    };
    let Err(nothing) = ask(missing.clone()).await else {
        panic!("{what}: what is not there was shown");
    };
    assert_eq!(theirs.code(), Code::NotFound, "{what}: {theirs:?}");
    assert_eq!(seen(&theirs, foreign), seen(&nothing, &missing), "{what}");
}

/// A stream's first answer, wherever the status comes.
async fn first<T>(answer: Result<Response<Streaming<T>>, Status>) -> Result<T, Status> {
    answer?.into_inner().next().await.unwrap()
}

#[tokio::test]
async fn anothers_is_as_what_does_not_exist() {
    let rig = Rig::start().await;
    rig.register("anns-agent", "ann").await;
    let backup = rig
        .completed("anns-agent", "ann", &[folder(""), file("a", "x")])
        .await
        .backup_id;
    let draft = CreateRestoreDraftRequest {
        backup_id: backup.clone(),
        ..CreateRestoreDraftRequest::default()
    };
    let restore = rig.restores("ann").create_restore_draft(draft).await;
    let restore = restore.unwrap().into_inner().restore.unwrap().restore_id;
    let request = VerifyBackupRequest {
        backup_id: backup.clone(),
        ..VerifyBackupRequest::default()
    };
    let verification = rig.backups("ann").verify_backup(request).await.unwrap();
    let verification = verification.into_inner().verification_id;

    // Bob has one of everything, so that his own may be mixed with Ann's.
    rig.register("bobs-agent", "bob").await;
    let bobs = rig
        .completed("bobs-agent", "bob", &[folder("")])
        .await
        .backup_id;
    let request = VerifyBackupRequest {
        backup_id: bobs.clone(),
        ..VerifyBackupRequest::default()
    };
    let bobs_verification = rig.backups("bob").verify_backup(request).await.unwrap();
    let bobs_verification = bobs_verification.into_inner().verification_id;

    let agents = rig.agents("bob", "user");
    let backups = rig.backups("bob");
    let restores = rig.restores("bob");

    macro_rules! same {
        ($client:ident.$method:ident, $request:ident { $field:ident }, $id:expr) => {
            same!(
                $client.$method,
                $request { $field },
                $id,
                |request: $request| request
            )
        };
        ($client:ident.$method:ident, $request:ident { $field:ident }, $id:expr, $with:expr) => {
            same(stringify!($method), &$id, |id| {
                let mut client = $client.clone();
                let request = ($with)($request {
                    $field: id,
                    ..$request::default()
                });
                async move { client.$method(request).await }
            })
            .await
        };
        (stream $client:ident.$method:ident, $request:ident { $field:ident }, $id:expr, $with:expr) => {
            same(stringify!($method), &$id, |id| {
                let mut client = $client.clone();
                let request = ($with)($request {
                    $field: id,
                    ..$request::default()
                });
                async move { first(client.$method(request).await).await }
            })
            .await
        };
    }

    let agent = "anns-agent".to_owned();
    same!(agents.get_agent, GetAgentRequest { agent_id }, agent);
    same!(
        backups.create_backup,
        CreateBackupRequest { agent_id },
        agent
    );
    let schedules = rig.schedules("bob");
    same!(
        schedules.get_schedule,
        GetScheduleRequest { agent_id },
        agent
    );
    same!(
        schedules.delete_schedule,
        DeleteScheduleRequest { agent_id },
        agent
    );
    same!(
        schedules.preview_retention,
        PreviewRetentionRequest { agent_id },
        agent
    );
    same("update_schedule", &agent, |agent_id| {
        let mut client = schedules.clone();
        let schedule = Some(Schedule {
            agent_id,
            ..Schedule::default()
        });
        let request = UpdateScheduleRequest {
            schedule,
            allow_missing: true,
            ..UpdateScheduleRequest::default()
        };
        async move { client.update_schedule(request).await }
    })
    .await;
    same("update_backup", &backup, |backup_id| {
        let mut client = backups.clone();
        let request = UpdateBackupRequest {
            backup: Some(Backup {
                backup_id,
                ..Backup::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["protected".to_owned()],
            }),
        };
        async move { client.update_backup(request).await }
    })
    .await;
    same!(backups.list_backups, ListBackupsRequest { agent_id }, agent);
    same!(
        backups.get_storage_usage,
        GetStorageUsageRequest { agent_id },
        agent
    );
    same!(backups.get_backup, GetBackupRequest { backup_id }, backup);
    same!(
        backups.cancel_backup,
        CancelBackupRequest { backup_id },
        backup
    );
    same!(
        backups.delete_backup,
        DeleteBackupRequest { backup_id },
        backup
    );
    same!(
        backups.list_backup_entries,
        ListBackupEntriesRequest { backup_id },
        backup
    );
    same!(
        backups.verify_backup,
        VerifyBackupRequest { backup_id },
        backup
    );
    same!(stream backups.watch_backup, WatchBackupRequest { backup_id }, backup, |it| it);
    same!(stream backups.download_backup, DownloadBackupRequest { backup_id }, backup, |it| it);
    same!(stream backups.download_backup, DownloadBackupRequest { backup_id }, backup,
        |it| DownloadBackupRequest { offset: 5, etag: "wrong".into(), ..it });
    same!(stream backups.download_entry, DownloadEntryRequest { backup_id }, backup,
        |it| DownloadEntryRequest { path: b"a".to_vec(), ..it });
    // The right pair, of another; and Ann's verification of Bob's backup, and the other way round.
    same!(stream backups.watch_verification, WatchVerificationRequest { backup_id }, backup,
        |it| WatchVerificationRequest { verification_id: verification.clone(), ..it });
    same!(stream backups.watch_verification, WatchVerificationRequest { backup_id }, backup,
        |it| WatchVerificationRequest { verification_id: bobs_verification.clone(), ..it });
    same!(stream backups.watch_verification, WatchVerificationRequest { verification_id }, verification,
        |it| WatchVerificationRequest { backup_id: bobs.clone(), ..it });
    same!(
        restores.create_restore_draft,
        CreateRestoreDraftRequest { backup_id },
        backup
    );
    same!(
        restores.list_restores,
        ListRestoresRequest { backup_id },
        backup
    );
    same!(
        restores.get_restore,
        GetRestoreRequest { restore_id },
        restore
    );
    same!(
        restores.start_restore,
        StartRestoreRequest { restore_id },
        restore
    );
    same!(
        restores.start_restore,
        StartRestoreRequest { restore_id },
        restore,
        |it| StartRestoreRequest {
            choices: [("port:1/tcp".into(), "x".into())].into(),
            ..it
        }
    );
    same!(
        restores.cancel_restore,
        CancelRestoreRequest { restore_id },
        restore
    );
    same!(stream restores.watch_restore, WatchRestoreRequest { restore_id }, restore, |it| it);

    // Nothing of Ann's shows in Bob's lists, whatever he asks for.
    let list = ListAgentsRequest {
        owner_id: "ann".into(),
        ..ListAgentsRequest::default()
    };
    let shown = rig.agents("bob", "user").list_agents(list).await.unwrap();
    assert!(shown.get_ref().agents.is_empty());
    let (mut backups, mut restores) = (backups, restores);
    let shown = backups.list_backups(ListBackupsRequest::default()).await;
    let shown = shown.unwrap().into_inner().backups;
    assert!(shown.iter().all(|backup| backup.agent_id == "bobs-agent"));
    let shown = restores.list_restores(ListRestoresRequest::default()).await;
    assert!(shown.unwrap().get_ref().restores.is_empty());
    let usage = backups
        .get_storage_usage(GetStorageUsageRequest::default())
        .await;
    assert_eq!(usage.unwrap().get_ref().backups, 1);

    // And Ann's is as it was.
    let mut ann = rig.backups("ann");
    let request = GetBackupRequest { backup_id: backup };
    let mine = ann
        .get_backup(request)
        .await
        .unwrap()
        .into_inner()
        .backup
        .unwrap();
    assert_eq!(mine.state(), backup::State::Completed);
}
