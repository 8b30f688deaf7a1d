//! Connections: how many, and how they end.
//!
//! tonic drains connections politely, and would wait for ever for a caller that keeps a stream
//! open. Every connection is therefore wrapped: after the hard deadline its reads and writes fail,
//! and with it all that hangs on it. The wrapper also holds the connection's place among
//! `max-connections`, and gives up on a connection that never sends its first byte.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::warn;

/// How long a connection may stay without its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(20);
/// Pause after an accept that failed (too many open files, for example).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections that come in, at most `connections_max` at a time, until `end` is canceled.
pub fn incoming(
    listener: TcpListener,
    connections_max: usize,
    end: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    stream::unfold((listener, places, end), |(listener, places, end)| async {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    let Ok(place) = places.clone().try_acquire_owned() else {
                        metrics::counter!("nora_backup_connections_refused_total").increment(1);
                        continue;
                    };
                    if let Err(error) = stream.set_nodelay(true) {
                        warn!(%error, "set TCP_NODELAY");
                    }
                    let connection = Connection::new(stream, remote, place, &end);
                    return Some((Ok(connection), (listener, places, end)));
                }
                Err(error) => {
                    warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// One connection.
pub struct Connection {
    stream: TcpStream,
    remote: SocketAddr,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    first_byte: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(
        stream: TcpStream,
        remote: SocketAddr,
        place: OwnedSemaphorePermit,
        end: &CancellationToken,
    ) -> Self {
        Self {
            stream,
            remote,
            ended: Box::pin(end.clone().cancelled_owned()),
            first_byte: Some(Box::pin(tokio::time::sleep(FIRST_BYTE))),
            _place: place,
        }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.ended.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the server has stopped",
            ));
        }
        if let Some(wait) = &mut self.first_byte
            && wait.as_mut().poll(context).is_ready()
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was sent"));
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = tonic::transport::server::TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        tonic::transport::server::TcpConnectInfo {
            local_addr: self.stream.local_addr().ok(),
            remote_addr: Some(self.remote),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.first_byte = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
