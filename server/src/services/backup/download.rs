//! Backups and single files as streams of bytes.

use std::{
    io::{self, Read as _, Write},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use catalog::Backup;
use proto::{
    backup::v1::{
        DownloadBackupRequest, DownloadBackupResponse, DownloadEntryRequest, DownloadEntryResponse,
        ErrorReason,
    },
    vault::v1::{Entry, EntryType},
};
use vault::{BackupReader, TarSpec, VaultError, read::ENCODER_VERSION};

use super::{
    manage::the_backup,
    reading::{Outlet, Readable, Stopped, stream},
};
use crate::{
    clock::file_label, convert, feed::FeedStream, services::Call, state::State, status::ApiError,
    validation::Checks,
};

/// Data in one message at the most.
const CHUNK_BYTES_MAX: usize = 262_144;

pub(super) async fn backup(
    state: &Arc<State>,
    call: Call<DownloadBackupRequest>,
) -> Result<FeedStream<DownloadBackupResponse>, ApiError> {
    let request = call.message;
    let backup = the_backup(state, &call.caller, &request.backup_id).await?;
    let mut checks = Checks::new();
    checks.that(
        request.offset == 0 || !request.etag.is_empty(),
        "etag",
        "is required when offset is not 0",
    );
    checks.optional_id("destination_id", &request.destination_id);
    checks.done()?;
    let readable = Readable::new(&backup, &request.destination_id)?;
    let etag = etag(&backup);
    if !request.etag.is_empty() && request.etag != etag {
        return Err(ApiError::new(
            ErrorReason::DownloadChanged,
            "the download is no longer the one that was begun: begin again at offset 0",
        ));
    }
    let name = format!(
        "{}-{}.tar.zst",
        backup.agent_id,
        file_label(backup.create_time_ms)
    );
    Ok(stream(
        state,
        readable,
        "DownloadBackup",
        call.slot,
        move |reader, outlet| {
            let mut chunks = Chunks {
                outlet,
                begin: request.offset,
                offset: 0,
                waiting: BytesMut::new(),
                head: Some((etag, name)),
                stopped: None,
            };
            match reader.export_tar_zst(&TarSpec::default(), &mut chunks) {
                Ok(()) => chunks.finish(),
                Err(error) => Err(chunks.stopped.unwrap_or_else(|| error.into())),
            }
        },
    ))
}

/// Names exactly the bytes of a download.
fn etag(backup: &Backup) -> String {
    let digest = backup.manifest_digest.unwrap_or_default();
    format!("{}-{ENCODER_VERSION}", hex::encode(&digest[..16]))
}

/// Cuts what is written into messages, leaving out what lies before `begin`. The last message is
/// only known at the end, so one chunk always waits.
struct Chunks {
    outlet: Outlet<DownloadBackupResponse>,
    begin: u64,
    /// Where the next byte that is written lies.
    offset: u64,
    waiting: BytesMut,
    head: Option<(String, String)>,
    stopped: Option<Stopped>,
}

impl Chunks {
    fn send(&mut self, last: bool) -> Result<(), Stopped> {
        let data = self.waiting.split().freeze();
        let (etag, file_name) = self.head.take().unwrap_or_default();
        self.outlet.send(DownloadBackupResponse {
            offset: self.offset - data.len() as u64,
            data,
            etag,
            file_name,
            last,
        })
    }

    fn finish(mut self) -> Result<(), Stopped> {
        if self.offset < self.begin {
            return Err(beyond_the_end(self.begin, self.offset).into());
        }
        self.send(true)
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.offset < self.begin {
            let skipped = (self.begin - self.offset).min(bytes.len() as u64);
            self.offset += skipped;
            return Ok(skipped as usize);
        }
        if self.waiting.len() == CHUNK_BYTES_MAX
            && let Err(stopped) = self.send(false)
        {
            self.stopped = Some(stopped);
            return Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the stream has ended",
            ));
        }
        let taken = bytes.len().min(CHUNK_BYTES_MAX - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..taken]);
        self.offset += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn beyond_the_end(offset: u64, size: u64) -> ApiError {
    ApiError::new(
        ErrorReason::OffsetOutOfRange,
        format!("offset {offset} lies beyond the end, {size} bytes"),
    )
}

pub(super) async fn entry(
    state: &Arc<State>,
    call: Call<DownloadEntryRequest>,
) -> Result<FeedStream<DownloadEntryResponse>, ApiError> {
    let request = call.message;
    let backup = the_backup(state, &call.caller, &request.backup_id).await?;
    let mut checks = Checks::new();
    checks.that(!request.path.is_empty(), "path", "is required");
    checks.entry_path("path", &request.path);
    checks.optional_id("destination_id", &request.destination_id);
    checks.done()?;
    Ok(stream(
        state,
        Readable::new(&backup, &request.destination_id)?,
        "DownloadEntry",
        call.slot,
        move |reader, outlet| send_entry(&reader, &outlet, &request),
    ))
}

fn send_entry(
    reader: &BackupReader,
    outlet: &Outlet<DownloadEntryResponse>,
    request: &DownloadEntryRequest,
) -> Result<(), Stopped> {
    let entry = find(reader, &request.path)?;
    let holder = match entry.r#type() {
        EntryType::HardLink => find(reader, &entry.link_target)?,
        _ => entry.clone(),
    };
    let Some(content) = holder
        .content
        .as_ref()
        .filter(|_| holder.r#type() == EntryType::Regular)
    else {
        let mut checks = Checks::new();
        checks.fault(
            "path",
            "names an entry without content: name a regular file",
        );
        return Err(checks
            .done()
            .map_or_else(Stopped::from, |()| Stopped::Outlet));
    };
    let size = content.size_bytes;
    if request.offset > size {
        return Err(beyond_the_end(request.offset, size).into());
    }
    let mut bytes = reader.content(content, request.offset)?;
    let mut head = Some(convert::entry(&entry));
    let mut offset = request.offset;
    loop {
        let wanted = (size - offset).min(CHUNK_BYTES_MAX as u64);
        let mut data = vec![0; wanted as usize];
        bytes.read_exact(&mut data).map_err(read_error)?;
        let end = offset + wanted;
        outlet.send(DownloadEntryResponse {
            offset,
            data: Bytes::from(data),
            entry: head.take(),
            last: end == size,
        })?;
        if end == size {
            return Ok(());
        }
        offset = end;
    }
}

fn find(reader: &BackupReader, path: &[u8]) -> Result<Entry, Stopped> {
    reader.find(path)?.ok_or_else(|| {
        let path = String::from_utf8_lossy(path);
        ApiError::new(
            ErrorReason::EntryNotFound,
            format!("the backup has no entry {path}: ListBackupEntries shows those it has"),
        )
        .into()
    })
}

/// The reader's own errors travel inside of io errors.
fn read_error(error: io::Error) -> Stopped {
    match error.downcast::<VaultError>() {
        Ok(error) => error.into(),
        Err(error) => Stopped::Failed(ApiError::internal("read a file of a backup", error)),
    }
}
