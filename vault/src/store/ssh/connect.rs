//! From an account to a connection that is logged in, or the reason why not.

use std::{borrow::Cow, future::Future, net::SocketAddr, sync::Arc};

use russh::{
    Preferred, cipher,
    client::{self, DisconnectReason, Handle, Session},
    compression,
    keys::{Algorithm, PublicKey, PublicKeyOrCertificate},
};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::Mutex,
    time::{Instant, timeout, timeout_at},
};

use super::{
    account::Account,
    limits::{
        CHANNELS_MAX, CONNECT_MAX, KEEPALIVE, KEEPALIVES_UNANSWERED_MAX, PACKET_BYTES, STALL,
        WINDOW_BYTES,
    },
    line::{Fault, Line},
    login::log_in,
    sftp::{InUse, Sftp},
};
use crate::error::StoreErrorKind;

/// A connection that is logged in, with its SFTP channels.
pub(super) struct Connection {
    handle: Handle<Doorman>,
    line: Arc<Line>,
    channels: Mutex<Channels>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({:?})", self.line)
    }
}

#[derive(Debug)]
struct Channels {
    open: Vec<Arc<Sftp>>,
    max: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.line.lose(Fault::new(
            StoreErrorKind::Unavailable,
            "the connection was closed",
        ));
    }
}

impl Connection {
    /// Connects, checks the host key, logs in and starts SFTP, within 15 s.
    pub(super) async fn open(account: &Arc<Account>) -> Result<Self, Fault> {
        let until = Instant::now() + CONNECT_MAX;
        let place = account.place();
        let socket = connect(account, until).await?;
        let (socket, second) = both_holds(socket)
            .map_err(|e| Fault::new(StoreErrorKind::Unavailable, format!("{place}: {e}")))?;
        let line = Arc::new(Line::new(second));
        // Whatever ends this early ends the connection.
        let lose = EndEarly(Some(line.clone()));
        let doorman = Doorman {
            account: account.clone(),
            line: line.clone(),
            accepted: None,
        };
        let config = Arc::new(config(account, until).await?);
        let handshake = client::connect_stream(config, socket, doorman);
        let mut handle = in_time(until, &place, "key exchange", async {
            handshake.await.map_err(|fault| first_words(fault, &place))
        })
        .await?;
        let login = log_in(account, &mut handle);
        in_time(until, &place, "login", login)
            .await
            .map_err(|fault| {
                // The reason why the connection ended says more than that it did.
                if line.is_up() { fault } else { line.cause() }
            })?;
        let connection = Self {
            handle,
            line,
            channels: Mutex::new(Channels {
                open: Vec::new(),
                max: CHANNELS_MAX,
            }),
        };
        let start = connection.open_channel();
        let first = in_time(until, &place, "start of SFTP", start).await?;
        connection.channels.lock().await.open.push(first);
        lose.keep();
        Ok(connection)
    }

    pub(super) fn is_up(&self) -> bool {
        self.line.is_up()
    }

    /// The channel with the least to do; another one where all have something to do.
    pub(super) async fn channel(&self) -> Result<InUse, Fault> {
        let mut channels = self.channels.lock().await;
        let idlest = channels.open.iter().min_by_key(|channel| channel.users());
        if let Some(idlest) = idlest
            && (idlest.users() == 0 || channels.open.len() >= channels.max)
        {
            return Ok(idlest.in_use());
        }
        let one = match timeout(CONNECT_MAX, self.open_channel()).await {
            Ok(Ok(one)) => one,
            Ok(Err(fault)) if !self.is_up() => return Err(fault),
            // The server allows no more of them; those that are there do.
            Ok(Err(_)) | Err(_) if !channels.open.is_empty() => {
                channels.max = channels.open.len();
                let idlest = channels.open.iter().min_by_key(|channel| channel.users());
                return idlest.map(Sftp::in_use).ok_or_else(|| self.line.cause());
            }
            Ok(Err(fault)) => return Err(fault),
            Err(_) => return Err(silent("start of SFTP")),
        };
        let in_use = one.in_use();
        channels.open.push(one);
        Ok(in_use)
    }

    async fn open_channel(&self) -> Result<Arc<Sftp>, Fault> {
        let channel = self.handle.channel_open_session().await.map_err(|error| {
            if self.line.is_up() {
                Fault::new(
                    StoreErrorKind::Unavailable,
                    format!("the server opens no session: {error}"),
                )
            } else {
                self.line.cause()
            }
        })?;
        Ok(Arc::new(Sftp::start(channel, &self.line).await?))
    }
}

