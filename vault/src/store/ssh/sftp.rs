//! A client of one SFTP channel: any number of requests under way at once, each
//! answered in its own time, none waited for without end.
//!
//! ```text
//!  calls ──frames──► writer task ──► channel ──► server
//!    ▲                                             │
//!    └──────replies── reader task ◄── channel ◄────┘
//! ```
//!
//! Calls never write to the channel themselves: one that is dropped in the middle
//! must not leave half a request behind.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client::Msg};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{
    limits::{BLOCK_BYTES, BLOCK_BYTES_SAFE, REPLY_MAX, STALL},
    line::{Failure, Fault, Line},
    wire::{Attributes, Frame, Hello, Incoming, Limits, Reply, Request, Status, hello, status},
};
use crate::error::StoreErrorKind;

/// What a server can do beyond version 3.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Features {
    pub(super) fsync: bool,
    pub(super) posix_rename: bool,
    pub(super) file_system: bool,
    limits: bool,
}

impl Features {
    fn of(hello: &Hello) -> Self {
        let has = |name| hello.extensions.iter().any(|extension| extension == name);
        Self {
            fsync: has("fsync@openssh.com"),
            posix_rename: has("posix-rename@openssh.com"),
            file_system: has("statvfs@openssh.com"),
            limits: has("limits@openssh.com"),
        }
    }
}

/// One SFTP channel.
#[derive(Debug)]
pub(super) struct Sftp {
    frames: mpsc::UnboundedSender<Frame>,
    shared: Arc<Shared>,
    next_id: AtomicU32,
    pub(super) features: Features,
    /// Bytes that one read or write carries.
    pub(super) block_bytes: usize,
    /// How many calls use it.
    users: AtomicUsize,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Debug)]
struct Shared {
    line: Arc<Line>,
    waiting: Mutex<Waiting>,
    begin: Instant,
    /// When anything last arrived or was taken over, since `begin`.
    moved_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    replies: HashMap<u32, oneshot::Sender<Reply>>,
    closed: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        let now_ms = self.begin.elapsed().as_millis() as u64;
        self.moved_ms.store(now_ms, Relaxed);
    }

    fn last_moved(&self) -> Instant {
        self.begin + Duration::from_millis(self.moved_ms.load(Relaxed))
    }

    /// Nobody waits any more: all learn from the line what happened.
    fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        waiting.replies.clear();
    }
}

