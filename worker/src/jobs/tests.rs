//! The jobs as they run: folder to vault and back, with a real catalog.

use std::{collections::HashMap, fs, path::PathBuf};

use catalog::{
    BackupState, JobState, KnownManifest, NewDraft, NewVerification, Restore, RestoreState,
};
use proto::backup::v1::{self as api, RestorePlan, restore_plan};
use vault::ManifestRef;

use super::garbage;
use crate::{clock::now_ms, testing::Site};

async fn done(site: &Site, agent_id: &str) -> catalog::Backup {
    let backup = site.create_backup(agent_id).await;
    let job = site.job_ended(&backup.job_id).await;
    assert_eq!(job.state, JobState::Completed, "{job:?}");
    site.backup(&backup.backup_id).await
}

async fn start_restore(site: &Site, backup_id: &str, agent_id: &str) -> Restore {
    let draft = NewDraft {
        backup_id: backup_id.to_owned(),
        owner_id: "owner".to_owned(),
        plan: RestorePlan {
            agent_id: agent_id.to_owned(),
            display_name: "again".to_owned(),
            workspace_id: "w".to_owned(),
            target: Some(restore_plan::Target::Directory(api::DirectoryTarget {
                path: site.at(agent_id).to_str().unwrap().to_owned(),
            })),
        },
        decisions: Vec::new(),
        warnings: Vec::new(),
        destination_id: String::new(),
        request: None,
    };
    let draft = site.catalog.create_draft(draft, now_ms()).await.unwrap();
    site.catalog
        .start_restore(&draft.restore_id, &HashMap::new(), now_ms())
        .await
        .unwrap()
}

async fn restored(site: &Site, restore: &Restore) -> Restore {
    let job_id = restore.job_id.as_deref().unwrap();
    site.job_ended(job_id).await;
    let id = &restore.restore_id;
    site.catalog.get_restore(id).await.unwrap().unwrap()
}