/// Ends a connection that came only half to be.
struct EndEarly(Option<Arc<Line>>);

impl EndEarly {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for EndEarly {
    fn drop(&mut self) {
        if let Some(line) = &self.0 {
            line.lose(Fault::new(
                StoreErrorKind::Unavailable,
                "the connection did not come to be",
            ));
        }
    }
}

async fn in_time<T>(
    until: Instant,
    place: &str,
    step: &'static str,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    timeout_at(until, work).await.unwrap_or_else(|_| {
        let mut fault = silent(step);
        fault.detail = format!("{place}: {}", fault.detail);
        Err(fault)
    })
}

fn silent(step: &str) -> Fault {
    Fault::new(
        StoreErrorKind::Timeout,
        format!("no answer within {} s at the {step}", CONNECT_MAX.as_secs()),
    )
}

/// Resolves the name and connects to the first address that answers.
async fn connect(account: &Account, until: Instant) -> Result<TcpStream, Fault> {
    let place = account.place();
    let unavailable = |detail: String| Fault::new(StoreErrorKind::Unavailable, detail);
    let looked_up = timeout_at(until, lookup_host((account.host.as_str(), account.port))).await;
    let addresses: Vec<SocketAddr> = match looked_up {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(_)) => Vec::new(),
        Err(_) => {
            return Err(unavailable(format!(
                "the name {} is not resolved within {} s: check the DNS of this machine",
                account.host,
                CONNECT_MAX.as_secs()
            )));
        }
    };
    if addresses.is_empty() {
        return Err(unavailable(format!(
            "the name {} has no address: check {} and the DNS of this machine",
            account.host,
            account.field("host")
        )));
    }
    let mut last = None;
    for (number, address) in addresses.iter().enumerate() {
        // What is left is shared by the addresses that are left.
        let left = until.saturating_duration_since(Instant::now());
        let share = left / (addresses.len() - number) as u32;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = Some(unavailable(not_connected(account, address, &error))),
            Err(_) => {
                last = Some(Fault::new(
                    StoreErrorKind::Timeout,
                    format!(
                        "{place} ({}) does not answer within {} s: check {}, {} and the firewalls in between",
                        address.ip(),
                        CONNECT_MAX.as_secs(),
                        account.field("host"),
                        account.field("port")
                    ),
                ));
            }
        }
    }
    Err(last.unwrap_or_else(|| unavailable(format!("{place} has no address"))))
}

fn not_connected(account: &Account, address: &SocketAddr, error: &std::io::Error) -> String {
    let (place, ip) = (account.place(), address.ip());
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => format!(
            "{place} ({ip}) refuses connections: is the SSH server running there, and are {} and {} right?",
            account.field("host"),
            account.field("port")
        ),
        _ => format!("{place} ({ip}) can't be reached: {error}"),
    }
}

fn both_holds(socket: TcpStream) -> std::io::Result<(TcpStream, std::net::TcpStream)> {
    socket.set_nodelay(true)?;
    let socket = socket.into_std()?;
    let second = socket.try_clone()?;
    Ok((TcpStream::from_std(socket)?, second))
}

async fn config(account: &Account, until: Instant) -> Result<client::Config, Fault> {
    let algorithms = account.trust.algorithms(&account.host, account.port);
    let known = in_time(until, &account.place(), "look-up of host keys", algorithms).await?;
    let mut preferred = Preferred::DEFAULT;
    // A server with several keys shows the one that can be compared.
    let mut keys = preferred.key.to_vec();
    keys.retain(|key| *key != Algorithm::Rsa { hash: None });
    keys.sort_by_key(|key| !known.iter().any(|known| same_kind(known, key)));
    preferred.key = Cow::Owned(keys);
    preferred.cipher = Cow::Owned(ciphers());
    preferred.compression = Cow::Borrowed(&[compression::NONE]);
    Ok(client::Config {
        preferred,
        window_size: WINDOW_BYTES,
        maximum_packet_size: PACKET_BYTES,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES_UNANSWERED_MAX,
        // Also ends a write that nobody takes.
        inactivity_timeout: Some(STALL),
        nodelay: true,
        ..client::Config::default()
    })
}

fn same_kind(a: &Algorithm, b: &Algorithm) -> bool {
    match (a, b) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        (a, b) => a == b,
    }
}

