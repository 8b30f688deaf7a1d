//! An object on its way to its name.

use bytes::Bytes;

use super::{
    explain::Step,
    line::Failure,
    transfer::OpenFile,
    wire::{Request, flag, status},
};
use crate::error::{StoreError, StoreErrorKind};

/// Where unfinished writes lie, below the root.
pub(super) const TEMPORARY: &str = ".nora-tmp";

/// An object that is being written; removed when dropped before it has its name.
pub(super) struct Draft<'a> {
    step: Step<'a>,
    path: String,
    renamed: bool,
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            self.step.sftp.post(Request::Remove(&self.path));
        }
    }
}

impl<'a> Draft<'a> {
    pub(super) fn new(step: Step<'a>) -> Self {
        let name = hex::encode(crate::random::bytes::<16>());
        Self {
            step,
            path: step.account.path(&format!("{TEMPORARY}/{name}")),
            renamed: false,
        }
    }

    pub(super) async fn open(&self) -> Result<OpenFile<'a>, Failure> {
        let flags = flag::READ | flag::WRITE | flag::CREATE | flag::EXCLUSIVE;
        OpenFile::open(self.step.sftp, &self.path, flags).await
    }

    /// Writes it durably, and reads back that it is what was written.
    pub(super) async fn write(&self, bytes: &Bytes) -> Result<(), StoreError> {
        let written = async {
            let file = self.open().await?;
            file.write(bytes).await?;
            // The server syncs while the first parts are asked back.
            let synced = self.step.sftp.features.fsync.then(|| file.sync());
            let same = file.holds(bytes).await?;
            if let Some(synced) = synced {
                match synced.done().await {
                    Err(Failure::Status(status)) if status.code == status::OP_UNSUPPORTED => {}
                    other => other?,
                }
            }
            file.close().await?;
            Ok(same)
        };
        match written.await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let step = Step {
                    action: "read back",
                    ..self.step
                };
                Err(step.error(StoreErrorKind::Corrupt, "size or contents differ"))
            }
            Err(failure) => {
                let bytes = bytes.len() as u64;
                Err(self.step.writing(&self.path, bytes, failure).await)
            }
        }
    }

    /// Gives it its name, in place of what had it before.
    pub(super) async fn rename(mut self, path: &str) -> Result<(), StoreError> {
        let sftp = self.step.sftp;
        if !sftp.features.posix_rename && self.step.object.contains("/keys/") {
            self.check_new(path).await?;
        }
        let renamed = if sftp.features.posix_rename {
            let (from, to) = (self.path.as_str(), path);
            sftp.done(Request::PosixRename { from, to }).await
        } else {
            self.rename_plainly(path).await
        };
        match renamed {
            Ok(()) => {
                self.renamed = true;
                Ok(())
            }
            Err(failure) => Err(self.step.writing(path, 0, failure).await),
        }
    }

    /// A data key must never be between two names, where a crash would lose it and with
    /// it every backup of its vault.
    async fn check_new(&self, path: &str) -> Result<(), StoreError> {
        if self
            .step
            .sftp
            .attributes(Request::Stat(path))
            .await
            .is_err()
        {
            return Ok(());
        }
        let detail = format!(
            "{} cannot replace a file in one step (it lacks posix-rename@openssh.com), and a data \
             key is not put at risk: nothing was changed; use an SSH server that can, such as \
             OpenSSH's, to rotate keys",
            self.step.account.place()
        );
        Err(self.step.error(StoreErrorKind::Misconfigured, detail))
    }

    /// Plain renames do not replace: what has the name is moved away before, and
    /// comes back when the new one does not get its place.
    async fn rename_plainly(&self, path: &str) -> Result<(), Failure> {
        let sftp = self.step.sftp;
        let rename = |from, to| sftp.done(Request::Rename { from, to });
        let refused = match rename(&self.path, path).await {
            Err(Failure::Status(status)) => status,
            other => return other,
        };
        if sftp.attributes(Request::Stat(path)).await.is_err() {
            return Err(Failure::Status(refused));
        }
        let old = format!("{}.old", self.path);
        rename(path, &old).await?;
        if let Err(failure) = rename(&self.path, path).await {
            rename(&old, path).await?;
            return Err(failure);
        }
        sftp.done(Request::Remove(&old)).await
    }
}
