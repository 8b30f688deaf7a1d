//! Carries a plan out: archives of the engine to the vault, in path order.
//!
//! An archive is asked for at the next thing that is wanted, and read on for as long as what has
//! to be passed over between one wanted thing and the next costs less than asking anew. When the
//! engine cuts an archive short (a file got shorter or vanished while it read it), it is asked
//! for again, and what is captured already is passed over.

use std::{cmp::Ordering, collections::HashMap};

use proto::vault::v1::EntryType;
use tokio::runtime::Handle;
use vault::{BackupWriter, VaultError, compare_paths};

use super::{
    archive::{Archive, ArchiveError, Member},
    engine::Engine,
    feed::{Fault, Feed},
    paths::{absolute, base_name, is_within, join},
    plan::{Extent, Plan, Want},
    second_look::SecondLook,
};
use crate::{
    files::show,
    sources::{CaptureContext, SourceError},
};

/// How much is passed over, for each wanted thing that an archive gave, before asking anew.
const SKIP_BYTES_PER_WANT: u64 = 8 * 1024 * 1024;
/// What passing over one member costs besides its bytes.
const SKIP_BYTES_PER_MEMBER: u64 = 4 * 1024;
/// How often an archive that is cut short is asked for again without getting any further.
const READS_MAX: u32 = 5;

/// A capture under way.
pub(super) struct Capture<'a> {
    pub(super) runtime: &'a Handle,
    pub(super) engine: &'a Engine,
    pub(super) container: &'a str,
    pub(super) context: &'a CaptureContext,
    pub(super) plan: &'a Plan,
    pub(super) writer: BackupWriter,
    /// The next want.
    next: usize,
    /// The last path that was captured, or left out.
    last: Option<Vec<u8>>,
    /// The last folder that was left out, with what lies under it.
    left_out: Option<Vec<u8>>,
    second_look: SecondLook,
}

/// Why an archive is read no further.
enum End {
    /// It is over, or what is wanted next is better asked for by itself.
    Done,
    /// It broke off.
    Broken(Fault),
    /// This path must be asked for by itself before going on.
    Detour(Vec<u8>),
}

/// What one archive gave so far.
#[derive(Default)]
struct Stream {
    /// What was asked for.
    root: Vec<u8>,
    /// The last path that came.
    last: Option<Vec<u8>>,
    /// Bytes that may still be passed over.
    may_skip: u64,
    /// Captured links, pipes and devices: the engine lists their further names as hard links too.
    nodes: HashMap<Vec<u8>, Node>,
}

/// What further names of a node have in common beyond what their own headers tell.
struct Node {
    entry_type: EntryType,
    target: Vec<u8>,
    device: (u32, u32),
}

impl<'a> Capture<'a> {
    pub(super) fn new(
        runtime: &'a Handle,
        engine: &'a Engine,
        container: &'a str,
        context: &'a CaptureContext,
        plan: &'a Plan,
        writer: BackupWriter,
    ) -> Self {
        Self {
            runtime,
            engine,
            container,
            context,
            plan,
            writer,
            next: 0,
            last: None,
            left_out: None,
            second_look: SecondLook::new(),
        }
    }

    /// Captures everything that is wanted.
    pub(super) fn run(&mut self) -> Result<(), SourceError> {
        let mut broken = 0;
        while let Some(want) = self.plan.wants.get(self.next) {
            let (next, last) = (self.next, self.last.clone());
            match self.read_archive(want)? {
                End::Done => {}
                End::Broken(Fault::CutShort) => {
                    let got_further = (next, &last) != (self.next, &self.last);
                    broken = if got_further { 1 } else { broken + 1 };
                    if broken == READS_MAX {
                        return Err(self.keeps_changing(want));
                    }
                }
                End::Broken(Fault::Engine(error)) if error.is_missing() => {
                    // Also when the container itself is gone: the next look at it tells.
                    self.warn_missing(&want.path)?;
                    let mut below = Vec::new();
                    self.pass_wants_within(&want.path, &mut below);
                }
                End::Broken(fault) => return Err(fault.into()),
                End::Detour(path) => self.read_alone(path)?,
            }
        }
        Ok(())
    }

    /// Names the files that changed while they were read, as far as a second look tells, and
    /// hands the writer back.
    pub(super) fn finish(mut self, is_live: bool) -> BackupWriter {
        if is_live {
            self.second_look.warn(
                self.runtime,
                self.engine,
                self.container,
                &self.context.cancel,
                &mut self.writer,
            );
        }
        self.writer
    }

    fn archive(&self, path: &[u8]) -> Archive<Feed> {
        Archive::new(Feed::start(
            self.runtime,
            self.engine,
            self.container,
            &absolute(path),
            &self.context.cancel,
        ))
    }