/// The fastest that this machine has first; all authenticate what they carry.
fn ciphers() -> Vec<cipher::Name> {
    let mut ciphers = vec![
        cipher::AES_128_GCM,
        cipher::AES_256_GCM,
        cipher::CHACHA20_POLY1305,
        cipher::AES_256_CTR,
        cipher::AES_192_CTR,
        cipher::AES_128_CTR,
    ];
    if !has_aes() {
        ciphers.swap(0, 2);
    }
    ciphers
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// Stands at the connection: lets in who shows the right key, and notes why it ended.
pub(super) struct Doorman {
    account: Arc<Account>,
    line: Arc<Line>,
    accepted: Option<PublicKey>,
}

impl client::Handler for Doorman {
    type Error = Fault;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Fault> {
        let shown = shown.public_key();
        // Keys are exchanged anew from time to time.
        if let Some(accepted) = &self.accepted
            && accepted.key_data() == shown.key_data()
        {
            return Ok(true);
        }
        let (host, port) = (&self.account.host, self.account.port);
        let setting = self.account.field("host_key");
        self.account
            .trust
            .check(host, port, &shown, &setting)
            .await?;
        self.accepted = Some(shown);
        Ok(true)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Fault>) -> Result<(), Fault> {
        let place = self.account.place();
        let fault = match reason {
            DisconnectReason::ReceivedDisconnect(info) => Fault::new(
                StoreErrorKind::Unavailable,
                format!("{place} ended the connection: {}", info.message.trim()),
            ),
            DisconnectReason::Error(mut fault) => {
                fault.detail = format!("{place}: {}", fault.detail);
                fault
            }
        };
        self.line.lose(fault);
        Ok(())
    }

    async fn auth_banner(&mut self, _: &str, _: &mut Session) -> Result<(), Fault> {
        Ok(())
    }
}

impl From<russh::Error> for Fault {
    fn from(error: russh::Error) -> Self {
        use StoreErrorKind::{Misconfigured, Timeout, Unavailable, Untrusted};
        use russh::Error;
        let (kind, detail) = match &error {
            Error::NoCommonAlgo { kind, theirs, .. } => (
                Misconfigured,
                format!(
                    "the server and this program have no {} in common; the server has {}",
                    match kind {
                        russh::AlgorithmKind::Kex => "key exchange",
                        russh::AlgorithmKind::Key => "kind of host key",
                        russh::AlgorithmKind::Cipher => "cipher",
                        russh::AlgorithmKind::Compression => "compression",
                        russh::AlgorithmKind::Mac => "MAC",
                    },
                    theirs.join(", ")
                ),
            ),
            Error::WrongServerSig | Error::UnknownKey => (
                Untrusted,
                "the server does not prove that the host key it shows is its own".to_owned(),
            ),
            Error::KeepaliveTimeout => (
                Timeout,
                format!(
                    "the server gave no sign of life for {} s; the connection was given up",
                    (KEEPALIVE * (KEEPALIVES_UNANSWERED_MAX as u32 + 1)).as_secs()
                ),
            ),
            Error::InactivityTimeout => (
                Timeout,
                format!(
                    "nothing moved for {} s; the connection was given up",
                    STALL.as_secs()
                ),
            ),
            Error::DecryptionError | Error::PacketAuth | Error::PacketSize(_) => (
                Unavailable,
                "what arrives is not what the server sent; the connection was given up".to_owned(),
            ),
            Error::IO(error) => (
                Unavailable,
                match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => {
                        "the server closed the connection".to_owned()
                    }
                    _ => format!("the connection was lost: {error}"),
                },
            ),
            Error::Disconnect | Error::HUP | Error::SendError | Error::RecvError => {
                (Unavailable, "the connection was lost".to_owned())
            }
            _ => (Unavailable, format!("the connection was lost: {error}")),
        };
        Self { kind, detail }
    }
}

/// What goes wrong before anybody is logged in.
fn first_words(mut fault: Fault, place: &str) -> Fault {
    if fault.kind == StoreErrorKind::Untrusted {
        return fault;
    }
    if fault.kind == StoreErrorKind::Unavailable {
        fault.detail = format!(
            "the server ends the connection before anyone is logged in ({}): is it an SSH server, does it allow connections from here, and has it too many of them (MaxStartups)?",
            fault.detail
        );
    }
    fault.detail = format!("{place}: {}", fault.detail);
    fault
}