fn names(site: &Site) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(site.at(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Objects of the agent's vault.
fn objects(site: &Site, folder: &str) -> Vec<PathBuf> {
    let folder = site
        .temporary
        .path()
        .join("store/vaults/agent")
        .join(folder);
    fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn an_agent_is_backed_up_and_comes_back_as_a_new_one() {
    let site = Site::new().await;
    let _worker = site.start();
    let first = done(&site, "agent").await;
    assert_eq!((first.entries, first.size_bytes), (2, 5));
    assert!(first.stored_bytes > 0 && first.manifest_digest.is_some());
    let progress = &first.progress;
    assert_eq!(progress.phase(), api::Phase::Ended);
    assert_eq!(progress.entries_done, progress.entries_total);

    fs::write(site.at("agent/more"), vec![3; 100_000]).unwrap();
    let second = done(&site, "agent").await;
    assert_eq!(second.sequence, first.sequence.map(|n| n + 1));

    let restore = start_restore(&site, &second.backup_id, "copy").await;
    let restore = restored(&site, &restore).await;
    assert_eq!(restore.state, RestoreState::Completed, "{restore:?}");
    assert_eq!(fs::read(site.at("copy/file")).unwrap(), b"hello");
    assert_eq!(names(&site), ["agent", "copy"]);
    let copy = site.catalog.get_agent("copy").await.unwrap().unwrap();
    assert_eq!(copy.owner_id, "owner");
    assert_eq!(copy.integrations.len(), 1);
    // It can be backed up at once.
    let again = done(&site, "copy").await;
    assert_eq!(again.size_bytes, second.size_bytes);
    assert!(
        site.catalog
            .agent_pins("agent", now_ms())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_restore_that_fails_leaves_nothing() {
    let site = Site::new().await;
    let _worker = site.start();
    fs::write(site.at("agent/large"), vec![5; 300_000]).unwrap();
    let backup = done(&site, "agent").await;
    // The agent's id is taken in the last moment.
    let restore = start_restore(&site, &backup.backup_id, "copy").await;
    site.register("copy").await;
    let restore = restored(&site, &restore).await;
    if restore.state == RestoreState::Failed {
        assert_eq!(restore.failure.unwrap().reason, "AGENT_EXISTS");
        assert_eq!(names(&site), ["agent"]);
    }
    // A pack is damaged.
    for pack in objects(&site, "packs") {
        let mut bytes = fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&pack, bytes).unwrap();
    }
    let before = names(&site);
    let restore = start_restore(&site, &backup.backup_id, "other").await;
    let restore = restored(&site, &restore).await;
    assert_eq!(restore.state, RestoreState::Failed);
    let failure = restore.failure.unwrap();
    assert_eq!(failure.reason, "OBJECT_CORRUPT");
    assert!(failure.message.contains("packs/"), "{}", failure.message);
    assert_eq!(names(&site), before);
    assert!(site.catalog.get_agent("other").await.unwrap().is_none());
}

#[tokio::test]
async fn a_verification_keeps_with_the_backup_what_it_found() {
    let site = Site::new().await;
    let _worker = site.start();
    fs::write(site.at("agent/large"), vec![5; 300_000]).unwrap();
    let backup = done(&site, "agent").await;
    let verify = async || {
        let verification = NewVerification {
            backup_id: backup.backup_id.clone(),
            owner_id: "owner".to_owned(),
            depth: catalog::VerifyDepth::Full,
            destination_id: String::new(),
            request: None,
        };
        let job = site
            .catalog
            .create_verification(verification, now_ms())
            .await
            .unwrap();
        site.job_ended(&job.job_id).await
    };
    assert_eq!(verify().await.state, JobState::Completed);
    let found = site.backup(&backup.backup_id).await;
    assert!(found.verify_time_ms.is_some() && found.verify_failure.is_none());

    let pack = objects(&site, "packs").remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[100] ^= 0x80;
    fs::write(&pack, bytes).unwrap();
    verify().await;
    let failure = site.backup(&backup.backup_id).await.verify_failure.unwrap();
    assert_eq!(failure.reason, "OBJECT_CORRUPT");
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(failure.message.contains(name), "{}", failure.message);
}

#[tokio::test]
async fn what_is_deleted_goes_from_the_destination_and_the_rest_stays() {
    let mut site = Site::new().await;
    site.settings.compact_grace = std::time::Duration::ZERO;
    let _worker = site.start();
    let random: Vec<u8> = (0..1_600_000).map(|_| rand::random()).collect();
    fs::write(site.at("agent/large"), &random).unwrap();
    let first = done(&site, "agent").await;
    fs::write(site.at("agent/large"), "small now").unwrap();
    let second = done(&site, "agent").await;
    let before = site
        .catalog
        .get_agent("agent")
        .await
        .unwrap()
        .unwrap()
        .vault_bytes;

    site.catalog
        .delete_backup(&first.backup_id, now_ms())
        .await
        .unwrap();
    let mut left = u64::MAX;
    for _ in 0..1000 {
        left = site
            .catalog
            .get_agent("agent")
            .await
            .unwrap()
            .unwrap()
            .vault_bytes;
        if left < before / 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(left < before / 2, "{left} of {before} bytes are left");
    assert!(
        site.catalog
            .get_backup(&first.backup_id)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(objects(&site, "backups").len(), 1);
    let restore = start_restore(&site, &second.backup_id, "copy").await;
    let restore = restored(&site, &restore).await;
    assert_eq!(restore.state, RestoreState::Completed, "{restore:?}");
    assert_eq!(fs::read(site.at("copy/large")).unwrap(), b"small now");
}

#[tokio::test]
async fn nothing_stays_of_an_agent_that_goes_with_its_backups() {
    let site = Site::new().await;
    let _worker = site.start();
    done(&site, "agent").await;
    done(&site, "agent").await;
    let catalog = &site.catalog;
    catalog
        .deregister_agent("agent", catalog::BackupsOfGone::Deleted, now_ms())
        .await
        .unwrap();
    for _ in 0..1000 {
        if objects(&site, "packs").is_empty() && objects(&site, "backups").is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{:?} are left", objects(&site, "packs"));
}

#[tokio::test]
async fn a_source_that_is_gone_says_what_to_do() {
    let site = Site::new().await;
    let _worker = site.start();
    fs::remove_dir_all(site.at("agent")).unwrap();
    let backup = site.create_backup("agent").await;
    assert_eq!(site.job_ended(&backup.job_id).await.state, JobState::Failed);
    let failure = site.backup(&backup.backup_id).await.failure.unwrap();
    assert_eq!(failure.reason, "SOURCE_NOT_FOUND");
    assert!(
        failure.message.contains("make it, or register"),
        "{}",
        failure.message
    );
}

#[test]
fn only_what_is_known_to_be_garbage_is_garbage() {
    let stored = |backup_id: &str, attempt| ManifestRef {
        backup_id: backup_id.to_owned(),
        attempt,
        digest: None,
    };
    let known = |backup_id: &str, state, manifest_attempt| KnownManifest {
        backup_id: backup_id.to_owned(),
        state,
        manifest_attempt,
        manifest_digest: None,
        destination_ids: vec![destinations::DEFAULT.to_owned()],
    };
    let garbage = garbage(
        vec![
            stored("done", 1),
            stored("done", 2),
            stored("failed", 1),
            stored("canceled", 3),
            stored("running", 1),
            stored("deleting", 1),
            stored("unknown", 1),
        ],
        vec![
            known("done", BackupState::Completed, Some(2)),
            known("failed", BackupState::Failed, None),
            known("canceled", BackupState::Canceled, None),
            known("running", BackupState::Running, None),
            known("deleting", BackupState::Deleting, Some(1)),
        ],
    );
    let mut names: Vec<String> = garbage.iter().map(ManifestRef::name).collect();
    names.sort();
    assert_eq!(
        names,
        ["backups/canceled.3", "backups/done.1", "backups/failed.1"]
    );
}
