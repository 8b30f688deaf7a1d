//! Folders at the destination: made on demand, made durable, listed.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    explain::Step,
    limits::LISTINGS_MAX,
    line::Failure,
    sftp::Sftp,
    transfer::OpenFile,
    wire::{Name, Reply, Request, Status, flag, status},
};
use crate::error::{StoreError, StoreErrorKind};

/// Folders that are there, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Made(Mutex<HashSet<String>>);

impl Made {
    fn set(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When one turns out not to be there, nothing is known any more.
    pub(super) fn forget(&self) {
        self.set().clear();
    }

    /// Makes a folder and what is missing above it, down from the root; the folder
    /// above the root must be there.
    pub(super) async fn make(&self, step: Step<'_>, path: &str) -> Result<(), StoreError> {
        if self.set().contains(path) {
            return Ok(());
        }
        let root = step.account.root.as_str();
        let below = path.strip_prefix(root).unwrap_or_default();
        let mut at = root.to_owned();
        if !matches!(root, "" | ".") {
            self.make_one(step, &at).await?;
        }
        for part in below.split('/').filter(|part| !part.is_empty()) {
            at = format!("{at}/{part}");
            self.make_one(step, &at).await?;
        }
        Ok(())
    }

    async fn make_one(&self, step: Step<'_>, path: &str) -> Result<(), StoreError> {
        if self.set().contains(path) {
            return Ok(());
        }
        let step = Step {
            action: "make a folder for",
            ..step
        };
        let request = Request::MakeFolder { path, mode: 0o700 };
        match step.sftp.done(request).await {
            // The new name is in the folder above.
            Ok(()) => sync(step.sftp, parent(path)).await,
            Err(failure @ Failure::Fault(_)) => return Err(step.reading(path, failure)),
            Err(failure) => self.is_there(step, path, failure).await?,
        }
        self.set().insert(path.to_owned());
        Ok(())
    }

    /// It could not be made: because it is there, or why not.
    async fn is_there(
        &self,
        step: Step<'_>,
        path: &str,
        failure: Failure,
    ) -> Result<(), StoreError> {
        match step.sftp.attributes(Request::Stat(path)).await {
            Ok(found) if found.is_folder() || found.mode.is_none() => return Ok(()),
            Ok(_) => {
                return Err(step.error(
                    StoreErrorKind::Misconfigured,
                    format!(
                        "{path} is there and is no folder: remove it, or set {} to another one",
                        step.account.field("remote_path")
                    ),
                ));
            }
            Err(failure @ Failure::Fault(_)) => return Err(step.reading(path, failure)),
            Err(Failure::Status(_)) => {}
        }
        if path == step.account.root
            && matches!(&failure, Failure::Status(status) if status.code == status::NO_SUCH_FILE)
        {
            let (above, field) = (parent(path), step.account.field("remote_path"));
            let why = match step.sftp.attributes(Request::Stat(above)).await {
                Ok(_) => format!("the server makes no folders in {above}: set it to another path"),
                Err(_) => format!("{above} is not there: make it, or correct the path"),
            };
            return Err(step.error(
                StoreErrorKind::Misconfigured,
                format!("{field} is {path}, and {why}"),
            ));
        }
        Err(step.writing(path, 0, failure).await)
    }
}

/// The folder that a path lies in, as SFTP wants it.
pub(super) fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((above, _)) => above,
        None => ".",
    }
}

/// Makes the names in a folder durable, where the server can: one opens it as a file
/// and syncs it. A server that refuses does so each time, and no harm is done.
pub(super) async fn sync(sftp: &Sftp, path: &str) {
    if !sftp.features.fsync {
        return;
    }
    if let Ok(folder) = OpenFile::open(sftp, path, flag::READ).await {
        let _ = folder.sync().done().await;
    }
}

/// The names in a folder; `None` when it is not there.
pub(super) async fn names(sftp: &Sftp, path: &str) -> Result<Option<Vec<Name>>, Failure> {
    let folder = match OpenFile::open_folder(sftp, path).await {
        Ok(folder) => folder,
        Err(Failure::Status(Status {
            code: status::NO_SUCH_FILE,
            ..
        })) => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let mut all = Vec::new();
    let mut under_way: VecDeque<_> = (0..LISTINGS_MAX).map(|_| folder.read_folder()).collect();
    while let Some(pending) = under_way.pop_front() {
        match pending.reply().await? {
            Reply::Names(names) if !names.is_empty() => all.extend(names),
            Reply::Status(Status {
                code: status::EOF, ..
            }) => break,
            other => return Err(sftp.unexpected(other)),
        }
        under_way.push_back(folder.read_folder());
    }
    all.retain(|name| name.name != b"." && name.name != b"..");
    Ok(Some(all))
}
