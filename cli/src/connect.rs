//! The connection to the service: address, certificates, token.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use proto::backup::v1::{
    admin_service_client::AdminServiceClient, agent_service_client::AgentServiceClient,
    backup_service_client::BackupServiceClient, restore_service_client::RestoreServiceClient,
    schedule_service_client::ScheduleServiceClient,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri},
};

use crate::{
    args::{DEFAULT_LISTEN, Global},
    error::{CliError, Result, innermost},
    exit::Exit,
    output::Output,
    standalone::data_dir,
};

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer that is not a stream may take.
const CALL_TIMEOUT: Duration = Duration::from_mins(2);
/// Pings on a quiet connection, so that a dead one is noticed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A page of a thousand backups with their warnings fits in.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A channel that adds the token to every call.
pub type Authed = InterceptedService<Channel, Bearer>;

/// Adds `authorization: Bearer <token>`.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// A connected client, and how its results are shown.
#[derive(Clone)]
pub struct Session {
    /// Where results go.
    pub out: Output,
    /// The service's address.
    pub server: Server,
    /// Who the token says the caller is, when it can be read.
    pub caller: Option<String>,
    channel: Authed,
}

/// The service's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// With scheme and port.
    pub url: String,
    /// Whether it is this machine.
    pub is_local: bool,
}

impl Session {
    /// Connects as the global options say.
    pub async fn connect(global: &Global, out: Output) -> Result<Self> {
        let server = Server::parse(global.server.as_deref())?;
        Self::connect_to(server, global, out).await
    }

    /// Connects to this address; all else as the global options say.
    pub async fn connect_to(server: Server, global: &Global, out: Output) -> Result<Self> {
        let token = find_token(global, server.is_local)?;
        Self::open(server, token.as_deref(), global.tls_ca.as_deref(), out).await
    }

    /// Connects to a service with a token.
    pub async fn open(
        server: Server,
        token: Option<&str>,
        tls_ca: Option<&Path>,
        out: Output,
    ) -> Result<Self> {
        let header = token
            .map(|token| {
                let header: Result<MetadataValue<Ascii>, _> = format!("Bearer {token}").parse();
                header.map(|mut header| {
                    header.set_sensitive(true);
                    header
                })
            })
            .transpose()
            .map_err(|_| CliError::usage("the token holds characters that a token can't have"))?;
        let channel = endpoint(&server, tls_ca)?
            .connect()
            .await
            .map_err(|error| {
                let cause = innermost(&error);
                let error = CliError::new(
                    Exit::Unavailable,
                    format!("no connection to the service at {}: {cause}", server.url),
                );
                if server.is_local {
                    error.hint(
                        "start one with `nora-backup standalone`, or name another with --server",
                    )
                } else {
                    error
                }
            })?;
        Ok(Self {
            out,
            server,
            caller: token.and_then(caller_of),
            channel: InterceptedService::new(channel, Bearer(header)),
        })
    }

