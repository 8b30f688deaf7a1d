//! One tenant never sees another: a foreign id in any field of any request is
//! answered exactly as one that does not exist.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use proto::backup::v1::{
    CancelBackupRequest, CancelRestoreRequest, CreateBackupRequest, CreateRestoreDraftRequest,
    DeleteBackupRequest, DownloadBackupRequest, DownloadEntryRequest, GetAgentRequest,
    GetBackupRequest, GetRestoreRequest, GetStorageUsageRequest, ListAgentsRequest,
    ListBackupEntriesRequest, ListBackupsRequest, ListRestoresRequest, StartRestoreRequest,
    VerifyBackupRequest, WatchBackupRequest, WatchRestoreRequest, WatchVerificationRequest,
};
use services::{
    api::{Api, directory_plan, reason},
    fixture,
    standalone::Standalone,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const OWNER: &str = "owner";
const STRANGER: &str = "stranger";
/// In the form of an id, and no id of anything.
const MISSING: &str = "01920000-0000-7000-8000-000000000000";
const MISSING_AGENT: &str = "no-such-agent";
/// Answers of two kinds may take this much more or less than each other.
const TIME_CLASS: Duration = Duration::from_millis(10);

struct Ids {
    agent: String,
    backup: String,
    restore: String,
    verification: String,
}

/// Every call that takes an id, once with this set of ids; those of the caller's
/// own are in `own`.
async fn every_answer(api: &mut Api, ids: &Ids, own: &Ids) -> Vec<(&'static str, Status)> {
    let agent_id = || ids.agent.clone();
    let backup_id = || ids.backup.clone();
    let restore_id = || ids.restore.clone();
    let mut answers = Vec::new();
    macro_rules! ask {
        ($name:literal, $call:expr) => {
            let status = match $call.await {
                Ok(_) => Status::ok("it was answered"),
                Err(status) => status,
            };
            answers.push(($name, status));
        };
    }
    // A stream may open first and answer with its first message.
    macro_rules! ask_stream {
        ($name:literal, $call:expr) => {
            let status = match $call.await {
                Ok(stream) => match stream.into_inner().message().await {
                    Ok(_) => Status::ok("it was answered"),
                    Err(status) => status,
                },
                Err(status) => status,
            };
            answers.push(($name, status));
        };
    }
    let Api {
        agents,
        backups,
        restores,
        // Refused to everybody at this address: server/tests/services/admin.rs.
        admin: _,
        schedules: _,
    } = api;
    ask!(
        "GetAgent",
        agents.get_agent(GetAgentRequest {
            agent_id: agent_id()
        })
    );
    ask!(
        "CreateBackup",
        backups.create_backup(CreateBackupRequest {
            agent_id: agent_id(),
            ..Default::default()
        })
    );
    ask!(
        "ListBackups",
        backups.list_backups(ListBackupsRequest {
            agent_id: agent_id(),
            ..Default::default()
        })
    );
    ask!(
        "GetStorageUsage",
        backups.get_storage_usage(GetStorageUsageRequest {
            agent_id: agent_id()
        })
    );
    ask!(
        "GetBackup",
        backups.get_backup(GetBackupRequest {
            backup_id: backup_id()
        })
    );
    ask_stream!(
        "WatchBackup",
        backups.watch_backup(WatchBackupRequest {
            backup_id: backup_id()
        })
    );
    ask!(
        "CancelBackup",
        backups.cancel_backup(CancelBackupRequest {
            backup_id: backup_id()
        })
    );
    ask!(
        "DeleteBackup",
        backups.delete_backup(DeleteBackupRequest {
            backup_id: backup_id()
        })
    );
    ask_stream!(
        "DownloadBackup",
        backups.download_backup(DownloadBackupRequest {
            backup_id: backup_id(),
            ..Default::default()
        })
    );
    ask!(
        "ListBackupEntries",
        backups.list_backup_entries(ListBackupEntriesRequest {
            backup_id: backup_id(),
            ..Default::default()
        })
    );
    let entry = DownloadEntryRequest {
        backup_id: backup_id(),
        path: b"one-byte".to_vec(),
        ..Default::default()
    };
    ask_stream!("DownloadEntry", backups.download_entry(entry));
    ask!(
        "VerifyBackup",
        backups.verify_backup(VerifyBackupRequest {
            backup_id: backup_id(),
            ..Default::default()
        })
    );
    let watch = |backup_id: &str, verification_id: &str| WatchVerificationRequest {
        backup_id: backup_id.to_owned(),
        verification_id: verification_id.to_owned(),
    };
    ask_stream!(
        "WatchVerification, both",
        backups.watch_verification(watch(&ids.backup, &ids.verification))
    );
    ask_stream!(
        "WatchVerification, of the own backup",
        backups.watch_verification(watch(&own.backup, &ids.verification))
    );
    ask_stream!(
        "WatchVerification, the own one",
        backups.watch_verification(watch(&ids.backup, &own.verification))
    );
    ask!(
        "CreateRestoreDraft",
        restores.create_restore_draft(CreateRestoreDraftRequest {
            backup_id: backup_id(),
            ..Default::default()
        })
    );
    ask!(
        "ListRestores",
        restores.list_restores(ListRestoresRequest {
            backup_id: backup_id(),
            ..Default::default()
        })
    );
    ask!(
        "GetRestore",
        restores.get_restore(GetRestoreRequest {
            restore_id: restore_id()
        })
    );
    ask!(
        "StartRestore",
        restores.start_restore(StartRestoreRequest {
            restore_id: restore_id(),
            ..Default::default()
        })
    );
    ask_stream!(
        "WatchRestore",
        restores.watch_restore(WatchRestoreRequest {
            restore_id: restore_id()
        })
    );
    ask!(
        "CancelRestore",
        restores.cancel_restore(CancelRestoreRequest {
            restore_id: restore_id()
        })
    );
    answers
}

/// All that a caller sees of a refusal, its own words taken out.
fn seen(status: &Status, ids: &Ids, own: &Ids) -> (Code, String, String, String) {
    let mut words = [
        status.message().to_owned(),
        format!("{:?}", status.details()),
    ];
    let own_words = [
        &ids.agent,
        &ids.backup,
        &ids.restore,
        &ids.verification,
        &own.backup,
        &own.verification,
    ];
    for word in own_words {
        words[0] = words[0].replace(word.as_str(), "<id>");
    }
    // Details are compared by what they say, as ids within have lengths.
    let details = status.get_error_details();
    words[1] = format!("{details:?}");
    for word in own_words {
        words[1] = words[1].replace(word.as_str(), "<id>");
    }
    let [message, details] = words;
    (status.code(), message, reason(status), details)
}

async fn one_of_everything(standalone: &Standalone, user: &str, agent_id: &str) -> Result<Ids> {
    let root = standalone.agent_dir(agent_id);
    fixture::every_kind(&root)?;
    standalone
        .control_plane()
        .await?
        .register_directory(agent_id, user, &root)
        .await?;
    let mut api = standalone.user(user).await?;
    let backup = api.complete_backup(agent_id).await?;
    let plan = directory_plan(
        &format!("{agent_id}-2"),
        &standalone.agent_dir(&format!("{agent_id}-2")),
    )?;
    let restore = api.draft_restore(&backup.backup_id, plan).await?;
    let request = VerifyBackupRequest {
        backup_id: backup.backup_id.clone(),
        ..Default::default()
    };
    let verification = api
        .backups
        .verify_backup(request)
        .await?
        .into_inner()
        .verification_id;
    Ok(Ids {
        agent: agent_id.to_owned(),
        backup: backup.backup_id,
        restore: restore.restore_id,
        verification,
    })
}

#[tokio::test]
async fn a_foreign_id_in_any_field_is_answered_as_one_that_does_not_exist() -> Result<()> {
    let standalone = Standalone::start("tenants").await?;
    let foreign = one_of_everything(&standalone, OWNER, "owners-agent").await?;
    let own = one_of_everything(&standalone, STRANGER, "strangers-agent").await?;
    let missing = Ids {
        agent: MISSING_AGENT.to_owned(),
        backup: MISSING.to_owned(),
        restore: MISSING.to_owned(),
        verification: MISSING.to_owned(),
    };
    let mut stranger = standalone.user(STRANGER).await?;
    let of_foreign = every_answer(&mut stranger, &foreign, &own).await;
    let of_missing = every_answer(&mut stranger, &missing, &own).await;
    for ((call, foreign_status), (_, missing_status)) in of_foreign.iter().zip(&of_missing) {
        assert_eq!(
            foreign_status.code(),
            Code::NotFound,
            "{call}: {foreign_status:?}"
        );
        assert_eq!(
            seen(foreign_status, &foreign, &own),
            seen(missing_status, &missing, &own),
            "{call}"
        );
    }
    // Nothing of it happened.
    let mut owner = standalone.user(OWNER).await?;
    assert_eq!(
        owner.backup(&foreign.backup).await?.state(),
        proto::backup::v1::backup::State::Completed
    );
    let listed = owner
        .backups
        .list_backups(ListBackupsRequest::default())
        .await?
        .into_inner()
        .backups;
    assert_eq!(listed.len(), 1);
    Ok(())
}

#[tokio::test]
async fn lists_and_sums_hold_only_what_is_the_callers() -> Result<()> {
    let standalone = Standalone::start("lists").await?;
    one_of_everything(&standalone, OWNER, "owners-agent").await?;
    one_of_everything(&standalone, OWNER, "owners-other-agent").await?;
    let mut owner = standalone.user(OWNER).await?;
    let mut stranger = standalone.user(STRANGER).await?;
    let mut token = String::new();
    for _ in 0..2 {
        let request = ListBackupsRequest {
            page_size: 1,
            page_token: token.clone(),
            ..Default::default()
        };
        // The owner's page token in the stranger's hand shows nothing either.
        if let Ok(answer) = stranger.backups.list_backups(request.clone()).await {
            assert!(answer.into_inner().backups.is_empty());
        }
        let page = owner.backups.list_backups(request).await?.into_inner();
        assert_eq!(page.backups.len(), 1);
        token = page.next_page_token;
    }
    assert!(token.is_empty(), "two backups are two pages");
    let foreign_owner = ListAgentsRequest {
        owner_id: OWNER.to_owned(),
        ..Default::default()
    };
    for request in [ListAgentsRequest::default(), foreign_owner] {
        assert!(
            stranger
                .agents
                .list_agents(request)
                .await?
                .into_inner()
                .agents
                .is_empty()
        );
    }
    assert!(
        stranger
            .restores
            .list_restores(ListRestoresRequest::default())
            .await?
            .into_inner()
            .restores
            .is_empty()
    );
    let usage = stranger
        .backups
        .get_storage_usage(GetStorageUsageRequest::default())
        .await?
        .into_inner();
    assert_eq!(
        (
            usage.backups,
            usage.size_bytes,
            usage.stored_bytes,
            usage.agents
        ),
        (0, 0, 0, 0)
    );
    assert_eq!(
        owner
            .backups
            .get_storage_usage(GetStorageUsageRequest::default())
            .await?
            .into_inner()
            .backups,
        2
    );
    Ok(())
}

#[tokio::test]
async fn a_user_cannot_register_agents_and_a_service_cannot_read_backups() -> Result<()> {
    let standalone = Standalone::start("roles").await?;
    let ids = one_of_everything(&standalone, OWNER, "owners-agent").await?;
    let mut owner = standalone.user(OWNER).await?;
    let refused = owner
        .register_directory("mine", OWNER, &standalone.agent_dir("owners-agent"))
        .await;
    let cause = refused.expect_err("a user registers no agents");
    let status = cause.downcast_ref::<Status>().context("a status")?;
    assert_eq!(
        (status.code(), reason(status).as_str()),
        (Code::PermissionDenied, "ROLE_NOT_ALLOWED")
    );
    let mut service = standalone.control_plane().await?;
    let request = DownloadBackupRequest {
        backup_id: ids.backup,
        ..Default::default()
    };
    assert!(service.backups.download_backup(request).await.is_err());
    Ok(())
}

#[tokio::test]
async fn the_time_of_an_answer_does_not_tell_what_exists() -> Result<()> {
    const CALLS: usize = 100;
    let standalone = Standalone::start("time").await?;
    let foreign = one_of_everything(&standalone, OWNER, "owners-agent").await?;
    let mut stranger = standalone.user(STRANGER).await?;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..CALLS {
        for (which, backup_id) in [foreign.backup.as_str(), MISSING].into_iter().enumerate() {
            let start = Instant::now();
            stranger
                .backup(backup_id)
                .await
                .expect_err("not the caller's");
            times[which].push(start.elapsed());
        }
    }
    let [foreign, missing] = times.map(|mut all| {
        all.sort();
        all[CALLS / 2]
    });
    assert!(
        foreign.abs_diff(missing) < TIME_CLASS,
        "foreign {foreign:?}, missing {missing:?}"
    );
    Ok(())
}
