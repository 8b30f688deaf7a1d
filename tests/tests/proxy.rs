//! The proxy that stands for a network: what it does must be what networks do.

use std::time::Duration;

use anyhow::{Context as _, Result};
use services::proxy::{Fault, Proxy};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

#[tokio::test]
async fn while_all_stands_still_nobody_learns_that_the_other_side_has_ended() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let proxy = Proxy::start(listener.local_addr()?).await?;
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
    let (mut server, _) = listener.accept().await?;
    client.write_all(b"ask").await?;
    let mut asked = [0; 3];
    server.read_exact(&mut asked).await?;
    proxy.fault_all(Fault::Stall);
    drop(server);
    let mut answer = Vec::new();
    let told = timeout(Duration::from_millis(500), client.read_to_end(&mut answer)).await;
    assert!(told.is_err(), "told of the end: {told:?}");
    proxy.fault_all(Fault::None);
    let ended = timeout(Duration::from_secs(10), client.read_to_end(&mut answer)).await;
    assert_eq!(ended.context("told once it goes on")??, 0);
    Ok(())
}
