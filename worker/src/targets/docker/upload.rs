//! Contents into a container: the backup as an archive, streamed as the engine unpacks it.

use std::{io, sync::Arc};

use bollard::{body_try_stream, query_parameters::UploadToContainerOptionsBuilder};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use proto::vault::v1::{Entry, EntryType};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Duration, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use vault::{BackupReader, VaultError, Walk, check_path};

use super::{super::warnings::Warnings, archive, engine_failed, mounts::Mounts};
use crate::{
    files::show,
    sources::docker::engine::{Engine, EngineError, PROGRESS_MAX},
    targets::{RestoreContext, TargetError},
    unwinding::join,
};

/// Small things are sent together, in pieces of this length.
const PIECE_BYTES: usize = 128 * 1024;
/// Pieces on their way.
const PIECES_AHEAD: usize = 16;
/// How long the engine may take for what it has taken, once everything is sent.
const FINISH_MAX: Duration = Duration::from_mins(10);
/// The largest size that a file can have.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// What the engine itself puts into every container.
const ENGINES_OWN: [&[u8]; 4] = [
    b".dockerenv",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/resolv.conf",
];

/// Which part of a backup goes into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything.
    All,
    /// What lies in volumes.
    Mounted,
    /// What does not.
    Root,
}

/// Brings a backup's contents into a container that is not started.
pub(super) struct Upload<'a> {
    pub(super) engine: &'a Engine,
    pub(super) context: &'a RestoreContext,
    pub(super) reader: &'a BackupReader,
    pub(super) mounts: &'a Arc<Mounts>,
    pub(super) may_make_devices: bool,
}

/// Why sending ended early.
enum Stop {
    /// The engine takes no more: its answer says why.
    NotTaken,
    /// It took nothing for too long.
    Stalled,
    Target(TargetError),
}

impl Upload<'_> {
    /// Uploads one part; returns when the engine has it.
    pub(super) async fn run(
        &self,
        container: &str,
        part: Part,
        warnings: &mut Warnings,
    ) -> Result<(), TargetError> {
        let (send, pieces) = mpsc::channel(PIECES_AHEAD);
        let answered = CancellationToken::new();
        let members = Members {
            mounts: self.mounts.clone(),
            part,
            may_make_devices: self.may_make_devices,
            warnings: std::mem::take(warnings),
        };
        let sink = Sink {
            runtime: Handle::current(),
            cancel: self.context.cancel.clone(),
            answered: answered.clone(),
            send,
            buffer: BytesMut::with_capacity(PIECE_BYTES),
        };
        let (reader, meter) = (self.reader.clone(), self.context.meter.clone());
        let sending = tokio::task::spawn_blocking(move || {
            let mut sending = Sending { sink, members };
            let sent = reader
                .walk(meter)
                .map_err(|error| Stop::Target(error.into()))
                .and_then(|walk| sending.send_all(walk));
            sending.sink.end(sent.is_ok());
            (sent, sending.members.warnings)
        });
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let body = body_try_stream(ReceiverStream::new(pieces).boxed());
        let engine = self.engine.clone();
        let container = container.to_owned();
        let uploading = tokio::spawn(async move {
            let call = engine
                .docker()
                .upload_to_container(&container, Some(options), body);
            let answer = call.await;
            answered.cancel();
            answer
        });
        let stop_uploading = uploading.abort_handle();
        let (sent, noted) = join(sending).await;
        *warnings = noted;
        let answer = match &sent {
            Ok(()) | Err(Stop::NotTaken) => timeout(FINISH_MAX, uploading),
            // Nothing more comes: there is no need for an answer.
            Err(_) => timeout(Duration::ZERO, uploading),
        };
        let answer = self.context.cancel.run_until_cancelled(answer).await;
        stop_uploading.abort();
        let refused = |error| match EngineError::of("take the contents", error) {
            EngineError::Refused { message, .. } if message.contains("no space left") => {
                TargetError::Unwritable(
                    "there is no room left on the Docker Engine: make room there".to_owned(),
                )
            }
            error => engine_failed(error),
        };
        match (sent, answer) {
            (Err(Stop::Target(error)), _) => Err(error),
            (_, None) => Err(TargetError::Canceled),
            (Ok(()), Some(Ok(Ok(Ok(()))))) => Ok(()),
            (Ok(()) | Err(Stop::NotTaken), Some(Ok(Ok(Err(error))))) => Err(refused(error)),
            (Err(Stop::NotTaken), Some(Ok(Ok(Ok(()))))) => Err(TargetError::Unwritable(
                "the Docker Engine took only a part of the contents: try again".to_owned(),
            )),
            (_, Some(Ok(Err(error)))) if error.is_panic() => {
                std::panic::resume_unwind(error.into_panic())
            }
            (Err(Stop::Stalled), _) => Err(TargetError::EngineUnavailable(format!(
                "the Docker Engine took no byte of the contents for {} s: look whether it works",
                PROGRESS_MAX.as_secs()
            ))),
            _ => Err(TargetError::EngineUnavailable(format!(
                "the Docker Engine has all contents, and has not said within {} s that it has \
                 unpacked them: look whether it works",
                FINISH_MAX.as_secs()
            ))),
        }
    }
}

/// Decides which entries become members.
struct Members {
    mounts: Arc<Mounts>,
    part: Part,
    may_make_devices: bool,
    warnings: Warnings,
}