    /// The administrators' service; there is one at the administrators' address only.
    pub fn admin(&self) -> AdminServiceClient<Authed> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The schedules' service.
    pub fn schedules(&self) -> ScheduleServiceClient<Authed> {
        ScheduleServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The agents' service.
    pub fn agents(&self) -> AgentServiceClient<Authed> {
        AgentServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The backups' service.
    pub fn backups(&self) -> BackupServiceClient<Authed> {
        BackupServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The restores' service.
    pub fn restores(&self) -> RestoreServiceClient<Authed> {
        RestoreServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// A call with one answer, which has to come in time.
pub fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

impl Server {
    /// Reads an address; without one, the standalone's. A bare HOST:PORT is http.
    pub fn parse(given: Option<&str>) -> Result<Self> {
        Self::parse_as("--server (NORA_BACKUP_SERVER)", given, DEFAULT_LISTEN)
    }

    /// The same for another option, with another default.
    pub fn parse_as(option: &str, given: Option<&str>, default: &str) -> Result<Self> {
        let given = given
            .map(str::trim)
            .filter(|url| !url.is_empty())
            .unwrap_or(default);
        let url = if given.contains("://") {
            given.to_string()
        } else {
            format!("http://{given}")
        };
        let wrong = |why: &str| {
            CliError::usage(format!("{option} is {given:?}: {why}"))
                .hint("write http://HOST:PORT or https://HOST:PORT")
        };
        let uri: Uri = url.parse().map_err(|_| wrong("that is no URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong("it has to begin with http:// or https://"));
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| wrong("no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_local = host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        Ok(Self {
            url: url.trim_end_matches('/').to_string(),
            is_local,
        })
    }
}

fn endpoint(server: &Server, tls_ca: Option<&Path>) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(server.url.clone())
        .map_err(|error| CliError::usage(format!("{}: {error}", server.url)))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Some(KEEPALIVE_INTERVAL))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_INTERVAL)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .user_agent(concat!("nora-backup/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| CliError::failed(format!("user agent: {error}")))?;
    if !server.url.starts_with("https://") {
        if tls_ca.is_some() {
            return Err(CliError::usage(format!(
                "--tls-ca only makes sense for https, and the service is {}",
                server.url
            )));
        }
        return Ok(endpoint);
    }
    let tls = match tls_ca {
        Some(path) => {
            let pem = fs::read(path)
                .map_err(|error| CliError::io(format!("read {}", path.display()), &error))?;
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
        None => ClientTlsConfig::new().with_native_roots(),
    };
    endpoint.tls_config(tls).map_err(|error| {
        CliError::usage(format!(
            "certificates for {}: {}",
            server.url,
            innermost(&error)
        ))
    })
}

/// The token: given, from a file, or the standalone's own when the service is
/// on this machine. (A token is never sent to a machine it was not made for.)
fn find_token(global: &Global, is_local: bool) -> Result<Option<String>> {
    if let Some(token) = global
        .token
        .as_deref()
        .map(str::trim)
        .filter(|token| !token.is_empty())
    {
        return Ok(Some(token.to_string()));
    }
    if let Some(path) = global
        .token_file
        .as_ref()
        .filter(|path| !path.as_os_str().is_empty())
    {
        return read_token(path)
            .map_err(|error| CliError::io(format!("read the token in {}", path.display()), &error))
            .map(Some);
    }
    if !is_local {
        return Ok(None);
    }
    let Ok(path) = data_dir::default_path().map(|dir: PathBuf| dir.join(data_dir::TOKEN_FILE))
    else {
        return Ok(None);
    };
    match read_token(&path) {
        Ok(token) => Ok(Some(token)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::io(
            format!("read the standalone's token in {}", path.display()),
            &error,
        )),
    }
}

fn read_token(path: &Path) -> io::Result<String> {
    let token = fs::read_to_string(path)?.trim().to_string();
    if token.is_empty() {
        return Err(io::Error::other("the file is empty"));
    }
    Ok(token)
}

/// The user a token names. The service checks tokens; here it only saves typing.
fn caller_of(token: &str) -> Option<String> {
    let claims = jsonwebtoken::dangerous::insecure_decode::<serde_json::Value>(token)
        .ok()?
        .claims;
    let id = claims.get("id").or_else(|| claims.get("sub"))?;
    id.as_str()
        .map(str::to_string)
        .or_else(|| id.as_u64().map(|id| id.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| Server::parse(Some(text));
        let local = Server::parse(None).expect("default");
        assert_eq!(local.url, format!("http://{DEFAULT_LISTEN}"));
        assert!(local.is_local);
        assert_eq!(parse("").expect("empty is not set"), local);
        let far = parse("https://backup.example:443/").expect("https");
        assert_eq!(
            (far.url.as_str(), far.is_local),
            ("https://backup.example:443", false)
        );
        assert_eq!(parse("db1:7000").expect("bare").url, "http://db1:7000");
        assert!(parse("http://[::1]:7000").expect("v6").is_local);
        assert!(parse("http://localhost:7000").expect("name").is_local);
        for wrong in ["ftp://x:1", "http://", "a b"] {
            assert_eq!(parse(wrong).expect_err(wrong).exit, Exit::Usage);
        }
    }

    #[test]
    fn tokens_come_from_the_nearest_place() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("token");
        fs::write(&file, "from-file\n").expect("write");
        let mut global = Global {
            token_file: Some(file.clone()),
            ..Global::default()
        };
        assert_eq!(
            find_token(&global, false).expect("file").as_deref(),
            Some("from-file")
        );
        global.token = Some("given".into());
        assert_eq!(
            find_token(&global, false).expect("given").as_deref(),
            Some("given")
        );
        global.token = Some(String::new());
        fs::write(&file, "\n").expect("write");
        assert!(
            find_token(&global, false)
                .expect_err("empty")
                .message
                .contains("empty")
        );
        assert_eq!(find_token(&Global::default(), false).expect("none"), None);
    }
}