    /// Reads the archive of the path that is wanted next, and from there on.
    fn read_archive(&mut self, want: &Want) -> Result<End, SourceError> {
        let root = &want.path;
        let mut archive = self.archive(root);
        let mut stream = Stream {
            root: root.clone(),
            ..Stream::default()
        };
        let mut not_there = Vec::new();
        let end = loop {
            let member = match archive.next() {
                Ok(Some(member)) => member,
                Ok(None) => {
                    archive.drain();
                    self.pass_wants_within(root, &mut not_there);
                    break End::Done;
                }
                Err(error) => break End::Broken(fault(error, archive.source())),
            };
            let Some(path) = path_of(root, &member.name) else {
                break End::Broken(Fault::Malformed("a member has another name than asked for"));
            };
            let in_order = stream
                .last
                .as_ref()
                .is_none_or(|last| compare_paths(last, &path).is_lt());
            if !in_order {
                break End::Broken(Fault::Malformed("its members are not in order"));
            }
            stream.last = Some(path.clone());
            let is_captured = self
                .last
                .as_ref()
                .is_some_and(|last| compare_paths(&path, last).is_le());
            if is_captured {
                continue;
            }
            let is_wanted = self.advance_to(&path, &mut not_there);
            let Some(want) = self.plan.wants.get(self.next) else {
                break End::Done;
            };
            if !is_within(&want.path, root) {
                break End::Done;
            }
            if !is_wanted {
                let cost = member.size + SKIP_BYTES_PER_MEMBER;
                // Within a want there is no other way on.
                if !is_within(&path, &want.path) {
                    if cost > stream.may_skip {
                        break End::Done;
                    }
                    stream.may_skip -= cost;
                }
                continue;
            }
            if self.leaves_out(&path, &member) {
                continue;
            }
            if let Some(end) = self.add(path, member, &mut archive, &mut stream)? {
                break end;
            }
        };
        drop(archive);
        for path in not_there {
            self.warn_missing(&path)?;
        }
        Ok(end)
    }

    /// Whether the agent's patterns leave a member out; then it is passed, and, when it is a
    /// folder, so is what is wanted below it.
    fn leaves_out(&mut self, path: &[u8], member: &Member) -> bool {
        let below = self
            .left_out
            .as_ref()
            .is_some_and(|folder| is_within(path, folder));
        let is_folder = member.entry.r#type() == EntryType::Directory;
        if !below && !self.plan.patterns.leaves_out(path, is_folder) {
            return false;
        }
        self.last = Some(path.to_vec());
        if is_folder && !below {
            self.left_out = Some(path.to_vec());
            // Where all of a want is left out, reading goes on at the next one.
            while let Some(want) = self.plan.wants.get(self.next)
                && is_within(&want.path, path)
            {
                self.next += 1;
            }
        }
        true
    }

    /// Moves on to the want that a path belongs to; whether there is one.
    fn advance_to(&mut self, path: &[u8], not_there: &mut Vec<Vec<u8>>) -> bool {
        while let Some(want) = self.plan.wants.get(self.next) {
            if want.extent != Extent::Single && is_within(path, &want.path) {
                return self.plan.accepts(want, path);
            }
            match compare_paths(path, &want.path) {
                Ordering::Less => return false,
                Ordering::Equal => return true,
                Ordering::Greater => self.pass_want(not_there),
            }
        }
        false
    }

    fn pass_wants_within(&mut self, root: &[u8], not_there: &mut Vec<Vec<u8>>) {
        while let Some(want) = self.plan.wants.get(self.next) {
            if !is_within(&want.path, root) {
                break;
            }
            self.pass_want(not_there);
        }
    }

    /// Goes on to the next want; this one may not have been found.
    fn pass_want(&mut self, not_there: &mut Vec<Vec<u8>>) {
        let want = &self.plan.wants[self.next];
        let is_found = self
            .last
            .as_ref()
            .is_some_and(|last| compare_paths(last, &want.path).is_ge());
        if !is_found {
            not_there.push(want.path.clone());
        }
        self.next += 1;
    }

