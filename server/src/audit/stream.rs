//! A stream that is noted when it has ended: with how it ended, and how much it carried.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

use super::Note;

/// The body of a stream, and the note of its call. Dropped before its end, its caller has left.
pub(super) struct Noted {
    body: Body,
    note: Note,
    sent_bytes: u64,
}

impl Noted {
    pub(super) fn new(body: Body, note: Note) -> Self {
        Self {
            body,
            note,
            sent_bytes: 0,
        }
    }
}

impl HttpBody for Noted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(ready) = &polled {
            match ready {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.sent_bytes += data.len() as u64;
                    }
                    if let Some(trailers) = frame.trailers_ref() {
                        let status = Status::from_header_map(trailers);
                        let (status, sent) =
                            (status.unwrap_or_else(|| Status::ok("")), self.sent_bytes);
                        self.note.streamed(&status, sent);
                    }
                }
                Some(Err(status)) => {
                    let (status, sent) = (status.clone(), self.sent_bytes);
                    self.note.streamed(&status, sent);
                }
                None => {
                    let sent = self.sent_bytes;
                    self.note.streamed(&Status::ok(""), sent);
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let sent = self.sent_bytes;
        self.note.streamed(&Status::cancelled(""), sent);
    }
}
