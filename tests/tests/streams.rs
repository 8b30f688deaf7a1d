//! Streams tell the truth: watches end with the final state, downloads go on
//! where they broke off, listings hold what was backed up.

use std::fs;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use proto::backup::v1::{
    CreateBackupRequest, DownloadBackupRequest, DownloadEntryRequest, VerifyBackupRequest,
    WatchBackupRequest, WatchVerificationRequest, backup, backup_entry,
};
use services::{
    api::{Api, expect_state, reason},
    fixture,
    one_agent::{OWNER, register},
    standalone::Standalone,
    tree::{Kind, Tree, describe},
};
use tonic::Code;

async fn with_agent(name: &str) -> Result<(Standalone, Api, Tree)> {
    let standalone = Standalone::start(name).await?;
    let root = standalone.agent_dir("agent");
    fixture::every_kind(&root)?;
    fixture::random_files(&root.join("bulk"), 10, 4 << 20, 1)?;
    register(&standalone).await?;
    let user = standalone.user(OWNER).await?;
    let tree = describe(&root)?;
    Ok((standalone, user, tree))
}

#[tokio::test]
async fn every_watcher_sees_progress_that_only_grows_and_the_final_state() -> Result<()> {
    const WATCHERS: usize = 50;
    let (_standalone, mut user, _) = with_agent("watchers").await?;
    let created = user.create_backup("agent").await?;
    assert_eq!(created.state(), backup::State::Pending);
    let watches = (0..WATCHERS).map(|_| {
        let (mut user, backup_id) = (user.clone(), created.backup_id.clone());
        async move {
            let mut stream = user
                .backups
                .watch_backup(WatchBackupRequest { backup_id })
                .await?
                .into_inner();
            let (mut events, mut bytes_done, mut last) = (0, 0, None);
            while let Some(event) = stream.message().await? {
                let backup = event.backup.context("an event holds the backup")?;
                let progress = backup.progress.clone().unwrap_or_default();
                assert!(progress.bytes_done >= bytes_done, "progress goes back");
                (events, bytes_done, last) = (events + 1, progress.bytes_done, Some(backup));
            }
            let last = last.context("no event at all")?;
            expect_state(&last, backup::State::Completed)?;
            anyhow::Ok((events, last))
        }
    });
    let all =
        tokio::time::timeout(std::time::Duration::from_mins(2), try_join_all(watches)).await??;
    for (events, last) in all {
        assert!(events >= 1);
        assert_eq!(
            (last.size_bytes, last.entries),
            (
                user.backup(&created.backup_id).await?.size_bytes,
                last.entries
            )
        );
    }
    // Watching what has ended gives its end at once.
    let mut stream = user
        .backups
        .watch_backup(WatchBackupRequest {
            backup_id: created.backup_id,
        })
        .await?
        .into_inner();
    let first = stream
        .message()
        .await?
        .and_then(|event| event.backup)
        .context("one event")?;
    expect_state(&first, backup::State::Completed)?;
    assert!(stream.message().await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_watch_through_a_stop_ends_with_unavailable_and_never_silently() -> Result<()> {
    let (mut standalone, mut user, _) = with_agent("watch-stop").await?;
    fixture::random_files(&standalone.agent_dir("agent").join("more"), 60, 8 << 20, 2)?;
    let created = user.create_backup("agent").await?;
    let mut stream = user
        .backups
        .watch_backup(WatchBackupRequest {
            backup_id: created.backup_id.clone(),
        })
        .await?
        .into_inner();
    stream
        .message()
        .await?
        .context("the present state comes first")?;
    let stop = tokio::task::spawn_blocking(move || standalone.stop().map(|_| standalone));
    let end = loop {
        match stream.message().await {
            Ok(Some(event)) => {
                let backup = event.backup.context("an event holds the backup")?;
                if backup.state() == backup::State::Completed {
                    break None;
                }
            }
            Ok(None) => panic!("the stream ended without a final state"),
            Err(status) => break Some(status),
        }
    };
    if let Some(status) = end {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    let mut standalone = stop.await??;
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let ended = user.watch_backup(&created.backup_id, |_| false).await?;
    expect_state(&ended, backup::State::Completed)
}

#[tokio::test]
async fn a_download_resumed_at_any_offset_gives_the_same_bytes() -> Result<()> {
    let (_standalone, mut user, _) = with_agent("resume").await?;
    let backup = user.complete_backup("agent").await?;
    let (whole, etag) = user.download(&backup.backup_id, 0, "").await?;
    assert!(!etag.is_empty());
    let length = whole.len() as u64;
    for offset in [1, 262_144, 262_145, length / 2, length - 1] {
        let (rest, _) = user.download(&backup.backup_id, offset, &etag).await?;
        assert!(
            rest == whole[offset as usize..],
            "from {offset} on of {length}"
        );
    }
    let (again, same_etag) = user.download(&backup.backup_id, 0, "").await?;
    assert!(
        again == whole && same_etag == etag,
        "the same backup gives the same bytes"
    );
    for (offset, etag, code, expected) in [
        (5, "another", Code::FailedPrecondition, "DOWNLOAD_CHANGED"),
        (
            length + 1,
            etag.as_str(),
            Code::OutOfRange,
            "OFFSET_OUT_OF_RANGE",
        ),
        (5, "", Code::InvalidArgument, "INVALID_FIELD"),
    ] {
        let request = DownloadBackupRequest {
            backup_id: backup.backup_id.clone(),
            offset,
            etag: etag.to_owned(),
            destination_id: String::new(),
        };
        let status = match user.backups.download_backup(request).await {
            Err(status) => status,
            Ok(stream) => stream.into_inner().message().await.expect_err("refused"),
        };
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (code, expected),
            "{status:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_listing_holds_what_was_backed_up_and_each_file_can_be_read_alone() -> Result<()> {
    let (standalone, mut user, tree) = with_agent("listing").await?;
    let backup = user.complete_backup("agent").await?;
    let entries = user.entries(&backup.backup_id).await?;
    let mut listed: Vec<Vec<u8>> = entries
        .iter()
        .map(|entry| entry.path.clone())
        .filter(|path| !path.is_empty())
        .collect();
    listed.sort();
    let mut expected: Vec<Vec<u8>> = tree
        .keys()
        .filter(|path| !path.is_empty())
        .cloned()
        .collect();
    expected.sort();
    assert_eq!(listed.len(), expected.len());
    assert!(listed == expected);
    for entry in entries.iter().filter(|entry| !entry.path.is_empty()) {
        let node = &tree[&entry.path];
        assert_eq!(
            (entry.mode, entry.uid, entry.gid),
            (node.mode, node.owner.0, node.owner.1),
            "{}",
            entry.path_text
        );
        match (&node.kind, entry.r#type()) {
            (Kind::File { size, .. }, backup_entry::Type::File) => {
                assert_eq!(entry.size_bytes, *size, "{}", entry.path_text);
            }
            (Kind::Folder, backup_entry::Type::Directory)
            | (Kind::HardLink { .. }, backup_entry::Type::HardLink)
            | (Kind::Fifo, backup_entry::Type::Fifo) => {}
            (Kind::Symlink { target }, backup_entry::Type::Symlink) => {
                assert_eq!(&entry.link_target, target);
            }
            (kind, found) => panic!("{}: {kind:?} is listed as {found:?}", entry.path_text),
        }
    }
    for path in [
        "empty",
        "one-byte",
        "random-262145",
        "compressible",
        "links/second-name",
    ] {
        let expected = fs::read(standalone.agent_dir("agent").join(path))?;
        assert!(
            read_entry(&mut user, &backup.backup_id, path, 0).await? == expected,
            "{path}"
        );
    }
    let expected = fs::read(standalone.agent_dir("agent/random-5000001"))?;
    assert!(
        read_entry(&mut user, &backup.backup_id, "random-5000001", 4_000_000).await?
            == expected[4_000_000..]
    );
    for (path, code) in [
        ("no/such/file", Code::NotFound),
        ("links/relative", Code::InvalidArgument),
        ("links", Code::InvalidArgument),
    ] {
        let cause = read_entry(&mut user, &backup.backup_id, path, 0)
            .await
            .expect_err(path);
        let status = cause.downcast_ref::<tonic::Status>().context("a status")?;
        assert_eq!(status.code(), code, "{path}: {status:?}");
    }
    Ok(())
}

async fn read_entry(user: &mut Api, backup_id: &str, path: &str, offset: u64) -> Result<Vec<u8>> {
    let request = DownloadEntryRequest {
        backup_id: backup_id.to_owned(),
        path: path.as_bytes().to_vec(),
        offset,
        destination_id: String::new(),
    };
    let mut stream = user.backups.download_entry(request).await?.into_inner();
    let (mut bytes, mut ended) = (Vec::new(), false);
    while let Some(chunk) = stream.message().await? {
        assert_eq!(chunk.offset, offset + bytes.len() as u64);
        bytes.extend_from_slice(&chunk.data);
        ended = chunk.last;
    }
    assert!(ended, "the last chunk says so");
    Ok(bytes)
}

#[tokio::test]
async fn a_verification_reads_everything_and_shows_in_the_backup() -> Result<()> {
    let (_standalone, mut user, _) = with_agent("verify").await?;
    let backup = user.complete_backup("agent").await?;
    assert!(backup.verify_time.is_none());
    let request = VerifyBackupRequest {
        backup_id: backup.backup_id.clone(),
        ..Default::default()
    };
    let verification_id = user
        .backups
        .verify_backup(request)
        .await?
        .into_inner()
        .verification_id;
    let request = WatchVerificationRequest {
        backup_id: backup.backup_id.clone(),
        verification_id,
    };
    let mut stream = user.backups.watch_verification(request).await?.into_inner();
    let mut last = None;
    while let Some(event) = stream.message().await? {
        last = Some(event);
    }
    let last = last.context("an event")?;
    assert!(
        last.failure.is_none() && last.verify_time.is_some(),
        "{last:?}"
    );
    assert_eq!(
        user.backup(&backup.backup_id).await?.verify_time,
        last.verify_time
    );
    Ok(())
}

#[tokio::test]
async fn a_request_id_used_again_gives_the_first_answer() -> Result<()> {
    let (_standalone, mut user, _) = with_agent("request-id").await?;
    let request = CreateBackupRequest {
        agent_id: "agent".into(),
        request_id: "one-request".into(),
        ..Default::default()
    };
    let calls = (0..20).map(|_| {
        let (mut user, request) = (user.clone(), request.clone());
        async move { user.backups.create_backup(request).await }
    });
    let answers = try_join_all(calls).await?;
    let mut ids: Vec<String> = answers
        .into_iter()
        .filter_map(|answer| Some(answer.into_inner().backup?.backup_id))
        .collect();
    assert_eq!(ids.len(), 20);
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let other = CreateBackupRequest {
        name: "another name".into(),
        ..request
    };
    let status = user
        .backups
        .create_backup(other)
        .await
        .expect_err("another request");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::AlreadyExists, "REQUEST_ID_REUSED")
    );
    let ended = user.watch_backup(&ids[0], |_| false).await?;
    expect_state(&ended, backup::State::Completed)
}
