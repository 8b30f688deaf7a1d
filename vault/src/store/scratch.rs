//! Where a local destination keeps what it has not finished writing: a folder for
//! each process, locked while the process lives.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// A folder for unfinished writes of one process. Its lock tells others that it
/// is in use; without its lock it is what a dead process left.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    _lock: fs::File,
    /// How many writes of objects whose files begin with this are under way.
    writing: Mutex<HashMap<String, usize>>,
}

impl Scratch {
    pub(super) fn new(temporary: &Path) -> io::Result<Self> {
        let path = temporary.join(hex::encode(crate::random::bytes::<8>()));
        // Made under another's eyes: a folder that is not locked yet may be swept
        // by a process that starts at the same time. Then another one is made.
        loop {
            fs::create_dir(&path)?;
            match lock(&path) {
                Ok(Some(lock)) if path.exists() => {
                    return Ok(Self {
                        path,
                        _lock: lock,
                        writing: Mutex::default(),
                    });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that an object is being written, until the answer is dropped. Then
    /// what is still there of it goes: the write has failed or was given up, and
    /// the disk may be full of it.
    pub(super) fn write(self: &Arc<Self>, name: &str) -> Unfinished {
        // The file is called like the object, with something random behind a dot.
        let prefix = format!("{}.", name.rsplit('/').next().unwrap_or(name));
        *self.counts().entry(prefix.clone()).or_default() += 1;
        Unfinished {
            scratch: self.clone(),
            prefix,
        }
    }

    /// Removes files that nobody writes any more. A write that was given up in
    /// the middle of a call can make its file after it was looked for.
    pub(super) fn sweep(&self) -> io::Result<u64> {
        let counts = self.counts();
        self.remove(|file| !counts.keys().any(|prefix| file.starts_with(prefix)))
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<String, usize>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, unwanted: impl Fn(&str) -> bool) -> io::Result<u64> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if !unwanted(&entry.file_name().to_string_lossy()) {
                continue;
            }
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => {
                    other?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is still in it, a later start sweeps.
        let _ = fs::remove_dir(&self.path);
    }
}

/// A write that is under way.
pub(super) struct Unfinished {
    scratch: Arc<Scratch>,
    prefix: String,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut counts = self.scratch.counts();
        if let Some(count) = counts.get_mut(&self.prefix) {
            *count -= 1;
            if *count > 0 {
                return;
            }
        }
        counts.remove(&self.prefix);
        // One listing of a folder that holds what is written right now.
        if let Err(error) = self.scratch.remove(|file| file.starts_with(&self.prefix)) {
            tracing::debug!(%error, "an unfinished write stays until the next sweep");
        }
    }
}

/// Locks a folder, unless another process has.
fn lock(folder: &Path) -> io::Result<Option<fs::File>> {
    let file = fs::File::open(folder)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes what dead processes left, and loose files of at least an age.
pub(super) fn sweep(temporary: &Path, age_ms: u64) -> io::Result<u64> {
    let mut swept = 0;
    for entry in fs::read_dir(temporary)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let removed = if metadata.is_dir() {
            match lock(&entry.path()) {
                Ok(Some(_lock)) => {
                    swept += fs::read_dir(entry.path())?.count() as u64;
                    fs::remove_dir_all(entry.path())
                }
                Ok(None) => continue,
                Err(error) => Err(error),
            }
        } else if metadata
            .modified()?
            .elapsed()
            .unwrap_or_default()
            .as_millis()
            >= u128::from(age_ms)
        {
            swept += 1;
            fs::remove_file(entry.path())
        } else {
            continue;
        };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_writes_any_more_goes_and_what_is_written_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let scratch = Arc::new(Scratch::new(folder.path()).expect("a scratch folder"));
        let make = |name: &str| fs::write(scratch.path().join(name), "half").expect("write");
        let files = || fs::read_dir(scratch.path()).expect("list").count();

        let first = scratch.write("vaults/a/packs/aa");
        let second = scratch.write("vaults/a/packs/bb");
        make("aa.1");
        make("bb.1");
        drop(first);
        assert_eq!(files(), 1, "what was given up is gone at once");
        make("aa.2");
        assert_eq!(scratch.sweep().expect("sweep"), 1, "what came late");
        assert_eq!(sweep(folder.path(), 0).expect("sweep"), 0, "it is in use");
        assert!(scratch.path().join("bb.1").exists());
        drop(second);
        assert_eq!(files(), 0);
    }
}
