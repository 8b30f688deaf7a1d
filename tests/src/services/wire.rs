//! The first bytes of a protocol: enough to tell that a service answers.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// How long one try may take.
const TRY_MS_MAX: u64 = 2_000;

/// What a service on this port of 127.0.0.1 says first, once it was told `hello`:
/// as many bytes as asked for, or `None`.
pub(super) fn first_bytes(port: u16, hello: &[u8], count: usize) -> Option<Vec<u8>> {
    let limit = Duration::from_millis(TRY_MS_MAX);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    exchange(stream, hello, count)
}

/// The same at a socket of the file system.
pub(super) fn first_bytes_of_socket(path: &Path, hello: &[u8], count: usize) -> Option<Vec<u8>> {
    let stream = UnixStream::connect(path).ok()?;
    let limit = Duration::from_millis(TRY_MS_MAX);
    stream.set_read_timeout(Some(limit)).ok()?;
    exchange(stream, hello, count)
}

/// The status code of an HTTP request without credentials.
pub(super) fn http_status(port: u16, method: &str, path: &str, body: &str) -> Option<u16> {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    let answer = first_bytes(port, request.as_bytes(), "HTTP/1.1 200".len())?;
    let (_, code) = std::str::from_utf8(&answer).ok()?.split_once(' ')?;
    code.parse().ok()
}

fn exchange(mut stream: impl Read + Write, hello: &[u8], count: usize) -> Option<Vec<u8>> {
    stream.write_all(hello).ok()?;
    let mut answer = vec![0; count];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}
