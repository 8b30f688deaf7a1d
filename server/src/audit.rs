//! Who did what: the last gate before the services, for every rpc that changes something, reads
//! out what backups hold, or is an administrator's (`methods` says which).
//!
//! - `resources`: which ids the messages of a call name
//! - `log`: the way into the catalog
//! - `stream`: a download is noted when it has ended, with what it carried
//!
//! A call is noted however it ends: also when it is refused, runs out of time or is left by its
//! caller. What authentication and admission refuse does not come here: it is counted as a metric,
//! so that nobody without a right to call can fill the log.

use std::sync::Arc;

use bytes::Bytes;
use catalog::AuditEntry;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use tonic::{Code, Status, body::Body, transport::server::TcpConnectInfo};

use crate::{
    auth::Caller,
    clock::now_ms,
    gate::{Answer, Behind, Gate},
    listeners::{Face, REQUEST_BYTES_MAX},
    methods::{Method, Methods, Sort},
};

mod log;
mod resources;
mod stream;

pub use log::AuditLog;
use stream::Noted;

/// A request's message and what stands before it.
const BODY_BYTES_MAX: usize = REQUEST_BYTES_MAX + 1_024;
/// A longer name of a call is cut.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// Notes calls.
pub struct AuditGate {
    methods: Arc<Methods>,
    log: AuditLog,
    face: Face,
}

impl AuditGate {
    /// For the calls of one listener.
    pub fn new(methods: Arc<Methods>, log: AuditLog, face: Face) -> Self {
        Self { methods, log, face }
    }
}

impl Gate for AuditGate {
    fn pass<S: Behind>(&self, mut behind: S, request: http::Request<Body>) -> Answer<S::Error> {
        let method = self.methods.get(request.uri().path());
        let caller = request.extensions().get::<Caller>();
        let (Some(method), Some(caller)) = (method.filter(|method| method.audited), caller) else {
            return Box::pin(behind.call(request));
        };
        let entry = begun(method, caller, self.face, &request);
        let note = Note::new(self.log.clone(), entry);
        Box::pin(serve(behind, request, method.clone(), note))
    }
}

async fn serve<S: Behind>(
    mut behind: S,
    request: http::Request<Body>,
    method: Method,
    mut note: Note,
) -> Result<http::Response<Body>, S::Error> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let status = if error.is::<LengthLimitError>() {
                Status::out_of_range(format!(
                    "the request is larger than {REQUEST_BYTES_MAX} bytes: send less at a time"
                ))
            } else {
                Status::cancelled("the request did not come to its end")
            };
            note.answered(&status).await;
            return Ok(status.into_http());
        }
    };
    note.names(resources::first_message(&method.input, &body));
    let request = http::Request::from_parts(parts, Body::new(Full::new(body)));
    let answer = behind.call(request).await?;
    if let Some(status) = Status::from_header_map(answer.headers()) {
        note.answered(&status).await;
        return Ok(answer);
    }
    if method.sort != Sort::Call {
        let (parts, body) = answer.into_parts();
        return Ok(http::Response::from_parts(
            parts,
            Body::new(Noted::new(body, note)),
        ));
    }
    unary(answer, &method, note).await
}

/// Reads what the call made out of its answer, and hands the same answer on.
async fn unary<E>(
    answer: http::Response<Body>,
    method: &Method,
    mut note: Note,
) -> Result<http::Response<Body>, E> {
    let (parts, body) = answer.into_parts();
    let collected = match body.collect().await {
        Ok(collected) => collected,
        Err(status) => {
            note.answered(&status).await;
            return Ok(status.into_http());
        }
    };
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let bytes: Bytes = collected.to_bytes();
    note.names(resources::first_message(&method.output, &bytes));
    let status = Status::from_header_map(&trailers);
    note.answered(&status.unwrap_or_else(|| Status::ok("")))
        .await;
    let body = Full::new(bytes).with_trailers(std::future::ready(Some(Ok(trailers))));
    Ok(http::Response::from_parts(parts, Body::new(body)))
}

/// What is known of a call before it is served.
fn begun(
    method: &Method,
    caller: &Caller,
    face: Face,
    request: &http::Request<Body>,
) -> AuditEntry {
    let request_id = request
        .headers()
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
        .map(|text| text.chars().take(REQUEST_ID_CHARS_MAX).collect())
        .unwrap_or_default();
    AuditEntry {
        caller_id: caller.id.clone(),
        role: caller.role.name().to_owned(),
        method: method.label.to_owned(),
        peer: peer(request.extensions()).unwrap_or_default(),
        request_id,
        listener: face.name().to_owned(),
        ..AuditEntry::default()
    }
}

/// Where a connection comes from.
fn peer(extensions: &http::Extensions) -> Option<String> {
    use tonic::transport::server::TlsConnectInfo;
    let plain = extensions.get::<TcpConnectInfo>();
    let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
    plain
        .or_else(|| tls.map(TlsConnectInfo::get_ref))
        .and_then(TcpConnectInfo::remote_addr)
        .map(|address| address.to_string())
}

/// A call that is under way. Dropped without an answer, it was left.
struct Note {
    log: AuditLog,
    entry: Option<AuditEntry>,
}

impl Note {
    fn new(log: AuditLog, entry: AuditEntry) -> Self {
        Self {
            log,
            entry: Some(entry),
        }
    }

    fn names(&mut self, found: resources::Found) {
        let Some(entry) = &mut self.entry else { return };
        for resource in found.resources {
            if !entry.resources.contains(&resource) {
                entry.resources.push(resource);
            }
        }
        if entry.request_id.is_empty() {
            entry.request_id = found.request_id;
        }
    }

    fn ended(&mut self, status: &Status) -> Option<AuditEntry> {
        use tonic_types::StatusExt as _;
        let mut entry = self.entry.take()?;
        entry.time_ms = now_ms();
        code_name(status.code()).clone_into(&mut entry.code);
        entry.reason = status
            .get_details_error_info()
            .map_or_else(String::new, |info| info.reason);
        Some(entry)
    }

    /// Writes how it was answered.
    async fn answered(&mut self, status: &Status) {
        if let Some(entry) = self.ended(status) {
            self.log.write(entry).await;
        }
    }

    /// The same for a stream: nobody can wait.
    fn streamed(&mut self, status: &Status, sent_bytes: u64) {
        if let Some(mut entry) = self.ended(status) {
            entry.sent_bytes = sent_bytes;
            self.log.note(entry);
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(entry) = self.ended(&Status::cancelled("")) {
            self.log.note(entry);
        }
    }
}

/// The canonical name of a code.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
