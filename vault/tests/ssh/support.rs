//! Accounts of the server of tests/services, and stores on them.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use proto::backup::v1::{Destination, SshDestination, destination::Kind};
use vault::{
    destination::{HostKeys, open},
    error::StoreError,
    store::Store,
};

/// Host keys in memory.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<HashMap<(String, u16), String>>);

#[async_trait]
impl HostKeys for Remembered {
    async fn remembered(&self, host: &str, port: u16) -> Result<Option<String>, StoreError> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.get(&(host.to_owned(), port)).cloned())
    }

    async fn remember(&self, host: &str, port: u16, key: &str) -> Result<String, StoreError> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = keys
            .entry((host.to_owned(), port))
            .or_insert_with(|| key.to_owned());
        Ok(counts.clone())
    }
}

/// Something that the server's `env` tells.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `make test`, or `eval \"$(target/debug/services up sshd)\"` first")
    })
}

pub fn port() -> u16 {
    variable("NORA_TEST_SSH_PORT").parse().expect("a port")
}

pub fn other_port() -> u16 {
    variable("NORA_TEST_SSH_OTHER_PORT")
        .parse()
        .expect("a port")
}

/// A private key of the tests, as text.
pub fn key(name: &str) -> String {
    let path = PathBuf::from(variable("NORA_TEST_SSH_KEYS")).join(name);
    fs::read_to_string(path).expect("read a key")
}

/// An account with a folder of its own, that is made at the first write.
pub fn account(username: &str) -> SshDestination {
    let own = format!("test-{:016x}", rand::random::<u64>());
    let home = match username {
        "nora-chroot" => String::new(),
        other => format!("/run/nora-homes/{other}"),
    };
    SshDestination {
        host: "127.0.0.1".to_owned(),
        port: port().into(),
        username: username.to_owned(),
        remote_path: format!("{home}/data/{own}"),
        private_key: key("key"),
        host_key: variable("NORA_TEST_SSH_HOST_KEY"),
        ..SshDestination::default()
    }
}

/// The account that has no key.
pub fn account_with_password() -> SshDestination {
    SshDestination {
        private_key: String::new(),
        password: variable("NORA_TEST_SSH_PASSWORD"),
        ..account("nora-password")
    }
}

/// Where it lies on this machine, seen from outside.
pub fn outside(destination: &SshDestination) -> PathBuf {
    let own = destination.remote_path.rsplit('/').next().expect("a name");
    PathBuf::from(variable("NORA_TEST_SSH_HOMES"))
        .join(&destination.username)
        .join("data")
        .join(own)
}

pub fn try_store(destination: &SshDestination) -> Result<Arc<dyn Store>, StoreError> {
    store_with(destination, &(Arc::new(Remembered::default()) as _))
}

pub fn store_with(
    destination: &SshDestination,
    host_keys: &Arc<dyn HostKeys>,
) -> Result<Arc<dyn Store>, StoreError> {
    let destination = Destination {
        destination_id: "ssh".to_owned(),
        kind: Some(Kind::Ssh(destination.clone())),
        ..Destination::default()
    };
    open(&destination, host_keys)
}

pub fn store(destination: &SshDestination) -> Arc<dyn Store> {
    try_store(destination).expect("open")
}

/// Bytes that are like no others.
pub fn random(length: usize) -> bytes::Bytes {
    let mut bytes = vec![0; length];
    rand::fill(&mut bytes[..]);
    bytes.into()
}

/// Fails when a message holds a secret of the tests.
pub fn assert_no_secret(message: &str) {
    let mut secrets = vec![
        variable("NORA_TEST_SSH_PASSWORD"),
        variable("NORA_TEST_SSH_PASSPHRASE"),
        "not-the-password".to_owned(),
    ];
    for name in ["key", "key_passphrase", "key_rsa_pem", "key_stranger"] {
        let text = key(name);
        secrets.extend(
            text.lines()
                .filter(|line| !line.starts_with("-----"))
                .map(str::to_owned),
        );
    }
    for secret in secrets.iter().filter(|secret| secret.len() > 8) {
        assert!(!message.contains(secret.as_str()), "a secret is shown");
    }
}
