//! Backups read back: listed, downloaded whole and in parts.

use std::time::Duration;

use proto::{
    backup::v1::{
        BackupEntry, DeleteBackupRequest, DownloadBackupRequest, DownloadBackupResponse,
        DownloadEntryRequest, ListBackupEntriesRequest, backup_entry,
    },
    vault::v1::EntryType,
};
use tonic::{Code, Status, Streaming};

use crate::harness::{File, Rig, eventually, fields, file, folder, noise, now_ms, reason};

const PATIENCE: Duration = Duration::from_millis(300);

fn tree() -> Vec<File> {
    vec![
        folder(""),
        file("a", "alpha"),
        folder("d"),
        file("d/big", noise(700_000)),
        folder("d/e"),
        file("d/e/f", "deep"),
        File {
            path: "d/pipe".into(),
            kind: EntryType::Fifo,
            bytes: None,
        },
        file("z", ""),
    ]
}

async fn rig_with(files: &[File]) -> (Rig, String) {
    let rig = Rig::start_with(|settings| settings.slow_reader = PATIENCE).await;
    rig.register("one", "ann").await;
    let backup = rig.completed("one", "ann", files).await;
    (rig, backup.backup_id)
}

async fn all(
    mut stream: Streaming<DownloadBackupResponse>,
) -> Result<Vec<DownloadBackupResponse>, Status> {
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

fn joined(messages: &[DownloadBackupResponse]) -> Vec<u8> {
    messages
        .iter()
        .flat_map(|message| message.data.to_vec())
        .collect()
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke() {
    let (rig, backup_id) = rig_with(&tree()).await;
    let mut client = rig.backups("ann");
    let request = DownloadBackupRequest {
        backup_id: backup_id.clone(),
        ..DownloadBackupRequest::default()
    };
    let stream = client.download_backup(request.clone()).await.unwrap();
    let messages = all(stream.into_inner()).await.unwrap();
    let whole = joined(&messages);
    assert!(whole.len() > 700_000);
    assert!(messages.len() >= 3);
    let mut offset = 0;
    for (index, message) in messages.iter().enumerate() {
        assert_eq!(message.offset, offset);
        assert!(message.data.len() <= 262_144);
        assert_eq!(message.last, index + 1 == messages.len());
        assert_eq!(message.etag.is_empty(), index > 0);
        offset += message.data.len() as u64;
    }
    assert!(messages[0].file_name.starts_with("one-20"));
    assert!(messages[0].file_name.ends_with("Z.tar.zst"));

    let etag = messages[0].etag.clone();
    let resume = |offset: u64, etag: &str| DownloadBackupRequest {
        offset,
        etag: etag.to_owned(),
        ..request.clone()
    };
    for offset in [1, 300_000, whole.len() as u64 - 1, whole.len() as u64] {
        let stream = client.download_backup(resume(offset, &etag)).await.unwrap();
        let rest = all(stream.into_inner()).await.unwrap();
        assert_eq!(rest[0].offset, offset);
        assert!(rest.last().unwrap().last);
        assert!(joined(&rest) == whole[offset as usize..], "offset {offset}");
    }
    let beyond = client
        .download_backup(resume(whole.len() as u64 + 1, &etag))
        .await
        .unwrap();
    let status = all(beyond.into_inner()).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::OutOfRange, "OFFSET_OUT_OF_RANGE")
    );
    let status = client
        .download_backup(resume(5, "other"))
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "DOWNLOAD_CHANGED");
    let status = client.download_backup(resume(5, "")).await.unwrap_err();
    assert_eq!(fields(&status), ["etag"]);

    // Nothing holds the backup any more.
    let pins = rig.catalog.agent_pins("one", now_ms()).await.unwrap();
    assert!(pins.is_empty());
}

