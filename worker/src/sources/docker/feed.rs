//! An archive of the engine as a blocking reader.
//!
//! A task takes the pieces as they come, with a limit on how long none may come, and hands them
//! over through a bounded channel: a slow reader slows the engine down, and nothing piles up.

use std::io::{self, Read};

use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use bytes::{Buf, Bytes};
use futures::StreamExt as _;
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::engine::{Engine, EngineError, PROGRESS_MAX};

/// Pieces on their way; the engine sends at most about 64 KiB in one.
const PIECES_AHEAD: usize = 64;

/// Why a stream ended before its end.
#[derive(Debug)]
pub(super) enum Fault {
    /// The job was told to end.
    Canceled,
    /// The engine did not answer, refused, or fell silent.
    Engine(EngineError),
    /// The archive ends in the middle: the engine stops there when a file got shorter or vanished
    /// while it read it.
    CutShort,
    /// The archive is none, or one that is not understood.
    Malformed(&'static str),
}

/// Reads an archive's bytes. Must be used, and dropped, outside of the async runtime.
pub(super) struct Feed {
    runtime: Handle,
    pieces: Option<mpsc::Receiver<Result<Bytes, Fault>>>,
    current: Bytes,
    task: Option<JoinHandle<()>>,
    fault: Option<Fault>,
}

impl Feed {
    /// Asks for the archive of a path.
    pub(super) fn start(
        runtime: &Handle,
        engine: &Engine,
        container: &str,
        path: &str,
        cancel: &CancellationToken,
    ) -> Self {
        let options = DownloadFromContainerOptionsBuilder::new()
            .path(path)
            .build();
        let mut body = engine
            .docker()
            .download_from_container(container, Some(options))
            .boxed();
        let cancel = cancel.clone();
        let (send, pieces) = mpsc::channel(PIECES_AHEAD);
        let task = runtime.spawn(async move {
            loop {
                let piece = tokio::select! {
                    () = cancel.cancelled() => Some(Err(Fault::Canceled)),
                    () = send.closed() => return,
                    piece = timeout(PROGRESS_MAX, body.next()) => match piece {
                        Ok(piece) => piece.map(|piece| piece.map_err(|error| {
                            Fault::Engine(EngineError::of("read a path of the container", error))
                        })),
                        Err(_) => Some(Err(Fault::Engine(EngineError::Unavailable(format!(
                            "it sent no byte for {} s", PROGRESS_MAX.as_secs()
                        ))))),
                    },
                };
                let Some(piece) = piece else { return };
                let is_last = piece.is_err();
                if send.send(piece).await.is_err() || is_last {
                    return;
                }
            }
        });
        Self {
            runtime: runtime.clone(),
            pieces: Some(pieces),
            current: Bytes::new(),
            task: Some(task),
            fault: None,
        }
    }

    /// Why the last read failed.
    pub(super) fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let next = self.pieces.as_mut().and_then(mpsc::Receiver::blocking_recv);
            match next {
                None => return Ok(0),
                Some(Ok(piece)) => self.current = piece,
                Some(Err(fault)) => {
                    self.fault = Some(fault);
                    return Err(io::Error::other("the archive's stream ended early"));
                }
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

impl Drop for Feed {
    /// The engine keeps a container for itself while it sends an archive of it: the stream is
    /// gone when this returns, so that what comes next does not have to wait.
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = self.runtime.block_on(task);
        }
    }
}
