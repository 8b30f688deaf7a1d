//! A backup as text: one line an entry, with everything that a restore would make.

use std::{fmt::Write as _, io::Write, sync::Arc};

use vault::{
    BackupReader, Meter, Result, TarSpec,
    format::{Entry, EntryType},
};

/// Everything of a backup: what it says of itself, its tar's hash, its entries.
pub(crate) fn listing(reader: &BackupReader) -> Result<String> {
    let manifest = reader.manifest();
    let mut text = String::new();
    let counted = manifest.statistics.unwrap_or_default();
    let _ = writeln!(
        text,
        "backup {} attempt {} number {} named {:?} of agent {} {:?} owner {} workspace {}",
        manifest.backup_id,
        manifest.attempt,
        manifest.sequence,
        manifest.name,
        manifest.agent_id,
        manifest.agent_name,
        manifest.owner_id,
        manifest.workspace_id,
    );
    let _ = writeln!(
        text,
        "from {} to {}, {} entries, {} bytes, {} integrations, {} warnings, container {:?}",
        manifest.start_time_ms,
        manifest.end_time_ms,
        counted.entries,
        counted.size_bytes,
        manifest.integrations.len(),
        manifest.warnings.len(),
        manifest
            .runtime
            .as_ref()
            .map(|runtime| &runtime.container_name),
    );
    let mut tar = Hasher(blake3::Hasher::new());
    reader.export_tar(&TarSpec::default(), &mut tar)?;
    let _ = writeln!(text, "tar {}", tar.0.finalize().to_hex());
    let mut walk = reader.walk(Arc::new(Meter::default()))?;
    while let Some(entry) = walk.next_entry()? {
        let mut hash = blake3::Hasher::new();
        let mut end = 0;
        while let Some((data, offset)) = walk.next_data()? {
            zeros(&mut hash, offset - end);
            hash.update(&data);
            end = offset + data.len() as u64;
        }
        let size = entry.content.as_ref().map_or(0, |c| c.size_bytes);
        zeros(&mut hash, size - end);
        line(&mut text, &entry, &hash);
    }
    Ok(text)
}

fn line(text: &mut String, entry: &Entry, hash: &blake3::Hasher) {
    let _ = write!(
        text,
        "{} {} {:04o} {}:{} {:?}:{:?} {}.{:09}",
        entry.path.escape_ascii(),
        entry
            .r#type()
            .as_str_name()
            .trim_start_matches("ENTRY_TYPE_"),
        entry.mode,
        entry.uid,
        entry.gid,
        entry.user_name,
        entry.group_name,
        entry.mtime_seconds,
        entry.mtime_nanos,
    );
    match entry.r#type() {
        EntryType::Regular => {
            let content = entry.content.clone().unwrap_or_default();
            let _ = write!(
                text,
                " {} bytes depth {} {}",
                content.size_bytes,
                content.depth,
                hash.finalize().to_hex()
            );
            for run in &content.data_runs {
                let _ = write!(text, " {}+{}", run.offset_bytes, run.length_bytes);
            }
        }
        EntryType::Symlink | EntryType::HardLink => {
            let _ = write!(text, " -> {}", entry.link_target.escape_ascii());
        }
        EntryType::CharacterDevice | EntryType::BlockDevice => {
            let _ = write!(
                text,
                " device {}:{}",
                entry.device_major, entry.device_minor
            );
        }
        _ => {}
    }
    for xattr in &entry.xattrs {
        let (name, value) = (xattr.name.escape_ascii(), xattr.value.escape_ascii());
        let _ = write!(text, " {name}={value}");
    }
    text.push('\n');
}

fn zeros(hash: &mut blake3::Hasher, mut bytes: u64) {
    let block = [0; 8192];
    while bytes > 0 {
        let now = bytes.min(block.len() as u64);
        hash.update(&block[..now as usize]);
        bytes -= now;
    }
}

struct Hasher(blake3::Hasher);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
