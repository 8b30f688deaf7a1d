//! Walks a folder in path order: a folder before what it holds, and all that before the folder's
//! next sibling; the names of one folder bytewise.

use std::{collections::HashMap, os::fd::OwnedFd};

use proto::vault::v1::{Entry, EntryType};
use rustix::{
    fs::{AtFlags, FileType, Stat, fstat, readlinkat, statat},
    io::Errno,
};
use vault::{BackupWriter, limits::PATH_BYTES_MAX};

use super::{
    AfterRead,
    entry::{entry, entry_type, fingerprint, is_unchanged},
    file::{self, NotRead},
    owners::Owners,
};
use crate::{
    files::{
        cause,
        descent::Descent,
        listing::{Buffer, Listing},
        xattrs::{self, Holder},
    },
    sources::{CaptureContext, SourceError},
};

/// File systems and clocks are not exact: what was changed this close to the previous backup's
/// beginning is read again.
const RACY_MS: i64 = 2_000;

/// Streams everything below an open folder into a writer, and gives the writer back.
pub(super) fn walk(
    folder: OwnedFd,
    context: &CaptureContext,
    writer: BackupWriter,
    after_read: Option<AfterRead>,
) -> Result<BackupWriter, SourceError> {
    let root = fstat(&folder).map_err(unreadable)?;
    let mut walker = Walker {
        writer,
        context,
        after_read,
        descent: Descent::new(folder),
        path: Vec::new(),
        linked: HashMap::new(),
        owners: Owners::read(),
        buffer: Buffer::new(),
        has_named_xattrs: xattrs::names_work(),
    };
    let listing = Listing::read(walker.descent.here(), &mut walker.buffer).map_err(unreadable)?;
    walker.add_directory(&root)?;
    walker.run(listing)?;
    Ok(walker.writer)
}

fn unreadable(error: Errno) -> SourceError {
    SourceError::Unreadable(format!(
        "the agent's folder can't be read ({}): let the worker's user read it",
        cause(error)
    ))
}

struct Walker<'a> {
    writer: BackupWriter,
    context: &'a CaptureContext,
    after_read: Option<AfterRead>,
    descent: Descent,
    path: Vec<u8>,
    /// Files with several names, by identity: how many of the names are still to come, and the
    /// first one. Entries go when their last name was seen.
    linked: HashMap<(u64, u64), (u64, Vec<u8>)>,
    owners: Owners,
    buffer: Buffer,
    has_named_xattrs: bool,
}

/// A folder that is being walked.
struct Frame {
    listing: Listing,
    next: usize,
    path_bytes: usize,
}