#[tokio::test]
async fn a_download_that_is_not_read_is_cut_and_holds_nothing() {
    let (rig, backup_id) = rig_with(&[folder(""), file("big", noise(12 << 20))]).await;
    let mut client = rig.backups("ann");
    let request = DownloadBackupRequest {
        backup_id: backup_id.clone(),
        ..DownloadBackupRequest::default()
    };
    let mut stream = client.download_backup(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let status = client
        .delete_backup(DeleteBackupRequest {
            backup_id: backup_id.clone(),
        })
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "BACKUP_IN_USE");
    eventually("the release of the pin", || async {
        let pins = rig.catalog.agent_pins("one", now_ms()).await.unwrap();
        pins.is_empty()
    })
    .await;
    let status = all(stream).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "SLOW_READER")
    );
    client
        .delete_backup(DeleteBackupRequest { backup_id })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_download_that_is_dropped_holds_nothing() {
    let (rig, backup_id) = rig_with(&[folder(""), file("big", noise(12 << 20))]).await;
    let request = DownloadBackupRequest {
        backup_id,
        ..DownloadBackupRequest::default()
    };
    let mut client = rig.backups("ann");
    let mut stream = client.download_backup(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    eventually("the release of the pin", || async {
        let pins = rig.catalog.agent_pins("one", now_ms()).await.unwrap();
        pins.is_empty()
    })
    .await;
}

async fn listed(rig: &Rig, request: ListBackupEntriesRequest) -> Vec<String> {
    let mut client = rig.backups("ann");
    let mut request = request;
    let mut paths = Vec::new();
    loop {
        let page = client.list_backup_entries(request.clone()).await.unwrap();
        let page = page.into_inner();
        if request.page_size > 0 {
            assert!(page.entries.len() <= request.page_size as usize);
        }
        paths.extend(page.entries.into_iter().map(|entry| entry.path_text));
        if page.next_page_token.is_empty() {
            return paths;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn entries_are_listed_page_by_page() {
    let (rig, backup_id) = rig_with(&tree()).await;
    let everything: Vec<String> = tree().into_iter().map(|file| file.path).collect();
    for page_size in [0, 1, 2, 3, 100] {
        let list = |prefix: &str, recursive: bool| {
            listed(
                &rig,
                ListBackupEntriesRequest {
                    backup_id: backup_id.clone(),
                    path_prefix: prefix.as_bytes().to_vec(),
                    recursive,
                    page_size,
                    ..ListBackupEntriesRequest::default()
                },
            )
        };
        assert_eq!(list("", true).await, everything, "pages of {page_size}");
        assert_eq!(list("", false).await, ["", "a", "d", "z"]);
        assert_eq!(
            list("d", true).await,
            ["d", "d/big", "d/e", "d/e/f", "d/pipe"]
        );
        assert_eq!(list("d", false).await, ["d", "d/big", "d/e", "d/pipe"]);
        assert_eq!(list("a", false).await, ["a"]);
        assert!(list("nothing", true).await.is_empty());
    }
}

#[tokio::test]
async fn one_file_is_downloaded_from_any_offset() {
    let (rig, backup_id) = rig_with(&tree()).await;
    let whole = noise(700_000);
    let get = |path: &str, offset: u64| {
        let mut client = rig.backups("ann");
        let request = DownloadEntryRequest {
            backup_id: backup_id.clone(),
            path: path.as_bytes().to_vec(),
            offset,
            destination_id: String::new(),
        };
        async move {
            let mut stream = client.download_entry(request).await?.into_inner();
            let (mut bytes, mut entry): (Vec<u8>, Option<BackupEntry>) = (Vec::new(), None);
            while let Some(message) = stream.message().await? {
                assert_eq!(message.offset, offset + bytes.len() as u64);
                bytes.extend_from_slice(&message.data);
                entry = entry.or(message.entry);
                if message.last {
                    assert!(stream.message().await?.is_none());
                    return Ok((bytes, entry.unwrap()));
                }
            }
            panic!("no last message")
        }
    };
    for offset in [0, 1, 262_144, 699_999, 700_000] {
        let (bytes, entry) = get("d/big", offset).await.unwrap();
        assert!(bytes == whole[offset as usize..], "offset {offset}");
        assert_eq!(entry.r#type(), backup_entry::Type::File);
        assert_eq!(entry.size_bytes, 700_000);
    }
    assert!(get("z", 0).await.unwrap().0.is_empty());
    let refused: Status = get("d/big", 700_001).await.unwrap_err();
    assert_eq!(reason(&refused), "OFFSET_OUT_OF_RANGE");
    assert_eq!(
        reason(&get("d/none", 0).await.unwrap_err()),
        "ENTRY_NOT_FOUND"
    );
    for path in ["d", "d/pipe"] {
        assert_eq!(fields(&get(path, 0).await.unwrap_err()), ["path"]);
    }
    assert_eq!(fields(&get("", 0).await.unwrap_err()), ["path"]);
}

#[tokio::test]
async fn what_is_not_completed_or_not_right_is_not_read() {
    let (rig, backup_id) = rig_with(&tree()).await;
    let mut client = rig.backups("ann");
    let pending = rig.create("one", "ann").await.backup_id;
    let request = |backup_id: &str| ListBackupEntriesRequest {
        backup_id: backup_id.to_owned(),
        ..ListBackupEntriesRequest::default()
    };
    let status = client.list_backup_entries(request(&pending)).await;
    let status = status.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "BACKUP_NOT_COMPLETED")
    );
    let name = format!("vaults/one/backups/{backup_id}.1");
    rig.store.delete(&name).await.unwrap();
    let status = client.list_backup_entries(request(&backup_id)).await;
    let status = status.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::DataLoss, "OBJECT_MISSING")
    );
}
