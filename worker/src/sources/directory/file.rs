//! Reads one file: sparse ones run by run, and again when they change meanwhile.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use proto::vault::v1::{Content, DataRun, Xattr};
use rustix::{
    fs::{Advice, FileType, OFlags, SeekFrom, Stat, fadvise, fstat, openat, seek},
    io::Errno,
};
use vault::{BackupWriter, VaultError};

use super::{AfterRead, entry::is_same_state};
use crate::files::{
    NO_MODE, cause,
    xattrs::{self, Holder},
};

/// How often a file that changes while it is read is read.
const READS_MAX: u32 = 3;
/// Data runs kept of a sparse file; small holes are read as zeros beyond that.
const RUNS_MAX: usize = 100_000;
/// From this size on the system is told to read ahead.
const READ_AHEAD_BYTES_MIN: i64 = 1024 * 1024;

/// How files are opened: never through a link, never waiting for a pipe's other end.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY);

/// A file as it was read.
pub(super) struct ReadFile {
    /// Its state when the reading began.
    pub(super) stat: Stat,
    /// What it holds.
    pub(super) content: Content,
    /// Its attributes.
    pub(super) xattrs: Vec<Xattr>,
    /// Attributes that could not be read.
    pub(super) xattr_errors: Vec<(Vec<u8>, Errno)>,
    /// Whether it changed each time it was read.
    pub(super) is_torn: bool,
}

/// Why a file is not in the backup.
pub(super) enum NotRead {
    /// For people.
    Because(String),
    /// The vault refused: the backup ends.
    Vault(VaultError),
}

/// Reads the file `name`; `path` is only told to tests.
pub(super) fn read(
    folder: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
    writer: &mut BackupWriter,
    after_read: Option<&AfterRead>,
) -> Result<ReadFile, NotRead> {
    let mut reads = 0;
    loop {
        reads += 1;
        let file = open(folder, name).map_err(not_opened)?;
        let stat = fstat(&file).map_err(not_opened)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(NotRead::Because(
                "changed into something else while the backup ran: it is not in this backup"
                    .to_owned(),
            ));
        }
        let (xattrs, xattr_errors) = xattrs::read(Holder::Open(file.as_fd()));
        let file = File::from(file);
        let content = read_content(&file, &stat, writer).map_err(|error| match error {
            VaultError::Source(error) => NotRead::Because(format!(
                "could not be read ({}): it is not in this backup",
                cause(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            )),
            error => NotRead::Vault(error),
        })?;
        if let Some(after_read) = after_read {
            after_read(path);
        }
        let after = fstat(&file).map_err(not_opened)?;
        let is_torn = !is_same_state(&stat, &after);
        if !is_torn || reads == READS_MAX {
            return Ok(ReadFile {
                stat,
                content,
                xattrs,
                xattr_errors,
                is_torn,
            });
        }
    }
}

/// Opens a file, without leaving a trace in its access time where that is allowed.
fn open(folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    match openat(folder, name, FILE | OFlags::NOATIME, NO_MODE) {
        Err(Errno::PERM) => openat(folder, name, FILE, NO_MODE),
        other => other,
    }
}

fn not_opened(error: Errno) -> NotRead {
    NotRead::Because(match error {
        Errno::NOENT => "vanished while the backup ran: it is not in this backup".to_owned(),
        Errno::LOOP | Errno::NXIO => {
            "changed into something else while the backup ran: it is not in this backup".to_owned()
        }
        error => format!(
            "could not be opened ({}): it is not in this backup",
            cause(error)
        ),
    })
}

fn read_content(
    file: &File,
    stat: &Stat,
    writer: &mut BackupWriter,
) -> Result<Content, VaultError> {
    if stat.st_size == 0 {
        return Ok(Content::default());
    }
    if stat.st_size >= READ_AHEAD_BYTES_MIN {
        let _ = fadvise(file, 0, None, Advice::Sequential);
    }
    let size = stat.st_size as u64;
    // Only a file with fewer blocks than bytes can have holes.
    if (stat.st_blocks as u64).saturating_mul(512) < size
        && let Some(runs) = data_runs(file.as_fd(), size).map_err(io_error)?
    {
        return writer.write_sparse(size, &runs, &mut Runs::new(file, &runs));
    }
    writer.write_content(&mut file.take(size))
}

fn io_error(error: Errno) -> VaultError {
    VaultError::Source(error.into())
}

/// Where a file's data lies; `None` when it has no holes, or the file system can't tell.
fn data_runs(file: BorrowedFd<'_>, size: u64) -> Result<Option<Vec<DataRun>>, Errno> {
    let mut runs = Vec::new();
    let mut at = 0;
    let mut gap_min = 1;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < size => start,
            // No data up to the end.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return rewind(file).map(|()| None),
            Err(error) => return Err(error),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(Errno::NXIO) => size,
            Err(error) => return Err(error),
        };
        push_run(&mut runs, start, end, gap_min);
        while runs.len() > RUNS_MAX {
            gap_min *= 2;
            runs = merged(&runs, gap_min);
        }
        at = end.max(start + 1);
    }
    rewind(file)?;
    let whole =
        matches!(runs[..], [DataRun { offset_bytes: 0, length_bytes }] if length_bytes == size);
    Ok((!whole).then_some(runs))
}

fn push_run(runs: &mut Vec<DataRun>, start: u64, end: u64, gap_min: u64) {
    match runs.last_mut() {
        Some(last) if start - (last.offset_bytes + last.length_bytes) < gap_min => {
            last.length_bytes = end - last.offset_bytes;
        }
        _ => runs.push(DataRun {
            offset_bytes: start,
            length_bytes: end - start,
        }),
    }
}

/// The same runs without the holes that are shorter than `gap_min`.
fn merged(runs: &[DataRun], gap_min: u64) -> Vec<DataRun> {
    let mut fewer = Vec::new();
    for run in runs {
        push_run(
            &mut fewer,
            run.offset_bytes,
            run.offset_bytes + run.length_bytes,
            gap_min,
        );
    }
    fewer
}

fn rewind(file: BorrowedFd<'_>) -> Result<(), Errno> {
    seek(file, SeekFrom::Start(0)).map(|_| ())
}

/// The bytes of a sparse file's data runs, one after another.
struct Runs<'a> {
    file: &'a File,
    further: std::slice::Iter<'a, DataRun>,
    left: u64,
}

impl<'a> Runs<'a> {
    fn new(file: &'a File, runs: &'a [DataRun]) -> Self {
        Self {
            file,
            further: runs.iter(),
            left: 0,
        }
    }
}

impl Read for Runs<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let Some(run) = self.further.next() else {
                return Ok(0);
            };
            seek(self.file, SeekFrom::Start(run.offset_bytes))?;
            self.left = run.length_bytes;
        }
        let wanted = buffer.len().min(self.left as usize);
        let read = (&mut self.file).read(&mut buffer[..wanted])?;
        // A file that became shorter ends here; the vault cuts the content there.
        self.left = if read == 0 {
            0
        } else {
            self.left - read as u64
        };
        if read == 0 {
            self.further = [].iter();
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_runs_lose_their_smallest_holes() {
        let runs: Vec<DataRun> = [(0, 10), (11, 10), (100, 10)]
            .map(|(offset_bytes, length_bytes)| DataRun {
                offset_bytes,
                length_bytes,
            })
            .into();
        let fewer = merged(&runs, 2);
        assert_eq!(
            fewer
                .iter()
                .map(|run| (run.offset_bytes, run.length_bytes))
                .collect::<Vec<_>>(),
            [(0, 21), (100, 10)]
        );
    }
}
