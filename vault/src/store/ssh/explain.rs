//! From what a server answers to what went wrong and what to do. SFTP 3 has one word
//! for most things that go wrong ("Failure"): the rest is asked for.

use super::{
    account::Account,
    line::Failure,
    sftp::Sftp,
    wire::{FileSystem, Reply, Request, Status, status},
};
use crate::error::{StoreError, StoreErrorKind};

/// Where a call stands: for its messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) account: &'a Account,
    pub(super) sftp: &'a Sftp,
    pub(super) action: &'static str,
    pub(super) object: &'a str,
}

impl Step<'_> {
    pub(super) fn error(&self, kind: StoreErrorKind, detail: impl Into<String>) -> StoreError {
        StoreError {
            action: self.action,
            object: self.object.to_owned(),
            kind,
            detail: detail.into(),
        }
    }

    /// Why reading or looking up a path failed.
    pub(super) fn reading(&self, path: &str, failure: Failure) -> StoreError {
        match failure {
            Failure::Fault(fault) => fault.at(self.action, self.object),
            Failure::Status(status) => self.plain(path, &status),
        }
    }

    /// Why changing something at a path failed, for which so many bytes were needed.
    pub(super) async fn writing(&self, path: &str, bytes: u64, failure: Failure) -> StoreError {
        let status = match failure {
            Failure::Fault(fault) => return fault.at(self.action, self.object),
            Failure::Status(status) => status,
        };
        if status.code == status::FAILURE
            && let Some(file_system) = self.file_system(path).await
            && let Some(error) = self.no_room(path, bytes, file_system)
        {
            return error;
        }
        self.plain(path, &status)
    }

    fn plain(&self, path: &str, status: &Status) -> StoreError {
        let (user, place) = (&self.account.username, self.account.place());
        match status.code {
            status::NO_SUCH_FILE => {
                self.error(StoreErrorKind::NotFound, format!("{path} is not there"))
            }
            status::PERMISSION_DENIED => self.error(
                StoreErrorKind::Denied,
                format!(
                    "{user} at {place} may not {} {path}: {}; allow it there, or set {} to a folder of {user}'s",
                    self.action,
                    said(status),
                    self.account.field("remote_path")
                ),
            ),
            status::FAILURE => self.error(
                StoreErrorKind::Other,
                format!(
                    "{place} answers {} for {path} and tells no cause: the quota of {user} may be used up, or the disk be broken; the server's log may tell more",
                    said(status)
                ),
            ),
            code => self.error(
                StoreErrorKind::Other,
                format!("{place} answers {} (status {code}) for {path}", said(status)),
            ),
        }
    }

    async fn file_system(&self, path: &str) -> Option<FileSystem> {
        if !self.sftp.features.file_system {
            return None;
        }
        // The path itself may not be there; what is above it is.
        let mut path = path;
        loop {
            match self.sftp.send(Request::FileSystem(path)).reply().await {
                Ok(Reply::Extended(reply)) => return FileSystem::parse(reply).ok(),
                Ok(Reply::Status(Status {
                    code: status::NO_SUCH_FILE,
                    ..
                })) => path = path.rsplit_once('/').filter(|(up, _)| !up.is_empty())?.0,
                _ => return None,
            }
        }
    }

    fn no_room(&self, path: &str, bytes: u64, at: FileSystem) -> Option<StoreError> {
        if at.read_only {
            return Some(self.error(
                StoreErrorKind::Denied,
                format!("the file system of {path} is mounted read-only"),
            ));
        }
        if at.files > 0 && at.available_files == 0 {
            return Some(self.error(
                StoreErrorKind::Full,
                format!("the file system of {path} takes no more files (inodes)"),
            ));
        }
        (at.available_bytes < bytes.max(1)).then(|| {
            self.error(
                StoreErrorKind::Full,
                format!(
                    "{} bytes are available at {path}, {bytes} are needed",
                    at.available_bytes
                ),
            )
        })
    }
}

/// The server's words, as one short line.
fn said(status: &Status) -> String {
    const CHARS_MAX: usize = 200;
    let words: String = status
        .message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(CHARS_MAX)
        .collect();
    match words.trim() {
        "" => "an error".to_owned(),
        words => format!("\"{words}\""),
    }
}
