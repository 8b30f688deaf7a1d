//! A destination on a machine that is reached over SSH: SFTP version 3, as OpenSSH's
//! `sftp-server` and `internal-sftp` speak it, also without a shell and in a chroot.
//!
//! Nothing has its name before it is whole: an object is written to a name of its own
//! in `.nora-tmp`, synced, read back and compared, and only then renamed. What is
//! renamed is what was read.
//!
//! - `account`, `trust`: whom to log in as, and which server is the right one
//! - `connect`, `login`, `line`: making a connection; its one end and cause
//! - `sftp`, `wire`: requests and replies, many at once
//! - `transfer`, `draft`, `folders`: files, unfinished objects and folders with them
//! - `attempts`, `explain`: trying again, and saying what went wrong
//! - `limits`: every bound

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use proto::backup::v1::SshDestination;
use tokio::sync::Mutex;

use self::{
    account::Account,
    attempts::Attempts,
    connect::Connection,
    draft::{Draft, TEMPORARY},
    explain::Step,
    folders::Made,
    line::{Failure, Fault},
    sftp::{InUse, Sftp},
    transfer::OpenFile,
    wire::{Attributes, Request, flag, status},
};
use super::{Listed, Store};
use crate::{
    destination::{FieldNames, HostKeys},
    error::{StoreError, StoreErrorKind},
};

mod account;
mod attempts;
mod connect;
mod draft;
mod explain;
mod folders;
mod limits;
mod line;
mod login;
mod sftp;
mod transfer;
mod trust;
mod wire;

pub(crate) use account::problems;
pub(crate) use trust::known_hosts_keys;

/// A destination that is reached over SSH.
#[derive(Debug)]
pub struct SshStore {
    account: Arc<Account>,
    slot: Mutex<Slot>,
    made: Made,
}

/// The one connection, and why there was none the last time.
#[derive(Debug, Default)]
struct Slot {
    connection: Option<Arc<Connection>>,
    failed: Option<(Instant, Fault)>,
}

/// A channel in use, with the connection that carries it.
struct Lease {
    sftp: InUse,
    _connection: Arc<Connection>,
}