impl Drop for Sftp {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Sftp {
    /// Starts the subsystem on a new channel.
    pub(super) async fn start(channel: Channel<Msg>, line: &Arc<Line>) -> Result<Self, Fault> {
        let lost = |_| line.cause();
        channel
            .request_subsystem(true, "sftp")
            .await
            .map_err(lost)?;
        let (mut reader, writer) = channel.split();
        let mut incoming = Incoming::default();
        let mut accepted = false;
        let (frames, to_write) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            line: line.clone(),
            waiting: Mutex::default(),
            begin: Instant::now(),
            moved_ms: AtomicU64::new(0),
        });
        while !accepted {
            match reader.wait().await {
                Some(ChannelMsg::Success) => accepted = true,
                Some(ChannelMsg::Failure) => return Err(no_subsystem()),
                Some(ChannelMsg::WindowAdjusted { .. }) => {}
                Some(_) => return Err(no_sftp()),
                None => return Err(line.cause()),
            }
        }
        let write = tokio::spawn(write_frames(writer, to_write, shared.clone()));
        let _ = frames.send(hello());
        let hello = loop {
            match reader.wait().await {
                Some(ChannelMsg::Data { data }) => {
                    incoming.push(data);
                    match incoming.next_hello() {
                        Ok(Some(hello)) => break hello,
                        Ok(None) => {}
                        Err(_) => return Err(no_sftp()),
                    }
                }
                Some(ChannelMsg::WindowAdjusted { .. } | ChannelMsg::ExtendedData { .. }) => {}
                Some(_) => return Err(no_sftp()),
                None => return Err(line.cause()),
            }
        };
        let read = tokio::spawn(read_replies(
            reader,
            incoming,
            frames.clone(),
            shared.clone(),
        ));
        let mut sftp = Self {
            frames,
            shared,
            next_id: AtomicU32::new(1),
            features: Features::of(&hello),
            block_bytes: BLOCK_BYTES_SAFE,
            users: AtomicUsize::new(0),
            tasks: [write, read],
        };
        sftp.block_bytes = sftp.block().await?;
        Ok(sftp)
    }

    async fn block(&self) -> Result<usize, Fault> {
        if !self.features.limits {
            return Ok(BLOCK_BYTES_SAFE);
        }
        match self.send(Request::Limits).reply().await {
            Ok(Reply::Extended(reply)) => {
                let limits = Limits::parse(reply).map_err(|_| no_sftp())?;
                let bytes = limits.read_bytes.min(limits.write_bytes) as usize;
                // 0 means that there is no limit.
                Ok(if bytes == 0 { BLOCK_BYTES } else { bytes }.min(BLOCK_BYTES))
            }
            Ok(_) | Err(Failure::Status(_)) => Ok(BLOCK_BYTES_SAFE),
            Err(Failure::Fault(fault)) => Err(fault),
        }
    }

    /// Counts a call while the returned value lives.
    pub(super) fn in_use(self: &Arc<Self>) -> InUse {
        self.users.fetch_add(1, Relaxed);
        InUse(self.clone())
    }

    pub(super) fn users(&self) -> usize {
        self.users.load(Relaxed)
    }

    /// Sends a request. Its answer can be waited for; a dropped one is ignored.
    pub(super) fn send(&self, request: Request<'_>) -> Pending<'_> {
        let id = self.next_id.fetch_add(1, Relaxed);
        let (answer, receiver) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting();
            // Dropped at once when closed: the receiver tells.
            if !waiting.closed {
                waiting.replies.insert(id, answer);
            }
        }
        let _ = self.frames.send(request.encode(id));
        Pending {
            sftp: self,
            receiver,
            since: Instant::now(),
        }
    }

    /// Sends a request whose answer nobody needs.
    pub(super) fn post(&self, request: Request<'_>) {
        let id = self.next_id.fetch_add(1, Relaxed);
        let _ = self.frames.send(request.encode(id));
    }

    pub(super) async fn done(&self, request: Request<'_>) -> Result<(), Failure> {
        self.send(request).done().await
    }

    pub(super) async fn handle(&self, request: Request<'_>) -> Result<Bytes, Failure> {
        match self.send(request).reply().await? {
            Reply::Handle(handle) => Ok(handle),
            other => Err(self.unexpected(other)),
        }
    }

    pub(super) async fn attributes(&self, request: Request<'_>) -> Result<Attributes, Failure> {
        match self.send(request).reply().await? {
            Reply::Attributes(attributes) => Ok(attributes),
            other => Err(self.unexpected(other)),
        }
    }

    /// An answer of the wrong sort: a status that says why, or not SFTP.
    pub(super) fn unexpected(&self, reply: Reply) -> Failure {
        match reply {
            Reply::Status(status) if status.code != status::OK => Failure::Status(status),
            _ => {
                self.shared.line.lose(no_sftp());
                self.shared.line.cause().into()
            }
        }
    }
}

/// A channel that a call uses.
#[derive(Debug)]
pub(super) struct InUse(Arc<Sftp>);

impl std::ops::Deref for InUse {
    type Target = Arc<Sftp>;

    fn deref(&self) -> &Arc<Sftp> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Relaxed);
    }
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Pending<'a> {
    sftp: &'a Sftp,
    receiver: oneshot::Receiver<Reply>,
    since: Instant,
}