impl Members {
    /// Whether an entry goes into the container.
    fn takes(&mut self, entry: &Entry) -> Result<bool, TargetError> {
        let refuse = |why: &str| {
            let path = show(&entry.path);
            Err(TargetError::EntryRefused(format!(
                "entry {path} is refused: {why}"
            )))
        };
        if let Err(why) = check_path(&entry.path) {
            return refuse(why);
        }
        let path = &entry.path;
        if path.is_empty() || ENGINES_OWN.contains(&path.as_slice()) || self.mounts.is_dropped(path)
        {
            return Ok(false);
        }
        let is_filled = self.mounts.is_filled(path);
        let is_elsewhere = match self.part {
            Part::All => self.mounts.is_mounted(path) && !is_filled,
            Part::Mounted => !is_filled,
            Part::Root => self.mounts.is_mounted(path),
        };
        if is_elsewhere {
            return Ok(false);
        }
        match entry.r#type() {
            EntryType::CharacterDevice | EntryType::BlockDevice if !self.may_make_devices => {
                self.warnings.add_common(
                    path,
                    "is a device and was left out: NORA_BACKUP_RESTORE_DEVICES does not allow \
                     devices",
                );
                return Ok(false);
            }
            EntryType::HardLink => {
                let target = &entry.link_target;
                if target.is_empty() || check_path(target).is_err() {
                    return refuse("it links to a path that is not safe");
                }
                if self.mounts.is_dropped(target) || is_filled != self.mounts.is_filled(target) {
                    self.warnings.add_common(
                        path,
                        "is another name of a file that was left out, and was too",
                    );
                    return Ok(false);
                }
            }
            EntryType::Symlink
                if entry.link_target.is_empty() || entry.link_target.contains(&0) =>
            {
                return refuse("its target is no path");
            }
            EntryType::Unspecified => return refuse("its type is not known"),
            EntryType::Regular => {
                let size = entry
                    .content
                    .as_ref()
                    .map_or(0, |content| content.size_bytes);
                if size > FILE_BYTES_MAX {
                    return refuse("no file can be that large");
                }
            }
            _ => {}
        }
        if entry.mtime_seconds < 0 {
            self.warnings
                .add_common(path, "is from before 1970, which the engine can't set");
        }
        Ok(true)
    }
}

struct Sending {
    sink: Sink,
    members: Members,
}

impl Sending {
    fn send_all(&mut self, mut walk: Walk) -> Result<(), Stop> {
        while let Some(entry) = walk.next_entry()? {
            if self.members.takes(&entry)? {
                self.send(&entry, &mut walk)?;
            }
        }
        self.sink.write(&archive::END)
    }

    fn send(&mut self, entry: &Entry, walk: &mut Walk) -> Result<(), Stop> {
        let size = match (entry.r#type(), &entry.content) {
            (EntryType::Regular, Some(content)) => content.size_bytes,
            _ => 0,
        };
        let header = archive::header(entry, size)
            .map_err(|error| TargetError::Unwritable(format!("write an archive: {error}")))?;
        self.sink.write(&header)?;
        let mut at = 0;
        while let Some((data, offset)) = walk.next_data()? {
            let end = offset.saturating_add(data.len() as u64);
            if offset < at || end > size {
                let path = show(&entry.path);
                return Err(Stop::Target(TargetError::EntryRefused(format!(
                    "entry {path} is refused: its data reaches beyond its size"
                ))));
            }
            self.sink.write_zeros(offset - at)?;
            self.sink.write_bytes(data)?;
            at = end;
        }
        self.sink.write_zeros(size - at)?;
        self.sink.write(archive::padding(size))
    }
}

impl From<VaultError> for Stop {
    fn from(error: VaultError) -> Self {
        Self::Target(match error {
            VaultError::Canceled => TargetError::Canceled,
            error => error.into(),
        })
    }
}

impl From<TargetError> for Stop {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

/// Where the archive goes. Blocks while the engine takes nothing.
struct Sink {
    runtime: Handle,
    cancel: CancellationToken,
    /// The engine has answered: it takes nothing any more.
    answered: CancellationToken,
    send: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn write_bytes(&mut self, bytes: Bytes) -> Result<(), Stop> {
        if bytes.len() < PIECE_BYTES / 2 {
            return self.write(&bytes);
        }
        self.flush()?;
        self.put(bytes)
    }

    fn write_zeros(&mut self, mut count: u64) -> Result<(), Stop> {
        static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];
        while count > 0 {
            let length = count.min(PIECE_BYTES as u64) as usize;
            self.write_bytes(Bytes::from_static(&ZEROS[..length]))?;
            count -= length as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = self.buffer.split().freeze();
        self.buffer.reserve(PIECE_BYTES);
        self.put(piece)
    }

    fn put(&mut self, piece: Bytes) -> Result<(), Stop> {
        self.runtime.block_on(async {
            tokio::select! {
                () = self.cancel.cancelled() => Err(Stop::Target(TargetError::Canceled)),
                () = self.answered.cancelled() => Err(Stop::NotTaken),
                sent = timeout(PROGRESS_MAX, self.send.send(Ok(piece))) => match sent {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(Stop::NotTaken),
                    Err(_) => Err(Stop::Stalled),
                },
            }
        })
    }

    /// Ends the archive; one that is not whole is broken off, so that the engine does not take it
    /// for whole.
    fn end(&mut self, is_whole: bool) {
        if !is_whole || self.flush().is_err() {
            let broken = Err(io::Error::other("the archive is broken off"));
            let _ = self.send.try_send(broken);
        }
    }
}