impl SshStore {
    /// Checks the description; connects at the first call.
    pub fn new(
        destination: &SshDestination,
        host_keys: &Arc<dyn HostKeys>,
        names: FieldNames,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            account: Arc::new(Account::new(destination, host_keys, names)?),
            slot: Mutex::default(),
            made: Made::default(),
        })
    }

    async fn connection(&self) -> Result<Arc<Connection>, Fault> {
        let asked = Instant::now();
        let mut slot = self.slot.lock().await;
        if let Some(connection) = &slot.connection
            && connection.is_up()
        {
            return Ok(connection.clone());
        }
        // Who waited while another one tried shares what that one learned.
        if let Some((when, fault)) = &slot.failed
            && *when >= asked
        {
            return Err(fault.clone());
        }
        slot.connection = None;
        match Connection::open(&self.account).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                slot.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(fault) => {
                slot.failed = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    async fn lease(&self, action: &'static str, object: &str) -> Result<Lease, StoreError> {
        let at = |fault: Fault| fault.at(action, object);
        let connection = self.connection().await.map_err(at)?;
        let sftp = connection.channel().await.map_err(at)?;
        Ok(Lease {
            sftp,
            _connection: connection,
        })
    }

    fn step<'a>(&'a self, sftp: &'a Sftp, action: &'static str, object: &'a str) -> Step<'a> {
        Step {
            account: &self.account,
            sftp,
            action,
            object,
        }
    }

    async fn put_once(&self, name: &str, bytes: &Bytes, again: bool) -> Result<(), StoreError> {
        let lease = self.lease("write", name).await?;
        let step = self.step(&lease.sftp, "write", name);
        let path = self.account.path(name);
        if again && self.is_stored(step, &path, bytes).await? {
            folders::sync(step.sftp, folders::parent(&path)).await;
            return Ok(());
        }
        let draft = Draft::new(step);
        self.made.make(step, &self.account.path(TEMPORARY)).await?;
        self.made.make(step, folders::parent(&path)).await?;
        draft.write(bytes).await?;
        draft.rename(&path).await?;
        folders::sync(step.sftp, folders::parent(&path)).await;
        Ok(())
    }

    /// Whether an earlier try did it after all.
    async fn is_stored(
        &self,
        step: Step<'_>,
        path: &str,
        bytes: &Bytes,
    ) -> Result<bool, StoreError> {
        let looked = async {
            let found = step.sftp.attributes(Request::Stat(path)).await?;
            if found.bytes != Some(bytes.len() as u64) {
                return Ok(false);
            }
            OpenFile::open(step.sftp, path, flag::READ)
                .await?
                .holds(bytes)
                .await
        };
        match looked.await {
            Err(Failure::Status(_)) => Ok(false),
            other => other.map_err(|failure| step.reading(path, failure)),
        }
    }

    async fn get_once(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
        let lease = self.lease("read", name).await?;
        let step = self.step(&lease.sftp, "read", name);
        let path = self.account.path(name);
        let read = async {
            let file = OpenFile::open(step.sftp, &path, flag::READ).await?;
            let length = file.attributes().await?.bytes.unwrap_or(bytes_max);
            let kept = if length > bytes_max {
                Bytes::new()
            } else {
                file.read(0, length).await?
            };
            Ok((length, kept))
        };
        match read.await {
            Ok((length, kept)) if length <= bytes_max && kept.len() as u64 == length => Ok(kept),
            Ok((length, kept)) => Err(step.error(
                StoreErrorKind::Corrupt,
                if length > bytes_max {
                    format!("{length} bytes, at most {bytes_max} are expected")
                } else {
                    format!("{length} bytes, and {} of them can be read", kept.len())
                },
            )),
            Err(failure) => Err(step.reading(&path, failure)),
        }
    }

    async fn get_range_once(
        &self,
        name: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, StoreError> {
        let lease = self.lease("read", name).await?;
        let step = self.step(&lease.sftp, "read", name);
        let path = self.account.path(name);
        let read = async {
            let file = OpenFile::open(step.sftp, &path, flag::READ).await?;
            file.read(offset, length).await
        };
        read.await.map_err(|failure| step.reading(&path, failure))
    }

    async fn stat_once(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let lease = self.lease("look up", name).await?;
        let step = self.step(&lease.sftp, "look up", name);
        let path = self.account.path(name);
        match step.sftp.attributes(Request::Stat(&path)).await {
            Ok(found) => Ok(found.bytes),
            Err(failure) if is_missing(&failure) => Ok(None),
            Err(failure) => Err(step.reading(&path, failure)),
        }
    }

    /// The names under a prefix, of files or of folders.
    async fn names_once(
        &self,
        prefix: &str,
        wanted: fn(&Attributes) -> bool,
    ) -> Result<Vec<(String, Attributes)>, StoreError> {
        let lease = self.lease("list", prefix).await?;
        let step = self.step(&lease.sftp, "list", prefix);
        let path = self.account.path(prefix);
        let names = folders::names(step.sftp, &path).await;
        let names = names.map_err(|failure| step.reading(&path, failure))?;
        let mut found = Vec::new();
        for one in names.unwrap_or_default() {
            // Names that are not ours may be anything.
            let Ok(name) = String::from_utf8(one.name) else {
                continue;
            };
            let mut attributes = one.attributes;
            if attributes.mode.is_none() || attributes.bytes.is_none() {
                let path = format!("{path}/{name}");
                attributes = match step.sftp.attributes(Request::Stat(&path)).await {
                    Ok(attributes) => attributes,
                    Err(failure) if is_missing(&failure) => continue,
                    Err(failure) => return Err(step.reading(&path, failure)),
                };
            }
            if wanted(&attributes) {
                found.push((name, attributes));
            }
        }
        Ok(found)
    }

    async fn names(
        &self,
        prefix: &str,
        wanted: fn(&Attributes) -> bool,
    ) -> Result<Vec<(String, Attributes)>, StoreError> {
        let mut attempts = Attempts::default();
        loop {
            let done = self.names_once(prefix, wanted).await;
            if let ControlFlow::Break(result) = attempts.settle(done).await {
                return result;
            }
        }
    }

    async fn delete_once(&self, name: &str) -> Result<(), StoreError> {
        let lease = self.lease("delete", name).await?;
        let step = self.step(&lease.sftp, "delete", name);
        let path = self.account.path(name);
        match step.sftp.done(Request::Remove(&path)).await {
            Ok(()) => {
                folders::sync(step.sftp, folders::parent(&path)).await;
                Ok(())
            }
            Err(failure) if is_missing(&failure) => Ok(()),
            Err(failure) => Err(step.writing(&path, 0, failure).await),
        }
    }

    async fn sweep_once(&self, age_ms: u64) -> Result<u64, StoreError> {
        let lease = self.lease("sweep", TEMPORARY).await?;
        let step = self.step(&lease.sftp, "sweep", TEMPORARY);
        let folder = self.account.path(TEMPORARY);
        let swept = async {
            let Some(names) = folders::names(step.sftp, &folder).await? else {
                return Ok(0);
            };
            if names.is_empty() {
                return Ok(0);
            }
            let now_s = self.server_time_s(step).await?;
            let mut swept = 0;
            for one in names {
                // A file that is being written is as old as its last write.
                let old = one
                    .attributes
                    .modify_time_s
                    .is_some_and(|time| u64::from(now_s.saturating_sub(time)) * 1000 >= age_ms);
                let Ok(name) = String::from_utf8(one.name) else {
                    continue;
                };
                if !old || !one.attributes.is_file() {
                    continue;
                }
                match step
                    .sftp
                    .done(Request::Remove(&format!("{folder}/{name}")))
                    .await
                {
                    Ok(()) => swept += 1,
                    Err(failure) if is_missing(&failure) => {}
                    Err(failure) => return Err(failure),
                }
            }
            Ok(swept)
        };
        match swept.await {
            Ok(swept) => Ok(swept),
            Err(failure) => Err(step.writing(&folder, 0, failure).await),
        }
    }

    /// What the server's clock says: that of a file that is written now. Ours may differ.
    async fn server_time_s(&self, step: Step<'_>) -> Result<u32, Failure> {
        let draft = Draft::new(step);
        let file = draft.open().await?;
        file.write(&Bytes::from_static(b"now")).await?;
        Ok(file.attributes().await?.modify_time_s.unwrap_or(0))
    }
}

fn is_missing(failure: &Failure) -> bool {
    matches!(failure, Failure::Status(status) if status.code == status::NO_SUCH_FILE)
}

#[async_trait]
impl Store for SshStore {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let mut attempts = Attempts::default();
        let mut forgot = false;
        loop {
            let done = self.put_once(name, &bytes, attempts.is_repeated()).await;
            if done
                .as_ref()
                .is_err_and(|e| e.kind == StoreErrorKind::NotFound)
                && !forgot
            {
                // A folder that was there is gone.
                forgot = true;
                self.made.forget();
                continue;
            }
            if let ControlFlow::Break(result) = attempts.settle(done).await {
                return result;
            }
        }
    }

    async fn get(&self, name: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
        let mut attempts = Attempts::default();
        loop {
            let done = self.get_once(name, bytes_max).await;
            if let ControlFlow::Break(result) = attempts.settle(done).await {
                return result;
            }
        }
    }

    async fn get_range(&self, name: &str, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        let mut attempts = Attempts::default();
        loop {
            let done = self.get_range_once(name, offset, length).await;
            if let ControlFlow::Break(result) = attempts.settle(done).await {
                return result;
            }
        }
    }

    async fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let mut attempts = Attempts::default();
        loop {
            let done = self.stat_once(name).await;
            if let ControlFlow::Break(result) = attempts.settle(done).await {
                return result;
            }
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let names = self.names(prefix, Attributes::is_file).await?;
        let listed = names.into_iter().map(|(name, attributes)| Listed {
            name: format!("{prefix}{name}"),
            bytes: attributes.bytes.unwrap_or(0),
            modify_time_ms: attributes
                .modify_time_s
                .map(|seconds| i64::from(seconds) * 1000),
        });
        Ok(listed.collect())
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let names = self.names(prefix, Attributes::is_folder).await?;
        Ok(names.into_iter().map(|(name, _)| name).collect())
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let mut attempts = Attempts::default();
        loop {
            let done = self.delete_once(name).await;
            if let ControlFlow::Break(result) = attempts.settle(done).await {
                return result;
            }
        }
    }

    async fn sweep(&self, age_ms: u64) -> Result<u64, StoreError> {
        let mut attempts = Attempts::default();
        loop {
            let done = self.sweep_once(age_ms).await;
            if let ControlFlow::Break(result) = attempts.settle(done).await {
                return result;
            }
        }
    }

    async fn check(&self) -> Result<(), StoreError> {
        let name = format!(
            "{TEMPORARY}/probe-{}",
            hex::encode(crate::random::bytes::<8>())
        );
        self.put(&name, Bytes::from_static(b"nora-backup probe"))
            .await?;
        self.delete(&name).await
    }
}