impl Pending<'_> {
    /// Waits for the answer, as long as the channel moves at all.
    pub(super) async fn reply(mut self) -> Result<Reply, Failure> {
        let shared = &self.sftp.shared;
        loop {
            let still = STALL.saturating_sub(self.since.max(shared.last_moved()).elapsed());
            let left = REPLY_MAX.saturating_sub(self.since.elapsed());
            match timeout(still.min(left), &mut self.receiver).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(_)) => return Err(shared.line.cause().into()),
                Err(_) => {
                    let stalled = self.since.max(shared.last_moved()).elapsed() >= STALL;
                    if stalled || self.since.elapsed() >= REPLY_MAX {
                        shared.line.lose(Fault::new(
                            StoreErrorKind::Timeout,
                            format!(
                                "the server answered nothing for {} s; the connection was given up",
                                if stalled { STALL } else { REPLY_MAX }.as_secs()
                            ),
                        ));
                        return Err(shared.line.cause().into());
                    }
                }
            }
        }
    }

    /// Waits for the answer that it is done.
    pub(super) async fn done(self) -> Result<(), Failure> {
        let sftp = self.sftp;
        match self.reply().await? {
            Reply::Status(Status {
                code: status::OK, ..
            }) => Ok(()),
            other => Err(sftp.unexpected(other)),
        }
    }
}

fn no_subsystem() -> Fault {
    Fault::new(
        StoreErrorKind::Misconfigured,
        "the server has no SFTP for this user: have `Subsystem sftp internal-sftp` in its sshd_config",
    )
}

fn no_sftp() -> Fault {
    Fault::new(
        StoreErrorKind::Misconfigured,
        "what answers to the request for SFTP does not speak it: is there a forced command for this user, or a start-up file that prints something?",
    )
}

async fn write_frames(
    writer: ChannelWriteHalf<Msg>,
    mut frames: mpsc::UnboundedReceiver<Frame>,
    shared: Arc<Shared>,
) {
    while let Some(Frame { head, body }) = frames.recv().await {
        for piece in [head, body] {
            // An error means that the connection ended, of which the reader tells.
            if writer.data_bytes(piece).await.is_err() {
                return;
            }
            shared.moved();
        }
    }
}

async fn read_replies(
    mut reader: ChannelReadHalf,
    mut incoming: Incoming,
    frames: mpsc::UnboundedSender<Frame>,
    shared: Arc<Shared>,
) {
    let fault = loop {
        let message = tokio::select! {
            message = reader.wait() => message,
            () = shared.line.gone() => None,
        };
        let data = match message {
            Some(ChannelMsg::Data { data }) => data,
            Some(ChannelMsg::ExitStatus { exit_status }) => {
                break Fault::new(
                    StoreErrorKind::Unavailable,
                    format!("the server's SFTP ended with status {exit_status}"),
                );
            }
            Some(ChannelMsg::Close | ChannelMsg::Eof) => {
                break Fault::new(StoreErrorKind::Unavailable, "the server's SFTP ended");
            }
            Some(_) => continue,
            None => break shared.line.cause(),
        };
        shared.moved();
        incoming.push(data);
        if deliver(&mut incoming, &frames, &shared).is_err() {
            break Fault::new(
                StoreErrorKind::Unavailable,
                "the server's SFTP sent what is none; the connection was given up",
            );
        }
    };
    shared.line.lose(fault);
    shared.close();
}

/// Hands the replies that are whole to those who wait for them.
fn deliver(
    incoming: &mut Incoming,
    frames: &mpsc::UnboundedSender<Frame>,
    shared: &Shared,
) -> Result<(), super::wire::Garbled> {
    while let Some((id, reply)) = incoming.next_reply()? {
        let waiting = shared.waiting().replies.remove(&id);
        let left_over = match waiting {
            Some(waiting) => waiting.send(reply).err(),
            None => None,
        };
        // Nobody wants the file any more that was opened for someone.
        if let Some(Reply::Handle(handle)) = left_over {
            let _ = frames.send(Request::Close(&handle).encode(0));
        }
    }
    Ok(())
}
