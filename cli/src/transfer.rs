//! Bringing bytes of a backup to a file.
//!
//! Bytes go to `FILE.part`, which becomes FILE when the last one is on the disk.
//! A stream that breaks goes on where it stopped; `--resume` does the same with
//! what an earlier run left behind. `FILE.part.etag` says which bytes those are.

use std::{
    fmt,
    future::Future,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use proto::backup::v1::{BackupEntry, DownloadBackupResponse, DownloadEntryResponse};
use tokio::{
    fs::{self, File, OpenOptions},
    io::AsyncWriteExt as _,
    signal,
    time::Instant,
};
use tonic::{Code, Response, Status, Streaming};

use crate::{
    error::{CliError, Result, is_passing},
    exit::Exit,
    output::human,
    progress::Meter,
};

/// How long a service may be away before a transfer gives up.
const AWAY_MAX: Duration = Duration::from_mins(2);
/// The pause before the first new attempt, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// One piece of a stream of bytes.
#[derive(Debug, Default)]
pub struct Piece {
    /// Where it lies in the whole.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
    /// Names exactly these bytes; first piece only.
    pub etag: String,
    /// A name for the file; first piece only.
    pub file_name: String,
    /// The entry of a backup that this is; first piece only.
    pub entry: Option<BackupEntry>,
    /// Whether it is the end.
    pub last: bool,
}

impl From<DownloadBackupResponse> for Piece {
    fn from(message: DownloadBackupResponse) -> Self {
        let DownloadBackupResponse {
            offset,
            data,
            etag,
            file_name,
            last,
        } = message;
        Self {
            offset,
            data,
            etag,
            file_name,
            last,
            entry: None,
        }
    }
}

impl From<DownloadEntryResponse> for Piece {
    fn from(message: DownloadEntryResponse) -> Self {
        let DownloadEntryResponse {
            offset,
            data,
            entry,
            last,
        } = message;
        Self {
            offset,
            data,
            entry,
            last,
            ..Self::default()
        }
    }
}

/// Where the bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// Standard output.
    Stdout,
    /// This file; a folder takes the service's name for it.
    File(PathBuf),
    /// The service's name for it, in the present folder.
    Default,
}

/// How a transfer is done.
#[derive(Debug)]
pub struct Transfer {
    /// Where to.
    pub goal: Goal,
    /// Whether a file that exists is replaced.
    pub force: bool,
    /// Whether to go on with what an earlier run left behind.
    pub resume: bool,
    /// Where progress goes.
    pub meter: Meter,
}

/// What a transfer brought.
#[derive(Debug)]
pub struct Received {
    /// The file; none for standard output.
    pub path: Option<PathBuf>,
    /// Its length.
    pub bytes: u64,
    /// What of it was there before.
    pub resumed_bytes: u64,
    /// The service's name for these bytes.
    pub etag: String,
    /// The entry, when it was one.
    pub entry: Option<BackupEntry>,
}

/// Receives a whole stream. `open` asks for it from an offset, with the etag.
pub async fn receive<M, F, O>(transfer: Transfer, open: F) -> Result<Received>
where
    M: Into<Piece>,
    F: Fn(u64, String) -> O,
    O: Future<Output = Result<Response<Streaming<M>>, Status>>,
{
    let to_file = transfer.goal != Goal::Stdout;
    tokio::select! {
        received = receive_all(transfer, open) => received,
        _ = signal::ctrl_c() => {
            let error = CliError::new(Exit::Interrupted, "interrupted");
            Err(if to_file {
                error.hint("the same command with --resume goes on where it stopped")
            } else {
                error
            })
        }
    }
}

