//! Makes connections: the URL is read, the host is dialled, TLS and AMQP shake
//! hands; each failure becomes a line that tells which of them it was.

use std::{net::SocketAddr, sync::Mutex, time::Duration};

use lapin::{
    Connection, ConnectionProperties,
    tcp::{AsyncTcpStream, OwnedTLSConfig},
    uri::{AMQPScheme, AMQPUri},
};
use rustix::net::sockopt;
use tokio::{
    net::lookup_host,
    time::{Instant, timeout, timeout_at},
};

use super::{
    CALL_LIMIT, ConnectError,
    error::{ACCESS_REFUSED, NOT_ALLOWED, code, describe},
};
use crate::AmqpSettings;

const EXPECTED: &str = "expected amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://...";
/// Silence on the wire before TCP asks whether the other side still is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// What is needed to connect.
pub(super) struct Dialer {
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    name: String,
}

impl Dialer {
    /// Reads the settings; connects to nothing.
    pub(super) fn new(settings: &AmqpSettings, name: &str) -> Result<Self, ConnectError> {
        if !settings.is_set() {
            return Err(ConnectError::refused(format!("is not set; {EXPECTED}")));
        }
        let mut tls = OwnedTLSConfig::default();
        let file = &settings.amqp_ca_file;
        if !file.is_empty() {
            let certificates = std::fs::read_to_string(file).map_err(|error| {
                ConnectError::refused(format!("NORA_BACKUP_AMQP_CA_FILE {file}: {error}"))
            })?;
            tls.cert_chain = Some(certificates);
        }
        let mut uri = parse(settings.amqp_url.expose())?;
        uri.query.heartbeat = Some(settings.amqp_heartbeat_seconds);
        Ok(Self {
            uri,
            tls,
            name: name.to_owned(),
        })
    }

    /// Where it connects to, for messages.
    pub(super) fn place(&self) -> String {
        let authority = &self.uri.authority;
        if authority.host.contains(':') {
            return format!("[{}]:{}", authority.host, authority.port);
        }
        format!("{}:{}", authority.host, authority.port)
    }

    /// Connects, as one of the connections of this process.
    pub(super) async fn dial(&self, role: &str) -> Result<Connection, ConnectError> {
        let runtime = lapin::runtime::default_runtime()
            .map_err(|error| ConnectError::unreachable(describe(&error)))?;
        let deadline = Instant::now() + CALL_LIMIT;
        let addresses = self.resolve().await?;
        let mut reached = Err(std::io::Error::other("it has no address"));
        for address in addresses {
            reached = timeout_at(deadline, AsyncTcpStream::connect(&runtime, address))
                .await
                .map_err(|_| self.silent("a connection"))?;
            if reached.is_ok() {
                break;
            }
        }
        let stream = reached.map_err(|error| {
            ConnectError::unreachable(format!("cannot connect to {}: {error}", self.place()))
        })?;
        if let AsyncTcpStream::Plain(socket) = &stream {
            let socket = socket.get_ref();
            // Without it a silent connection is found out by the heartbeat all the same.
            let _ = sockopt::set_socket_keepalive(socket, true)
                .and_then(|()| sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE));
        }
        let stream = if self.uri.scheme == AMQPScheme::AMQPS {
            let host = &self.uri.authority.host;
            timeout_at(deadline, stream.into_tls(host, self.tls.as_ref()))
                .await
                .map_err(|_| self.silent("the TLS handshake"))?
                .map_err(|error| {
                    ConnectError::refused(format!(
                        "no TLS with {}: {error}; its certificate must be valid for the name, and \
                         signed by an authority of the system or of NORA_BACKUP_AMQP_CA_FILE",
                        self.place()
                    ))
                })?
        } else {
            stream
        };
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} ({role})", self.name).into());
        // Made already: lapin takes it, once.
        let stream = Mutex::new(Some(stream));
        let connect = async move |_uri: AMQPUri, _runtime| {
            let stream = stream.lock().ok().and_then(|mut stream| stream.take());
            stream.ok_or_else(|| std::io::Error::other("the connection was lost").into())
        };
        let connecting = Connection::connector(self.uri.clone(), runtime, connect, properties);
        timeout_at(deadline, connecting)
            .await
            .map_err(|_| self.silent("AMQP"))?
            .map_err(|error| self.explain(&error))
    }

    /// The addresses of the host.
    async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let authority = &self.uri.authority;
        let found = timeout(
            CALL_LIMIT,
            lookup_host((authority.host.as_str(), authority.port)),
        );
        match found.await {
            Ok(Ok(addresses)) => Ok(addresses.collect()),
            Ok(Err(error)) => Err(ConnectError::unreachable(format!(
                "the host {} has no address: {error}",
                authority.host
            ))),
            Err(_) => Err(self.silent("the question for its address")),
        }
    }

    /// What the broker's refusal means.
    fn explain(&self, error: &lapin::Error) -> ConnectError {
        let place = self.place();
        let user = &self.uri.authority.userinfo.username;
        match code(error) {
            Some(ACCESS_REFUSED) => ConnectError::refused(format!(
                "RabbitMQ at {place} refuses user {user:?}: wrong user or password, or not allowed \
                 from here"
            )),
            Some(NOT_ALLOWED) => ConnectError::refused(format!(
                "RabbitMQ at {place} does not let user {user:?} use the virtual host {:?}: it does \
                 not exist, or the user has no permissions in it",
                self.uri.vhost
            )),
            _ => ConnectError::unreachable(format!(
                "no AMQP connection with {place}: {}",
                describe(error)
            )),
        }
    }

    fn silent(&self, what: &str) -> ConnectError {
        let seconds = CALL_LIMIT.as_secs();
        let place = self.place();
        ConnectError::unreachable(format!("{place} does not answer {what} in {seconds} s"))
    }
}

/// Reads a URL. What is wrong with one is told without showing it.
fn parse(url: &str) -> Result<AMQPUri, ConnectError> {
    if !url.starts_with("amqp://") && !url.starts_with("amqps://") {
        return Err(ConnectError::refused(format!("is no URL; {EXPECTED}")));
    }
    let mut uri: AMQPUri = url
        .parse()
        .map_err(|_| ConnectError::refused(format!("cannot be read; {EXPECTED}")))?;
    // The parser takes such an address for no host, and would go to localhost.
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    if let Some((address, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        address.clone_into(&mut uri.authority.host);
    }
    // With and without a slash at the end, RabbitMQ's default is meant.
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(url: &str) -> Result<Dialer, ConnectError> {
        Dialer::new(&AmqpSettings::new(url), "test")
    }

    #[test]
    fn reads_urls() {
        for (url, place, vhost) in [
            ("amqp://host", "host:5672", "/"),
            ("amqps://a:b@host/", "host:5671", "/"),
            ("amqp://a:b@127.0.0.1:99/%2fnora", "127.0.0.1:99", "/nora"),
            ("amqp://a:b@[::1]:99/nora", "[::1]:99", "nora"),
        ] {
            let dialer = dialer(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(dialer.place(), place, "{url}");
            assert_eq!(dialer.uri.vhost, vhost, "{url}");
            assert_eq!(dialer.uri.query.heartbeat, Some(10), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_told_without_it() {
        for url in ["", "secret", "http://a:secret@b", "amqp://a:secret@b:port"] {
            let error = dialer(url).err().expect(url);
            assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
            let line = error.to_string();
            assert!(line.starts_with("NORA_BACKUP_AMQP_URL"), "{line}");
            assert!(!line.contains("secret"), "{line}");
        }
    }
}
