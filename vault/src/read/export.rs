//! A backup as an archive.
//!
//! A download can be resumed at an offset, so the same backup must give the same
//! bytes again: whatever changes them must change [`ENCODER_VERSION`].

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::Arc,
};

use proto::vault::v1::{Content, Entry, EntryType};

use super::{
    TarSpec,
    content::ContentReader,
    entries::{EntryIter, Scope, lies_under},
    fetch::Fetcher,
    layout::Layout,
    tar::{BLOCK, Member, MemberKind, header, padding},
    walk::Walk,
};
use crate::error::{Result, VaultError};

/// Names the exact bytes that `export_tar` and `export_tar_zst` make of a backup:
/// a download begun under one version cannot be resumed under another.
pub const ENCODER_VERSION: &str = "tar1-zstd1.5.7-3";
/// zstd level of exported archives.
const LEVEL: i32 = 3;
/// The compressor is fed in blocks of this length, whatever the pieces were.
const FEED_BYTES: usize = 128 * 1024;

/// Writes a tar of what `spec` asks for.
pub(super) fn tar(fetcher: &Arc<Fetcher>, spec: &TarSpec, sink: &mut dyn Write) -> Result<()> {
    let walk = Walk::start(fetcher, Scope::under(&spec.prefix), Arc::default())?;
    Exporter {
        fetcher,
        spec,
        walk,
        sink,
        outside: None,
        written: HashMap::new(),
    }
    .run()
}

/// Writes a `.tar.zst`.
pub(super) fn tar_zst(fetcher: &Arc<Fetcher>, spec: &TarSpec, sink: &mut dyn Write) -> Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(sink, LEVEL).map_err(VaultError::Sink)?;
    encoder.include_checksum(true).map_err(VaultError::Sink)?;
    let mut feed = Feed {
        buffer: Vec::with_capacity(FEED_BYTES),
        sink: encoder,
    };
    tar(fetcher, spec, &mut feed)?;
    feed.write_buffer()
        .and_then(|()| feed.sink.finish())
        .map_err(VaultError::Sink)?;
    Ok(())
}

struct Exporter<'a> {
    fetcher: &'a Arc<Fetcher>,
    spec: &'a TarSpec,
    walk: Walk,
    sink: &'a mut dyn Write,
    /// What hard links within the prefix point to outside of it, once looked for.
    outside: Option<HashMap<Vec<u8>, Content>>,
    /// Of those, the path that was written as the file.
    written: HashMap<Vec<u8>, Vec<u8>>,
}

