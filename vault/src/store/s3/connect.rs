//! Connections to the service: its name is looked up, TCP connects, TLS shakes
//! hands; each failure tells which of them it was.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustix::net::sockopt;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{failure::Failure, transport::STALL};
use crate::error::StoreErrorKind;

/// From the name to a connection that can be used.
const CONNECT_MAX: Duration = Duration::from_secs(8);
/// Silence on the wire before TCP asks whether the other side still is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// Makes connections for hyper's client.
#[derive(Clone)]
pub(super) struct Connector {
    tls: Arc<ClientConfig>,
    /// Certificates of authorities that the system has.
    authorities: usize,
    /// The name of the field that holds the address.
    field: Arc<str>,
}

impl Connector {
    pub(super) fn new(field: &str) -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (authorities, _) = roots.add_parsable_certificates(found.certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows the versions of TLS that are safe")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            tls: Arc::new(tls),
            authorities,
            field: field.into(),
        }
    }

    async fn connect(self, uri: Uri) -> Result<Wire, Failure> {
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().to_owned();
        let bare = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let (place, field) = (format!("{host}:{port}"), self.field.clone());
        let deadline = Instant::now() + CONNECT_MAX;
        let late = |stage: &str| {
            let detail = format!(
                "{place} does not answer: no {stage} within {} s; check {field} and that this \
                 machine may connect there",
                CONNECT_MAX.as_secs()
            );
            Failure::lasting(StoreErrorKind::Unavailable, detail)
        };
        let addresses: Vec<SocketAddr> = timeout_at(deadline, lookup_host((bare.as_str(), port)))
            .await
            .map_err(|_| late("address for the name"))?
            .map_err(|error| {
                let detail = format!(
                    "the name {bare} of {place} is not known to DNS: {}; check {field}",
                    words(&error)
                );
                Failure::passing(StoreErrorKind::Unavailable, detail)
            })?
            .collect();
        let mut reached = Err(io::Error::other("the name has no address"));
        for address in addresses {
            reached = timeout_at(deadline, TcpStream::connect(address))
                .await
                .map_err(|_| late("connection"))?;
            if reached.is_ok() {
                break;
            }
        }
        let tcp = reached.map_err(|error| {
            let detail = format!(
                "connect to {place}: {}; does the service run there, and is {field} right?",
                words(&error)
            );
            Failure::passing(StoreErrorKind::Unavailable, detail)
        })?;
        prepare(&tcp).map_err(|error| {
            let detail = format!("prepare the connection to {place}: {}", words(&error));
            Failure::passing(StoreErrorKind::Unavailable, detail)
        })?;
        if !is_tls {
            return Ok(Wire::Plain(TokioIo::new(tcp)));
        }
        let name = ServerName::try_from(bare).map_err(|_| {
            let detail = format!("{host} is no name that a certificate could have: check {field}");
            Failure::lasting(StoreErrorKind::Misconfigured, detail)
        })?;
        let shaken = timeout_at(deadline, TlsConnector::from(self.tls).connect(name, tcp))
            .await
            .map_err(|_| late("TLS"))?;
        match shaken {
            Ok(tls) => Ok(Wire::Tls(Box::new(TokioIo::new(tls)))),
            Err(error) => Err(tls_failure(&place, &field, &error, self.authorities)),
        }
    }
}

/// Small requests are not held back, and a side that is gone is noticed.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_IDLE)?;
    // What was sent and is not acknowledged for so long is lost.
    sockopt::set_tcp_user_timeout(tcp, STALL.as_millis() as u32)?;
    Ok(())
}

fn tls_failure(place: &str, field: &str, error: &io::Error, authorities: usize) -> Failure {
    use rustls::{CertificateError as Bad, Error as Tls};
    let cause = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Tls>());
    let untrusted = |what: String| {
        let detail = format!("the certificate of {place} {what}");
        Failure::lasting(StoreErrorKind::Untrusted, detail)
    };
    match cause {
        Some(Tls::InvalidCertificate(Bad::UnknownIssuer)) if authorities == 0 => untrusted(
            "cannot be checked: this machine has no certificates of authorities (install \
             ca-certificates)"
                .to_owned(),
        ),
        Some(Tls::InvalidCertificate(Bad::UnknownIssuer)) => untrusted(
            "is of no authority that this machine trusts: add that authority to the system's \
             certificates, or name a file of certificates with SSL_CERT_FILE"
                .to_owned(),
        ),
        Some(Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => untrusted(
            "has expired: have it renewed, and check the clock of this machine".to_owned(),
        ),
        Some(Tls::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. })) => {
            untrusted("is not valid yet: check the clock of this machine".to_owned())
        }
        Some(Tls::InvalidCertificate(
            Bad::NotValidForName | Bad::NotValidForNameContext { .. },
        )) => untrusted(format!(
            "is of another name: use the name that it has in {field}"
        )),
        Some(Tls::InvalidCertificate(other)) => untrusted(format!("is not accepted: {other:?}")),
        Some(Tls::InvalidMessage(_)) => Failure::lasting(
            StoreErrorKind::Misconfigured,
            format!("{place} does not speak TLS: should {field} begin with http://?"),
        ),
        Some(other) => Failure::lasting(
            StoreErrorKind::Untrusted,
            format!("TLS with {place}: {other}"),
        ),
        None => Failure::passing(
            StoreErrorKind::Unavailable,
            format!("TLS with {place}: {}", words(error)),
        ),
    }
}

/// The system's words for an error.
pub(super) fn words(error: &io::Error) -> String {
    let text = error.raw_os_error().map_or_else(
        || error.to_string(),
        |code| io::Error::from_raw_os_error(code).to_string(),
    );
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Wire;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection, with TLS or without.
pub(super) enum Wire {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, parts),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, parts),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({} authorities)", self.authorities)
    }
}