impl Walker<'_> {
    fn run(&mut self, listing: Listing) -> Result<(), SourceError> {
        let mut frames = vec![Frame {
            listing,
            next: 0,
            path_bytes: 0,
        }];
        while let Some(frame) = frames.last_mut() {
            let Some((name, _)) = frame.listing.get(frame.next) else {
                frames.pop();
                if frames.is_empty() {
                    break;
                }
                if let Err(error) = self.descent.leave() {
                    self.skip_moved(&mut frames, error);
                }
                continue;
            };
            frame.next += 1;
            if self.context.cancel.is_cancelled() {
                return Err(SourceError::Canceled);
            }
            self.path.truncate(frame.path_bytes);
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            if let Some(listing) = self.visit(name)? {
                frames.push(Frame {
                    listing,
                    next: 0,
                    path_bytes: self.path.len(),
                });
            }
        }
        Ok(())
    }

    /// The folder above was moved away or replaced while the walk was below: what was left to do
    /// in it is not reachable any more.
    fn skip_moved(&mut self, frames: &mut Vec<Frame>, error: Errno) {
        let mut error = Some(error);
        while let Some(last) = error {
            let Some(frame) = frames.pop() else { break };
            self.path.truncate(frame.path_bytes);
            if frame.listing.len() > frame.next {
                self.warn(format!(
                    "was moved while the backup ran ({}): some of what it holds is not in this \
                     backup",
                    cause(last)
                ));
            }
            if frames.is_empty() {
                break;
            }
            error = self.descent.leave().err();
        }
    }

    fn warn(&mut self, message: impl Into<String>) {
        self.writer.warn(&self.path, message);
    }

    /// Adds one name; the names below it when it is a folder that can be read.
    fn visit(&mut self, name: &[u8]) -> Result<Option<Listing>, SourceError> {
        if self.path.len() > PATH_BYTES_MAX {
            let length = self.path.len();
            self.path.truncate(1024);
            self.warn(format!(
                "begins a path of {length} bytes: it is longer than the {PATH_BYTES_MAX} bytes \
                 that a backup can hold, and not in this backup"
            ));
            return Ok(None);
        }
        let stat = match statat(self.descent.here(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                self.warn("vanished while the backup ran: it is not in this backup");
                return Ok(None);
            }
            Err(error) => {
                self.warn(format!(
                    "could not be looked at ({}): it is not in this backup",
                    cause(error)
                ));
                return Ok(None);
            }
        };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if self.context.patterns.leaves_out(&self.path, is_folder) {
            return Ok(None);
        }
        match entry_type(&stat) {
            Some(EntryType::Directory) => return self.directory(name, stat),
            Some(EntryType::Regular) => self.regular(name, &stat)?,
            Some(other) => self.special(name, other, &stat)?,
            None if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
                self.warn("is a socket: it is not in this backup; its program makes it anew");
            }
            None => self.warn("is of a type that is not known: it is not in this backup"),
        }
        Ok(None)
    }

    fn directory(&mut self, name: &[u8], stat: Stat) -> Result<Option<Listing>, SourceError> {
        if let Err(error) = self.descent.enter(name) {
            match error {
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
                    self.warn("vanished while the backup ran: it is not in this backup");
                }
                error => {
                    self.warn(format!(
                        "could not be opened ({}): what it holds is not in this backup",
                        cause(error)
                    ));
                    let entry = entry(&self.path, EntryType::Directory, &stat, &self.owners);
                    self.writer.add(entry)?;
                }
            }
            return Ok(None);
        }
        let opened = fstat(self.descent.here()).unwrap_or(stat);
        self.add_directory(&opened)?;
        match Listing::read(self.descent.here(), &mut self.buffer) {
            Ok(listing) => Ok(Some(listing)),
            Err(error) => {
                self.warn(format!(
                    "could not be read ({}): what it holds is not in this backup",
                    cause(error)
                ));
                Ok(Some(Listing::default()))
            }
        }
    }

    /// Adds the folder at which the walk is.
    fn add_directory(&mut self, stat: &Stat) -> Result<(), SourceError> {
        let mut entry = entry(&self.path, EntryType::Directory, stat, &self.owners);
        let (xattrs, errors) = xattrs::read(Holder::Open(self.descent.here()));
        entry.xattrs = xattrs;
        self.warn_xattrs(&errors);
        Ok(self.writer.add(entry)?)
    }

    fn warn_xattrs(&mut self, errors: &[(Vec<u8>, Errno)]) {
        for (name, error) in errors {
            let name = String::from_utf8_lossy(name);
            self.warn(format!(
                "has attributes that could not be read ({name} {}): they are not in this backup",
                cause(*error)
            ));
        }
    }

    fn special(
        &mut self,
        name: &[u8],
        entry_type: EntryType,
        stat: &Stat,
    ) -> Result<(), SourceError> {
        let mut entry = entry(&self.path, entry_type, stat, &self.owners);
        if entry_type == EntryType::Symlink {
            match readlinkat(self.descent.here(), name, Vec::new()) {
                Ok(target) => entry.link_target = target.into_bytes(),
                Err(error) => {
                    self.warn(format!(
                        "could not be read ({}): it is not in this backup",
                        cause(error)
                    ));
                    return Ok(());
                }
            }
        }
        if self.has_named_xattrs {
            let (xattrs, errors) = xattrs::read(Holder::Named(self.descent.here(), name));
            entry.xattrs = xattrs;
            self.warn_xattrs(&errors);
        }
        Ok(self.writer.add(entry)?)
    }

    fn regular(&mut self, name: &[u8], stat: &Stat) -> Result<(), SourceError> {
        if stat.st_nlink > 1 && self.add_link(stat)? {
            return Ok(());
        }
        if let Some(entry) = self.unchanged(stat)? {
            self.writer.add_unchanged(entry)?;
            self.note_links(stat);
            return Ok(());
        }
        let read = file::read(
            self.descent.here(),
            name,
            &self.path,
            &mut self.writer,
            self.after_read.as_ref(),
        );
        let read = match read {
            Ok(read) => read,
            Err(NotRead::Because(message)) => {
                self.warn(message);
                return Ok(());
            }
            Err(NotRead::Vault(error)) => return Err(error.into()),
        };
        self.warn_xattrs(&read.xattr_errors);
        if read.is_torn {
            self.warn(
                "changed each time it was read: this backup holds it as it was read last, which \
                 may mix two states; pause the agent while it is backed up if that matters",
            );
        }
        let mut entry = entry(&self.path, EntryType::Regular, &read.stat, &self.owners);
        entry.xattrs = read.xattrs;
        entry.content = Some(read.content);
        entry.fingerprint = (!read.is_torn).then(|| fingerprint(&read.stat));
        self.writer.add(entry)?;
        self.note_links(&read.stat);
        Ok(())
    }

    /// The previous backup's entry, where it is what reading the file would give.
    fn unchanged(&mut self, stat: &Stat) -> Result<Option<Entry>, SourceError> {
        let Some(previous) = self.writer.previous_entry(&self.path)? else {
            return Ok(None);
        };
        let Some(previous_start_ms) = self.context.previous_start_ms else {
            return Ok(None);
        };
        let change_ms = stat
            .st_ctime
            .saturating_mul(1000)
            .saturating_add(stat.st_ctime_nsec as i64 / 1_000_000);
        if change_ms >= previous_start_ms - RACY_MS || !is_unchanged(&previous, stat) {
            return Ok(None);
        }
        let Some(content) = previous.content else {
            return Ok(None);
        };
        if !self.writer.reusable(&content)? {
            return Ok(None);
        }
        let mut entry = entry(&self.path, EntryType::Regular, stat, &self.owners);
        entry.xattrs = previous.xattrs;
        entry.content = Some(content);
        entry.fingerprint = Some(fingerprint(stat));
        Ok(Some(entry))
    }

    /// Adds a further name of a file that is in the backup already; whether it is one.
    fn add_link(&mut self, stat: &Stat) -> Result<bool, SourceError> {
        let identity = (stat.st_dev, stat.st_ino);
        let Some((to_come, first)) = self.linked.get_mut(&identity) else {
            return Ok(false);
        };
        let mut entry = entry(&self.path, EntryType::HardLink, stat, &self.owners);
        *to_come -= 1;
        if *to_come == 0 {
            let (_, first) = self.linked.remove(&identity).unwrap_or_default();
            entry.link_target = first;
        } else {
            entry.link_target.clone_from(first);
        }
        self.writer.add(entry)?;
        Ok(true)
    }

    /// Remembers a file that was added, when it has further names.
    fn note_links(&mut self, stat: &Stat) {
        let further = stat.st_nlink.saturating_sub(1);
        if further > 0 {
            let identity = (stat.st_dev, stat.st_ino);
            self.linked.insert(identity, (further, self.path.clone()));
        }
    }
}
