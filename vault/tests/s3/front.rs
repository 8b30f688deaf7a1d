//! Servers in front of, or in place of, the real one, that know where a request
//! begins: one loses requests or answers of a sort, one says always the same.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What becomes of requests of the sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The server does not get them.
    Request,
    /// It does, and its answer is lost.
    Answer,
}

/// Stands before a server and ends the connection instead of passing on a request
/// of one sort, or the answer to it. Ends when dropped.
pub struct Front {
    pub port: u16,
    lost: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Front {
    /// Loses the first `times` requests that begin with `method`, or their answers.
    pub async fn start(
        upstream: SocketAddr,
        method: &'static str,
        loss: Loss,
        times: usize,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let lost = Arc::new(AtomicUsize::new(0));
        let way = Way {
            upstream,
            method,
            loss,
            times,
            lost: lost.clone(),
        };
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(way.clone().carry(client));
            }
        });
        Self { port, lost, task }
    }

    /// How many were lost so far.
    pub fn lost(&self) -> usize {
        self.lost.load(SeqCst)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Way {
    upstream: SocketAddr,
    method: &'static str,
    loss: Loss,
    times: usize,
    lost: Arc<AtomicUsize>,
}

impl Way {
    /// Requests come one after the other: what the client sends after an answer is
    /// the beginning of one.
    async fn carry(self, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(self.upstream).await else {
            return;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        let (mut begins, mut strikes) = (true, false);
        loop {
            tokio::select! {
                read = client.read(&mut up) => {
                    let Ok(length @ 1..) = read else { return };
                    if begins {
                        let is_meant = up[..length].starts_with(self.method.as_bytes());
                        strikes = is_meant && self.lost.load(SeqCst) < self.times;
                    }
                    begins = false;
                    if strikes && self.loss == Loss::Request {
                        self.lost.fetch_add(1, SeqCst);
                        return;
                    }
                    if server.write_all(&up[..length]).await.is_err() {
                        return;
                    }
                }
                read = server.read(&mut down) => {
                    let Ok(length @ 1..) = read else { return };
                    if strikes {
                        self.lost.fetch_add(1, SeqCst);
                        return;
                    }
                    begins = true;
                    if client.write_all(&down[..length]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// A server that gives the same answer to everything; ends when dropped.
pub struct Canned {
    pub port: u16,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Canned {
    /// One that speaks HTTP: a status line without its version, headers with their
    /// line ends, and a body.
    pub async fn http(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::start(format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n\
             {body}"
        ))
        .await
    }

    /// One that answers as S3 does.
    pub async fn s3(status: &str, headers: &str, code: &str, rest: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>{rest}\
             <RequestId>1</RequestId></Error>"
        );
        Self::http(status, headers, &body).await
    }

    /// One that sends this, once something was asked, and closes.
    pub async fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                counted.fetch_add(1, SeqCst);
                let mut request = [0; 16 * 1024];
                // What is sent here is short: it comes at once.
                let _ = client.read(&mut request).await;
                let _ = client.write_all(answer.as_bytes()).await;
                let _ = client.shutdown().await;
                // Until the client has seen it: an early close would cut the answer.
                while matches!(client.read(&mut request).await, Ok(1..)) {}
            }
        });
        Self { port, asked, task }
    }

    /// Connections so far, each with one request.
    pub fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.task.abort();
    }
}
