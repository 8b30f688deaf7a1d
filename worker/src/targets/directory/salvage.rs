//! A folder made by hand, without a job: for someone who has nothing left but the storage and the
//! key. What can't be brought back is noted, one thing after another, and the rest is made.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::backup::v1::RestorePlan;
use tokio_util::sync::CancellationToken;
use vault::{BackupReader, Meter};

use super::DirectoryTarget;
use crate::{
    settings::{Paths, WorkerSettings},
    targets::{RestoreContext, Target as _, TargetError},
};

/// What can't be brought back, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// One entry.
    Entry {
        /// Its path in the backup.
        path: Vec<u8>,
        /// Why.
        reason: String,
    },
    /// Entries whose very names are lost.
    Entries {
        /// The last entry before them; empty when there is none.
        after: Vec<u8>,
        /// Why.
        reason: String,
    },
}

/// Called with each thing that can't be brought back.
#[derive(Clone)]
pub struct LossLog(Arc<dyn Fn(Loss) + Send + Sync>);

impl LossLog {
    /// Calls this function.
    pub fn new(note: impl Fn(Loss) + Send + Sync + 'static) -> Self {
        Self(Arc::new(note))
    }

    pub(super) fn note(&self, path: &[u8], reason: &str) {
        (self.0)(Loss::Entry {
            path: path.to_vec(),
            reason: reason.to_owned(),
        });
    }

    pub(super) fn note_entries(&self, after: &[u8], reason: &str) {
        (self.0)(Loss::Entries {
            after: after.to_vec(),
            reason: reason.to_owned(),
        });
    }
}

impl fmt::Debug for LossLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LossLog(..)")
    }
}

/// The folder to make.
#[derive(Debug, Clone)]
pub struct FolderSpec {
    /// Its absolute path; it must not exist, or be empty.
    pub path: PathBuf,
    /// Whether devices may be made.
    pub devices: bool,
    /// Canceled when the work shall end.
    pub cancel: CancellationToken,
    /// Where progress is counted.
    pub meter: Arc<Meter>,
    /// Told what can't be brought back.
    pub lost: LossLog,
}

/// Makes a folder of a backup, as a restore's job does and as safely: it is there whole, in the end,
/// or not at all. Returns what it has not quite as the backup has it.
pub async fn restore_to_folder(
    reader: BackupReader,
    spec: FolderSpec,
) -> Result<Vec<String>, TargetError> {
    let parent = spec.path.parent().unwrap_or(Path::new("/")).to_path_buf();
    let settings = WorkerSettings {
        source_roots: Paths::from([parent]),
        restore_devices: spec.devices,
        ..WorkerSettings::default()
    };
    let context = RestoreContext {
        restore_id: uuid::Uuid::now_v7().to_string(),
        attempt: 1,
        plan: RestorePlan::default(),
        in_place: false,
        decisions: Vec::new(),
        cancel: spec.cancel,
        meter: spec.meter,
    };
    let target = DirectoryTarget::at(&settings, spec.path, context, Some(spec.lost));
    let restored = async {
        let restored = target.write(reader).await?;
        target.publish().await?;
        Ok(restored.warnings)
    }
    .await;
    let tidied = if restored.is_ok() {
        target.settle().await
    } else {
        target.clean().await
    };
    if let Err(error) = tidied {
        tracing::warn!(%error, "tidy up after a restore");
    }
    restored
}
