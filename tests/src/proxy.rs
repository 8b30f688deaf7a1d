//! A TCP proxy that does to connections what networks do: cuts them, lets them
//! stand still, keeps one end of them open, delays and damages what they carry.
//! It knows nothing of the rest of this crate: other tests include it as a file.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What happens to what connections carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it goes through.
    None,
    /// The connection ends for both sides.
    Cut,
    /// Nothing goes through, and nobody is told; it does when the fault is taken away.
    Stall,
    /// The server's side ends; the client's stays open and what it sends is lost.
    HalfOpen,
    /// Each piece comes so much later.
    Delay(Duration),
    /// A few bits of what the server sends are others.
    Garbage,
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    /// Connections before this one have the first fault, later ones the second.
    since: u64,
    present: Fault,
    later: Fault,
}

/// A proxy; it ends, with all its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    setting: watch::Sender<Setting>,
    connections: AtomicU64,
    carried: AtomicU64,
    /// A fault for the present connections once so many bytes were carried.
    armed: Mutex<Option<(u64, Fault)>>,
}

impl Proxy {
    /// Starts one in front of a server.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            setting: watch::Sender::new(Setting {
                since: 0,
                present: Fault::None,
                later: Fault::None,
            }),
            connections: AtomicU64::new(0),
            carried: AtomicU64::new(0),
            armed: Mutex::new(None),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { port, shared, task })
    }

    /// Where it listens, on this machine.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leads later connections to another server.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *lock(&self.shared.upstream) = upstream;
    }

    /// A fault for the connections there are; later ones are not touched.
    pub fn fault_present(&self, fault: Fault) {
        self.shared.fault_present(fault);
    }

    /// A fault for all connections, present and later.
    pub fn fault_all(&self, fault: Fault) {
        self.shared.setting.send_modify(|setting| {
            setting.present = fault;
            setting.later = fault;
        });
    }

    /// A fault for the connections there are once so many more bytes were carried, in
    /// both directions together.
    pub fn fault_after(&self, bytes: u64, fault: Fault) {
        let at = self.carried() + bytes;
        *lock(&self.shared.armed) = Some((at, fault));
    }

    /// Bytes carried so far, in both directions.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Relaxed)
    }

    /// Connections made so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }

    /// Whether a fault that was to come has come.
    pub fn has_struck(&self) -> bool {
        lock(&self.shared.armed).is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.fault_all(Fault::Cut);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn fault_present(&self, fault: Fault) {
        let since = self.connections.load(Relaxed);
        self.setting.send_modify(|setting| {
            setting.since = since;
            setting.present = fault;
        });
    }

    fn carry(&self, bytes: usize) {
        let carried = self.carried.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        let mut armed = lock(&self.armed);
        if let Some((at, fault)) = *armed
            && carried >= at
        {
            *armed = None;
            self.fault_present(fault);
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = shared.connections.fetch_add(1, Relaxed);
        let upstream = *lock(&shared.upstream);
        tokio::spawn(connect(client, upstream, number, shared.clone()));
    }
}

async fn connect(client: TcpStream, upstream: SocketAddr, number: u64, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    // What one side sends goes on at once.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = Way {
        number,
        shared: shared.clone(),
        is_from_server: false,
    };
    let down = Way {
        number,
        shared,
        is_from_server: true,
    };
    // When one way ends for a cut, so does the other.
    tokio::join!(
        up.carry(from_client, to_server),
        down.carry(from_server, to_client)
    );
}

/// One direction of one connection.
struct Way {
    number: u64,
    shared: Arc<Shared>,
    is_from_server: bool,
}

impl Way {
    fn fault(&self, settings: &mut watch::Receiver<Setting>) -> Fault {
        let setting = *settings.borrow_and_update();
        if self.number < setting.since {
            setting.present
        } else {
            setting.later
        }
    }

    async fn carry(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut settings = self.shared.setting.subscribe();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                _ = settings.changed() => match self.fault(&mut settings) {
                    Fault::Cut => return,
                    // The server learns that the client is gone; the client learns nothing.
                    Fault::HalfOpen if self.is_from_server => return std::future::pending().await,
                    Fault::HalfOpen => {
                        let _ = to.shutdown().await;
                        continue;
                    }
                    _ => continue,
                },
            };
            let Ok(length @ 1..) = read else {
                // Nobody is told of an end either while all stands still.
                while self.fault(&mut settings) == Fault::Stall {
                    if settings.changed().await.is_err() {
                        return;
                    }
                }
                let _ = to.shutdown().await;
                return;
            };
            let bytes = &mut buffer[..length];
            self.shared.carry(length);
            loop {
                match self.fault(&mut settings) {
                    Fault::None => break,
                    Fault::Cut => return,
                    // What the server says once its side has ended is not told either.
                    Fault::HalfOpen if self.is_from_server => return std::future::pending().await,
                    Fault::HalfOpen => bytes.fill(0),
                    Fault::Delay(delay) => {
                        tokio::time::sleep(delay).await;
                        break;
                    }
                    Fault::Garbage => {
                        if self.is_from_server {
                            bytes[length / 2] ^= 0x55;
                        }
                        break;
                    }
                    Fault::Stall => {
                        if settings.changed().await.is_err() {
                            return;
                        }
                        continue;
                    }
                }
                break;
            }
            if self.fault(&mut settings) == Fault::HalfOpen {
                continue;
            }
            if to.write_all(bytes).await.is_err() {
                return;
            }
        }
    }
}