async fn receive_all<M, F, O>(mut transfer: Transfer, open: F) -> Result<Received>
where
    M: Into<Piece>,
    F: Fn(u64, String) -> O,
    O: Future<Output = Result<Response<Streaming<M>>, Status>>,
{
    let mut stream = open(0, String::new()).await?.into_inner();
    let first: Piece = stream.message().await?.ok_or_else(cut_short)?.into();
    let mut received = Received {
        path: None,
        bytes: 0,
        resumed_bytes: 0,
        etag: first.etag.clone(),
        entry: first.entry.clone(),
    };
    let mut sink = Sink::open(&transfer, &first).await?;
    let mut piece = Some(first);
    if sink.position > 0 {
        // An earlier run has the beginning already.
        received.resumed_bytes = sink.position;
        piece = None;
        stream = match open(sink.position, received.etag.clone()).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return Err(status.into()),
        };
    }
    let (mut pause, mut last_sign) = (PAUSE.0, Instant::now());
    loop {
        let broken = 'stream: loop {
            let next = match piece.take() {
                Some(piece) => piece,
                None => match stream.message().await {
                    Ok(Some(message)) => message.into(),
                    Ok(None) => break 'stream Status::unavailable("the stream ended early"),
                    Err(status) => break 'stream status,
                },
            };
            (pause, last_sign) = (PAUSE.0, Instant::now());
            let last = next.last;
            sink.take(next).await?;
            transfer.meter.show_bytes(sink.position);
            if last {
                received.bytes = sink.position;
                received.path = sink.finish().await?;
                return Ok(received);
            }
        };
        let mut broken = broken;
        loop {
            if !is_passing(&broken) || last_sign.elapsed() > AWAY_MAX {
                return Err(explain(broken, to_file(&transfer)));
            }
            if pause == PAUSE.0 {
                let at = human::bytes(sink.position);
                transfer
                    .meter
                    .remark(&format!("connection lost at {at}, going on from there"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
            match open(sink.position, received.etag.clone()).await {
                Ok(again) => {
                    stream = again.into_inner();
                    break;
                }
                Err(status) => broken = status,
            }
        }
    }
}

fn to_file(transfer: &Transfer) -> bool {
    transfer.goal != Goal::Stdout
}

fn explain(status: Status, to_file: bool) -> CliError {
    let changed = status.code() == Code::FailedPrecondition;
    let error = CliError::from(status);
    match (to_file, changed) {
        (true, false) => error.hint("the same command with --resume goes on where it stopped"),
        _ => error,
    }
}

fn cut_short() -> CliError {
    CliError::failed("the stream ended before its end")
}

/// What takes the bytes.
struct Sink {
    /// The file, and the name it gets in the end; none: standard output.
    file: Option<(File, PathBuf)>,
    position: u64,
}

impl Sink {
    async fn open(transfer: &Transfer, first: &Piece) -> Result<Self> {
        let path = match &transfer.goal {
            Goal::Stdout => {
                return Ok(Self {
                    file: None,
                    position: 0,
                });
            }
            Goal::Default => PathBuf::from(safe_name(&first.file_name)?),
            Goal::File(path) if path.is_dir() => path.join(safe_name(&first.file_name)?),
            Goal::File(path) => path.clone(),
        };
        if !transfer.force && path.symlink_metadata().is_ok() {
            return Err(
                CliError::new(Exit::Refused, format!("{} exists", path.display()))
                    .hint("--force replaces it, -o names another"),
            );
        }
        let part = beside(&path, ".part");
        let same = transfer.resume
            && (first.etag.is_empty()
                || fs::read_to_string(beside(&path, ".part.etag"))
                    .await
                    .is_ok_and(|etag| etag.trim() == first.etag));
        let doing = || format!("write {}", part.display());
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(!same)
            .open(&part)
            .await
            .map_err(|error| CliError::io(doing(), &error))?;
        let position = if same {
            file.metadata()
                .await
                .map_err(|error| CliError::io(doing(), &error))?
                .len()
        } else {
            0
        };
        if !first.etag.is_empty() && !same {
            let etag = beside(&path, ".part.etag");
            fs::write(&etag, &first.etag)
                .await
                .map_err(|error| CliError::io(format!("write {}", etag.display()), &error))?;
        }
        let mut sink = Self {
            file: Some((file, path)),
            position,
        };
        sink.seek_to_end().await?;
        Ok(sink)
    }

    async fn seek_to_end(&mut self) -> Result<()> {
        use tokio::io::AsyncSeekExt as _;
        if let Some((file, path)) = &mut self.file {
            file.seek(io::SeekFrom::Start(self.position))
                .await
                .map_err(|error| CliError::io(format!("write {}", path.display()), &error))?;
        }
        Ok(())
    }

    async fn take(&mut self, piece: Piece) -> Result<()> {
        if piece.offset != self.position && !piece.data.is_empty() {
            return Err(CliError::failed(format!(
                "the service sent bytes for offset {} where {} was due",
                piece.offset, self.position
            )));
        }
        self.position += piece.data.len() as u64;
        match &mut self.file {
            Some((file, path)) => file
                .write_all(&piece.data)
                .await
                .map_err(|error| CliError::io(format!("write {}", path.display()), &error)),
            None => tokio::task::spawn_blocking(move || io::stdout().lock().write_all(&piece.data))
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)))
                .map_err(|error| CliError::io("write to standard output", &error)),
        }
    }

    /// The bytes are on the disk and have their name.
    async fn finish(self) -> Result<Option<PathBuf>> {
        let Some((mut file, path)) = self.file else {
            let flushed = io::stdout().lock().flush();
            return flushed
                .map(|()| None)
                .map_err(|error| CliError::io("write to standard output", &error));
        };
        let failed = |error: io::Error| CliError::io(format!("write {}", path.display()), &error);
        file.flush().await.map_err(failed)?;
        file.sync_all().await.map_err(failed)?;
        fs::rename(beside(&path, ".part"), &path)
            .await
            .map_err(failed)?;
        // Its only reader was a further run of the same download.
        let _ = fs::remove_file(beside(&path, ".part.etag")).await;
        if let Ok(folder) = File::open(
            path.parent()
                .filter(|p| !p.as_os_str().is_empty())
                .unwrap_or(Path::new(".")),
        )
        .await
        {
            folder.sync_all().await.map_err(failed)?;
        }
        Ok(Some(path))
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A name that stays in its folder, whatever the service says.
fn safe_name(name: &str) -> Result<String> {
    let base = name.rsplit('/').next().unwrap_or_default();
    let plain = !base.is_empty()
        && !matches!(base, "." | "..")
        && !base.starts_with('-')
        && !base.chars().any(char::is_control);
    if plain {
        return Ok(base.to_string());
    }
    Err(CliError::usage(format!(
        "{name:?} is no file name: name one with -o"
    )))
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", human::bytes(self.bytes))?;
        if self.resumed_bytes > 0 {
            write!(
                f,
                ", of which {} were there",
                human::bytes(self.resumed_bytes)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(path: &Path, resume: bool) -> Transfer {
        Transfer {
            goal: Goal::File(path.into()),
            force: false,
            resume,
            meter: Meter::Silent,
        }
    }

    fn piece(offset: u64, data: &'static [u8]) -> Piece {
        Piece {
            offset,
            data: Bytes::from_static(data),
            etag: "e1".into(),
            file_name: "name.tar.zst".into(),
            ..Piece::default()
        }
    }

    #[tokio::test]
    async fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("out");
        let mut sink = Sink::open(&transfer(&path, false), &piece(0, b""))
            .await
            .expect("open");
        sink.take(piece(0, b"abc")).await.expect("take");
        assert!(!path.exists());
        assert_eq!(sink.finish().await.expect("finish"), Some(path.clone()));
        assert_eq!(std::fs::read(&path).expect("read"), b"abc");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1);
        let again = Sink::open(&transfer(&path, false), &piece(0, b"")).await;
        assert_eq!(again.err().expect("exists").exit, Exit::Refused);
    }

    #[tokio::test]
    async fn resuming_needs_the_same_etag() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("out");
        let mut sink = Sink::open(&transfer(&path, false), &piece(0, b""))
            .await
            .expect("open");
        sink.take(piece(0, b"abc")).await.expect("take");
        sink.file
            .as_mut()
            .expect("file")
            .0
            .flush()
            .await
            .expect("flush");
        drop(sink);
        let sink = Sink::open(&transfer(&path, true), &piece(0, b""))
            .await
            .expect("resume");
        assert_eq!(sink.position, 3);
        drop(sink);
        let other = Piece {
            etag: "e2".into(),
            ..piece(0, b"")
        };
        let sink = Sink::open(&transfer(&path, true), &other)
            .await
            .expect("start over");
        assert_eq!(sink.position, 0);
    }

    #[tokio::test]
    async fn gaps_are_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let goal = transfer(dir.path(), false);
        let mut sink = Sink::open(&goal, &piece(0, b"")).await.expect("open");
        sink.take(piece(0, b"abc")).await.expect("take");
        assert!(sink.take(piece(4, b"e")).await.is_err());
        assert!(dir.path().join("name.tar.zst.part").exists());
    }

    #[test]
    fn names_stay_in_their_folder() {
        assert_eq!(safe_name("a.tar.zst").expect("plain"), "a.tar.zst");
        assert_eq!(safe_name("../../etc/passwd").expect("base"), "passwd");
        for wrong in ["", "..", "a/", "-rf", "a\nb"] {
            assert!(safe_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
