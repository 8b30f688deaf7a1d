//! Removes a tree of any depth, never leaving it through a symbolic link.

use std::os::fd::BorrowedFd;

use rustix::{
    fs::{AtFlags, FileType, Mode, chmodat, fchmod, openat, unlinkat},
    io::{Errno, Result},
};

use super::{
    FOLDER, NO_MODE,
    descent::Descent,
    listing::{Buffer, Listing},
};

/// Rounds after which a tree that others keep writing to is given up.
const ROUNDS_MAX: usize = 8;

/// Removes what `name` is in `parent`, with everything below. Nothing there is fine.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let mut rounds = 0;
    loop {
        let folder = open_even_if_locked(parent, name)?;
        remove_content(std::os::fd::AsFd::as_fd(&folder))?;
        rounds += 1;
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) if rounds < ROUNDS_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes everything in an open folder, not the folder itself.
pub(crate) fn remove_content(folder: BorrowedFd<'_>) -> Result<()> {
    let mut buffer = Buffer::new();
    let mut descent = Descent::new(openat(folder, ".", FOLDER, NO_MODE)?);
    let mut listings = vec![(Listing::read(descent.here(), &mut buffer)?, 0)];
    while let Some((listing, next)) = listings.last_mut() {
        let Some((name, file_type)) = listing.get(*next) else {
            listings.pop();
            if listings.is_empty() {
                return Ok(());
            }
            let name: Box<[u8]> = descent.name(descent.depth() - 1).into();
            descent.leave()?;
            match unlinkat(descent.here(), &*name, AtFlags::REMOVEDIR) {
                // Someone still writes there: the caller looks again.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            continue;
        };
        *next += 1;
        if file_type != FileType::Directory {
            match unlink(descent.here(), name) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) if file_type == FileType::Unknown => {}
                Err(error) => return Err(error),
            }
        }
        match descent.enter(name) {
            Ok(()) => {}
            Err(Errno::NOENT) => continue,
            Err(Errno::ACCESS) => {
                chmodat(
                    descent.here(),
                    name,
                    Mode::from_raw_mode(0o700),
                    AtFlags::empty(),
                )?;
                descent.enter(name)?;
            }
            Err(error) => return Err(error),
        }
        let below = Listing::read(descent.here(), &mut buffer)?;
        listings.push((below, 0));
    }
    Ok(())
}

fn unlink(folder: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ACCESS) => {
            fchmod(folder, Mode::from_raw_mode(0o700))?;
            unlinkat(folder, name, AtFlags::empty())
        }
        other => other,
    }
}

fn open_even_if_locked(parent: BorrowedFd<'_>, name: &[u8]) -> Result<std::os::fd::OwnedFd> {
    match openat(parent, name, FOLDER, NO_MODE) {
        Err(Errno::ACCESS) => {
            chmodat(parent, name, Mode::from_raw_mode(0o700), AtFlags::empty())?;
            openat(parent, name, FOLDER, NO_MODE)
        }
        other => other,
    }
}