impl Exporter<'_> {
    fn run(mut self) -> Result<()> {
        while let Some(entry) = self.walk.next_entry()? {
            let name = self.name(&entry);
            match entry.r#type() {
                EntryType::Regular => {
                    let content = entry.content.clone().unwrap_or_default();
                    self.add_file(&entry, &name, &content, true)?;
                }
                EntryType::HardLink => self.add_hard_link(&entry, &name)?,
                EntryType::Symlink => {
                    self.add_plain(&entry, &name, &entry.link_target, MemberKind::Plain)?;
                }
                _ => self.add_plain(&entry, &name, &[], MemberKind::Plain)?,
            }
        }
        self.put(&[0; 2 * BLOCK])?;
        self.sink.flush().map_err(VaultError::Sink)
    }

    /// The name in the archive: a folder's ends in '/', the root is "./" unless
    /// something is put before it.
    fn name(&self, entry: &Entry) -> Vec<u8> {
        let mut name = self.prepended(&entry.path);
        if name.is_empty() {
            name.push(b'.');
        }
        if entry.r#type() == EntryType::Directory && !name.ends_with(b"/") {
            name.push(b'/');
        }
        name
    }

    fn prepended(&self, path: &[u8]) -> Vec<u8> {
        [&self.spec.prepend[..], path].concat()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write_all(bytes).map_err(VaultError::Sink)
    }

    fn add_plain(
        &mut self,
        entry: &Entry,
        name: &[u8],
        link: &[u8],
        kind: MemberKind,
    ) -> Result<()> {
        self.put(&header(&Member {
            entry,
            name,
            link,
            kind,
        }))
    }

    /// A regular file; its data comes with the walk, or is read apart from it.
    fn add_file(
        &mut self,
        entry: &Entry,
        name: &[u8],
        content: &Content,
        walked: bool,
    ) -> Result<()> {
        let layout = Layout::of(content).map_err(|what| self.fetcher.malformed(what))?;
        let kind = if content.data_runs.is_empty() {
            MemberKind::Whole(layout.size_bytes)
        } else {
            MemberKind::Sparse {
                size_bytes: layout.size_bytes,
                runs: &layout.runs,
            }
        };
        self.add_plain(entry, name, &[], kind)?;
        let mut left = layout.data_bytes;
        if walked {
            while let Some((bytes, _)) = self.walk.next_data()? {
                left = left.saturating_sub(bytes.len() as u64);
                self.put(&bytes)?;
            }
        } else {
            let mut reader = ContentReader::new(self.fetcher.clone(), content, 0)?;
            while let Some(bytes) = reader.next_data()? {
                left = left.saturating_sub(bytes.len() as u64);
                self.put(&bytes)?;
            }
        }
        if left > 0 {
            return Err(VaultError::Internal("a member ends early".to_owned()));
        }
        self.put(padding(layout.data_bytes))
    }

    fn add_hard_link(&mut self, entry: &Entry, name: &[u8]) -> Result<()> {
        let target = &entry.link_target;
        let linked = if lies_under(target, &self.spec.prefix) {
            Some(target)
        } else {
            self.written.get(target)
        };
        if let Some(linked) = linked {
            let link = self.prepended(linked);
            return self.add_plain(entry, name, &link, MemberKind::Link);
        }
        // What it links to is not in the archive: the first such link becomes the file.
        if self.outside.is_none() {
            self.outside = Some(self.find_outside()?);
        }
        let content = self
            .outside
            .as_mut()
            .and_then(|outside| outside.remove(target))
            .ok_or_else(|| {
                self.fetcher.malformed(format!(
                    "entry {:?} links to what is no regular file",
                    String::from_utf8_lossy(&entry.path)
                ))
            })?;
        self.written.insert(target.clone(), entry.path.clone());
        self.add_file(entry, name, &content, false)
    }

    /// The contents that hard links within the prefix point to outside of it.
    fn find_outside(&self) -> Result<HashMap<Vec<u8>, Content>> {
        let mut wanted: HashMap<Vec<u8>, Option<Content>> = HashMap::new();
        for entry in EntryIter::new(self.fetcher.clone(), Scope::under(&self.spec.prefix))? {
            let entry = entry?;
            if entry.r#type() == EntryType::HardLink
                && !lies_under(&entry.link_target, &self.spec.prefix)
            {
                wanted.insert(entry.link_target, None);
            }
        }
        for entry in EntryIter::new(self.fetcher.clone(), Scope::All)? {
            let entry = entry?;
            if let Some(found) = wanted.get_mut(&entry.path) {
                *found = entry.content;
            }
        }
        Ok(wanted
            .into_iter()
            .filter_map(|(path, content)| Some((path, content?)))
            .collect())
    }
}

/// Hands on what is written in blocks of one length.
struct Feed<W> {
    buffer: Vec<u8>,
    sink: W,
}

impl<W: Write> Feed<W> {
    fn write_buffer(&mut self) -> io::Result<()> {
        self.sink.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write> Write for Feed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(FEED_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == FEED_BYTES {
            self.write_buffer()?;
        }
        Ok(taken)
    }

    /// Nothing: a flush would show in the compressed bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoders_version_names_the_compressors() {
        let zstd = format!("zstd{}-{LEVEL}", zstd::zstd_safe::version_string());
        assert!(ENCODER_VERSION.ends_with(&zstd), "{zstd}");
    }

    #[test]
    fn blocks_do_not_depend_on_how_the_bytes_come() {
        let bytes: Vec<u8> = (0..FEED_BYTES * 2 + 77).map(|n| n as u8).collect();
        for piece in [1000, FEED_BYTES, bytes.len()] {
            let mut feed = Feed {
                buffer: Vec::new(),
                sink: Lengths::default(),
            };
            for piece in bytes.chunks(piece) {
                feed.write_all(piece).unwrap();
            }
            feed.write_buffer().unwrap();
            assert_eq!(feed.sink.0, [FEED_BYTES, FEED_BYTES, 77]);
        }
    }

    #[derive(Default)]
    struct Lengths(Vec<usize>);

    impl Write for Lengths {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
