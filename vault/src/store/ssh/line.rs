//! One connection's fate, shared by everything that goes over it: once lost, it is
//! lost whole and with one cause.

use std::{
    net::{Shutdown, TcpStream},
    sync::OnceLock,
};

use tokio_util::sync::CancellationToken;

use crate::error::{StoreError, StoreErrorKind};

/// Why a connection did not come to be, or is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: StoreErrorKind,
    /// What happened and what to do, without secrets.
    pub(super) detail: String,
}

impl Fault {
    pub(super) fn new(kind: StoreErrorKind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, detail }
    }

    /// As the failure of a call.
    pub(super) fn at(self, action: &'static str, object: &str) -> StoreError {
        StoreError {
            action,
            object: object.to_owned(),
            kind: self.kind,
            detail: self.detail,
        }
    }
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said so.
    Status(super::wire::Status),
    /// The connection is gone.
    Fault(Fault),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Whether a connection lives, and if not, why.
#[derive(Debug)]
pub(super) struct Line {
    cause: OnceLock<Fault>,
    gone: CancellationToken,
    /// A second hold on the connection's socket, to end it whoever waits on it.
    socket: TcpStream,
}

impl Line {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            cause: OnceLock::new(),
            gone: CancellationToken::new(),
            socket,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        !self.gone.is_cancelled()
    }

    /// Ends the connection. The first cause counts: later ones follow from it.
    pub(super) fn lose(&self, fault: Fault) {
        // A failure to shut down means that it is down.
        let _ = self.cause.set(fault);
        self.gone.cancel();
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Returns once the connection is gone.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    pub(super) fn cause(&self) -> Fault {
        self.cause
            .get()
            .cloned()
            .unwrap_or_else(|| Fault::new(StoreErrorKind::Unavailable, "the connection was lost"))
    }
}