    /// Captures one member.
    fn add(
        &mut self,
        path: Vec<u8>,
        member: Member,
        archive: &mut Archive<Feed>,
        stream: &mut Stream,
    ) -> Result<Option<End>, SourceError> {
        let mut entry = member.entry;
        entry.path = path;
        match entry.r#type() {
            EntryType::Regular => {
                let content = match self.writer.write_content(&mut archive.content()) {
                    Ok(content) => content,
                    Err(VaultError::Source(error)) => {
                        let fault = archive.source().take_fault();
                        return Ok(Some(End::Broken(match fault {
                            Some(fault) => fault,
                            None => fault_of(&error),
                        })));
                    }
                    Err(error) => return Err(error.into()),
                };
                entry.content = Some(content);
                self.second_look.note(&entry, member.size);
            }
            EntryType::HardLink => {
                let Some(target) = self.link_target(&entry.path, &member.link, &stream.root) else {
                    return Ok(Some(End::Detour(entry.path)));
                };
                match stream.nodes.get(&target) {
                    Some(node) => {
                        entry.r#type = node.entry_type.into();
                        entry.link_target.clone_from(&node.target);
                        (entry.device_major, entry.device_minor) = node.device;
                    }
                    None => entry.link_target = target,
                }
            }
            EntryType::Directory => {}
            _ => {
                entry.link_target = match entry.r#type() {
                    EntryType::Symlink => member.link,
                    _ => Vec::new(),
                };
                let node = Node {
                    entry_type: entry.r#type(),
                    target: entry.link_target.clone(),
                    device: (entry.device_major, entry.device_minor),
                };
                stream.nodes.insert(entry.path.clone(), node);
            }
        }
        stream.may_skip += SKIP_BYTES_PER_WANT;
        self.last = Some(entry.path.clone());
        self.writer.add(entry)?;
        Ok(None)
    }

    /// What a hard link of an archive points to, when that is captured and surely the same file:
    /// the engine tells files apart by their numbers alone, also where two file systems meet.
    fn link_target(&self, path: &[u8], told: &[u8], root: &[u8]) -> Option<Vec<u8>> {
        path_of(root, told).filter(|target| {
            compare_paths(target, path).is_lt()
                && self.plan.captures(target)
                && self.plan.on_one_mount(target, path)
        })
    }

    /// Captures one path by an archive of its own: it is then no further name of anything.
    fn read_alone(&mut self, path: Vec<u8>) -> Result<(), SourceError> {
        for _ in 0..READS_MAX {
            let mut archive = self.archive(&path);
            let end = match archive.next() {
                Ok(Some(member)) if path_of(&path, &member.name).as_deref() == Some(&path) => {
                    let mut stream = Stream::default();
                    self.add(path.clone(), member, &mut archive, &mut stream)?
                }
                Ok(_) => Some(End::Broken(Fault::CutShort)),
                Err(error) => Some(End::Broken(fault(error, archive.source()))),
            };
            drop(archive);
            match end {
                None => return Ok(()),
                Some(End::Broken(Fault::CutShort)) => {}
                Some(End::Broken(Fault::Engine(error))) if error.is_missing() => {
                    self.last = Some(path.clone());
                    return self.warn_missing(&path);
                }
                Some(End::Broken(fault)) => return Err(fault.into()),
                Some(End::Done | End::Detour(_)) => {
                    return Err(Fault::Malformed("a path asked for alone is not alone").into());
                }
            }
        }
        self.writer.warn(
            &path,
            "changed each time it was read: it is not in this backup",
        );
        self.last = Some(path);
        Ok(())
    }

    /// Says why something that was wanted is not captured.
    fn warn_missing(&mut self, path: &[u8]) -> Result<(), SourceError> {
        /// As Go has it.
        const SOCKET: u32 = 1 << 24;
        let asked = absolute(path);
        let look = self.engine.stat(self.container, &asked);
        let cancel = &self.context.cancel;
        let found = self
            .runtime
            .block_on(cancel.run_until_cancelled(look))
            .ok_or(SourceError::Canceled)?;
        match found {
            // Sockets are no part of a backup.
            Ok(Some(stat)) if stat.file_mode & SOCKET != 0 => {}
            Ok(Some(_)) => self.writer.warn(
                path,
                "changed while the backup ran, or the engine could not read it: it is not in \
                 this backup",
            ),
            Ok(None) => {
                let look = self.engine.inspect(self.container);
                if let Err(error) = self.runtime.block_on(look) {
                    return Err(super::not_read(self.container, error));
                }
                self.writer.warn(
                    path,
                    "vanished while the backup ran: it is not in this backup",
                );
            }
            Err(error) => return Err(super::not_read(self.container, error)),
        }
        Ok(())
    }

    fn keeps_changing(&self, want: &Want) -> SourceError {
        let near = self.last.as_ref().unwrap_or(&want.path);
        SourceError::Unreadable(format!(
            "files of the container change faster than the engine can read them (after {}): \
             register the agent with CONSISTENCY_PAUSE, or try again when it is quieter",
            show(near)
        ))
    }
}

/// The path of a member of an archive of `root`.
fn path_of(root: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    if root.is_empty() {
        let name = name.strip_prefix(b"/").unwrap_or(name);
        return Some(if name == b"." {
            Vec::new()
        } else {
            name.to_vec()
        });
    }
    let rest = name.strip_prefix(base_name(root))?;
    match rest {
        [] => Some(root.to_vec()),
        [b'/', rest @ ..] => Some(join(root, rest)),
        _ => None,
    }
}

fn fault(error: ArchiveError, feed: &mut Feed) -> Fault {
    match error {
        ArchiveError::CutShort => Fault::CutShort,
        ArchiveError::Malformed(what) => Fault::Malformed(what),
        ArchiveError::Read(error) => feed.take_fault().unwrap_or_else(|| fault_of(&error)),
    }
}

fn fault_of(error: &std::io::Error) -> Fault {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Fault::CutShort,
        _ => Fault::Malformed("it can't be read"),
    }
}

impl From<Fault> for SourceError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Canceled => Self::Canceled,
            Fault::Engine(error) => super::engine_failed(error),
            Fault::CutShort => Self::Unreadable(
                "the engine broke an archive of the container off: try again".to_owned(),
            ),
            Fault::Malformed(what) => Self::Unreadable(format!(
                "the engine's archive of the container is not understood ({what}): tell the \
                 operator which version of the engine it is"
            )),
        }
    }
}
