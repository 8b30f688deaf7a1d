//! HTTP as OpenDAL is given it. Bytes that go out and bytes that come in are
//! watched: a call that moves none for [`STALL`] has failed. What a service says it
//! has stored is compared with what was sent.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http::{
    HeaderMap, Method, Request, Response,
    header::{CONTENT_LENGTH, ETAG},
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use opendal::{Buffer, HttpBody, HttpTransport};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    connect::{Connector, words},
    failure::{Answer, Asked, Failure, Site, hex_of_base64},
};
use crate::error::StoreErrorKind;

/// A call that moves no byte for this long has failed.
pub(super) const STALL: Duration = Duration::from_mins(1);
/// Pieces in which a body goes out: so often is looked whether it moves.
const PIECE_BYTES: usize = 256 * 1024;
/// What the system may hold of a body that was handed over whole, and the slowest
/// line that is waited for to send it. On a slow line it holds little: twice what is
/// under way there.
const HELD_BYTES_MAX: u64 = 1024 * 1024;
const HELD_BYTES_PER_SECOND: u64 = 64 * 1024;
/// Connections that nobody used for so long may have been forgotten on the way.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// Longest error document that is read.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Sends OpenDAL's requests.
pub(super) struct Transport {
    client: Client<Connector, Outgoing>,
    site: Arc<Site>,
}

impl Transport {
    pub(super) fn new(site: Arc<Site>) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(Connector::new(&site.field("endpoint")));
        Self { client, site }
    }

    async fn send(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, Failure> {
        let asked = Asked::of(&request);
        let sent_md5 = md5_of(request.headers());
        let (parts, body) = request.into_parts();
        let is_head = parts.method == Method::HEAD;
        let progress = Arc::new(Progress::default());
        let body = Outgoing::new(&body, progress.clone());
        let response = tokio::select! {
            response = self.client.request(Request::from_parts(parts, body)) => {
                response.map_err(|error| self.unanswered(&error))?
            }
            () = progress.stalled() => return Err(self.stalled(&asked)),
        };
        let status = response.status();
        let (mut parts, body) = response.into_parts();
        let mut incoming = Arriving {
            body,
            deadline: Box::pin(sleep_until(Instant::now() + STALL)),
            site: self.site.clone(),
            asked,
        };
        if status.is_success() {
            if sent_md5.is_some_and(|sent| !self.site.confirms(&sent, &parts.headers)) {
                // Without it the object is looked at as one of which nothing is known.
                parts.headers.remove(ETAG);
            }
            let length = parts
                .headers
                .get(CONTENT_LENGTH)
                .and_then(|length| length.to_str().ok()?.parse().ok())
                .filter(|_| !is_head);
            let body = HttpBody::new(incoming, length);
            return Ok(Response::from_parts(parts, body));
        }
        let mut document = BytesMut::new();
        while let Some(piece) = incoming.next().await {
            let piece = piece?;
            let room = ERROR_BYTES_MAX - document.len();
            document.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() >= room {
                break;
            }
        }
        let answer = Answer {
            status,
            headers: &parts.headers,
            document: &String::from_utf8_lossy(&document),
        };
        if let Some(failure) = self.site.failure(&incoming.asked, &answer) {
            return Err(failure);
        }
        // What belongs to normal work is left to OpenDAL.
        let document = document.freeze();
        let length = document.len() as u64;
        let body = futures::stream::iter([Ok(Buffer::from(document))]);
        Ok(Response::from_parts(
            parts,
            HttpBody::new(body, Some(length)),
        ))
    }

    fn stalled(&self, asked: &Asked) -> Failure {
        self.site.stalled(asked, STALL)
    }

    /// Why there was no answer.
    fn unanswered(&self, error: &hyper_util::client::legacy::Error) -> Failure {
        unanswered(error, &self.site)
    }
}

fn unanswered(error: &(dyn std::error::Error + 'static), site: &Site) -> Failure {
    let mut cause = Some(error);
    let (mut io, mut http) = (None, None);
    while let Some(error) = cause {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return failure.clone();
        }
        io = error.downcast_ref::<std::io::Error>().or(io);
        http = error.downcast_ref::<hyper::Error>().or(http);
        cause = error.source();
    }
    let place = site.authority();
    let detail = match (http, io) {
        (Some(http), _) if http.is_parse() || http.is_parse_status() => format!(
            "{place} does not answer in HTTP: check {} (http:// or https://, and the port)",
            site.field("endpoint")
        ),
        (_, Some(io)) => format!("the connection to {place} broke: {}", words(io)),
        _ => format!("{place} closed the connection before it had answered"),
    };
    Failure::passing(StoreErrorKind::Unavailable, detail)
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        self.send(request).await.map_err(opendal::Error::from)
    }
}

/// The MD5 that a request carries, as S3 writes an ETag.
fn md5_of(headers: &HeaderMap) -> Option<String> {
    hex_of_base64(headers.get("content-md5")?.to_str().ok()?)
}

/// How far a request has come.
struct Progress {
    moved: Mutex<Instant>,
    /// What is waited beyond [`STALL`] for what the system still holds, in ms.
    grace_ms: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            moved: Mutex::new(Instant::now()),
            grace_ms: AtomicU64::new(0),
        }
    }
}

impl Progress {
    fn moved(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn deadline(&self) -> Instant {
        let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        moved + STALL + Duration::from_millis(self.grace_ms.load(Relaxed))
    }

    /// Returns once nothing has moved for too long.
    async fn stalled(&self) {
        loop {
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

/// A body that goes out in pieces.
struct Outgoing {
    pieces: std::collections::VecDeque<Bytes>,
    left: u64,
    length: u64,
    progress: Arc<Progress>,
}

impl Outgoing {
    fn new(body: &Buffer, progress: Arc<Progress>) -> Self {
        let mut pieces = std::collections::VecDeque::new();
        for mut part in body.clone() {
            while part.len() > PIECE_BYTES {
                pieces.push_back(part.split_to(PIECE_BYTES));
            }
            if !part.is_empty() {
                pieces.push_back(part);
            }
        }
        let length = body.len() as u64;
        Self {
            pieces,
            left: length,
            length,
            progress,
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let piece = this.pieces.pop_front();
        if let Some(piece) = &piece {
            this.left -= piece.len() as u64;
            this.progress.moved();
            if this.left == 0 {
                let held_ms = this.length.min(HELD_BYTES_MAX) * 1000 / HELD_BYTES_PER_SECOND;
                this.progress.grace_ms.store(held_ms, Relaxed);
            }
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A body that comes in.
struct Arriving {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
    site: Arc<Site>,
    asked: Asked,
}

impl Arriving {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        loop {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(self.deadline.as_mut().poll(cx));
                    return Poll::Ready(Some(Err(self.site.stalled(&self.asked, STALL))));
                }
            };
            self.deadline.as_mut().reset(Instant::now() + STALL);
            return Poll::Ready(match frame {
                None => None,
                Some(Err(error)) => Some(Err(unanswered(&error, &self.site))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => Some(Ok(piece)),
                    // Trailers say nothing that is needed.
                    Err(_) => continue,
                },
            });
        }
    }

    async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        std::future::poll_fn(|cx| self.poll_piece(cx)).await
    }
}

impl Stream for Arriving {
    type Item = opendal::Result<Buffer>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = ready!(self.get_mut().poll_piece(cx));
        Poll::Ready(piece.map(|piece| piece.map(Buffer::from).map_err(opendal::Error::from)))
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({})", self.site.authority())
    }
}
