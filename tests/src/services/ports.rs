//! Loopback ports that stay ours while a service is away.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, bail};

/// Below those that the kernel gives to outgoing connections: a service that is
/// killed finds its port free when it comes back.
const CHOICE: Range<u16> = 12_000..32_000;
/// How many are tried before giving up.
const TRIES_MAX: u32 = 1_000;

/// Handed out by this process already, and perhaps not yet listened on.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of 127.0.0.1 that nobody listens on.
pub(super) fn free() -> Result<u16> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..TRIES_MAX {
        let port = rand::random_range(CHOICE);
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    bail!(
        "no port between {} and {} is free",
        CHOICE.start,
        CHOICE.end
    );
}
