//! TLS in front of a server that has none: takes it off and passes on what is inside.
//! It knows nothing of the rest of this crate: other tests include it as a file.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// A listener with a certificate that nobody signed but itself; it ends when dropped.
#[derive(Debug)]
pub struct TlsFront {
    port: u16,
    certificate: String,
    task: JoinHandle<()>,
}

impl TlsFront {
    /// Starts one for the name `localhost`.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let params = CertificateParams::new(vec!["localhost".to_owned()]);
        Self::with(upstream, params.map_err(io::Error::other)?).await
    }

    /// Starts one whose certificate is made of these parameters.
    pub async fn with(upstream: SocketAddr, params: CertificateParams) -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config
                    .with_no_client_auth()
                    .with_single_cert(vec![certificate.der().clone()], key)
            })
            .map_err(io::Error::other)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(acceptor.clone(), client, upstream));
            }
        });
        Ok(Self {
            port,
            certificate: certificate.pem(),
            task,
        })
    }

    /// Where it listens, on this machine.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its certificate, as text: whoever trusts it reads it from a file.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(acceptor: TlsAcceptor, client: TcpStream, upstream: SocketAddr) {
    let _ = client.set_nodelay(true);
    // Who does not go on with it has said so to the client.
    let Ok(mut client) = acceptor.accept(client).await else {
        return;
    };
    if let Ok(mut server) = TcpStream::connect(upstream).await {
        let _ = server.set_nodelay(true);
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
