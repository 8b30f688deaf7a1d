//! The writer: entries and contents in, one backup out.

use std::{
    io::Read,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, atomic::Ordering::Relaxed},
};

use prost::Message as _;
use proto::vault::v1::{
    Content, DataRun, Entry, EntryType, Manifest, RuntimeDocument, Statistics, Warning,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    content::{Cutter, IdList},
    pipeline::Pipeline,
    previous::Previous,
    segment::SegmentBuilder,
};
use crate::{
    error::{Result, VaultError},
    id::{ChunkId, check_path, compare_paths},
    index::{BitSet, ChunkIndex, Location},
    limits::{CHUNK_ID_BYTES, INLINE_BYTES_MAX, WARNINGS_MAX},
    manifest::ManifestRef,
    meter::{Meter, Phase},
    read::BackupReader,
    vault::{Contents, Vault},
};

/// What a backup is, apart from its entries.
#[derive(Debug, Clone, Default)]
pub struct BackupSpec {
    /// The backup's id.
    pub backup_id: String,
    /// The attempt (fence).
    pub attempt: u32,
    /// The agent's display name.
    pub agent_name: String,
    /// The agent's owner.
    pub owner_id: String,
    /// The agent's workspace.
    pub workspace_id: String,
    /// The backup's name.
    pub name: String,
    /// `nora.backup.v1.Source`, serialised.
    pub source: Vec<u8>,
    /// `nora.backup.v1.Integration` messages, serialised one by one.
    pub integrations: Vec<Vec<u8>>,
    /// The newest completed backup: its entries tell what need not be read again.
    pub previous: Option<ManifestRef>,
    /// Its number in the vault, where that is known: numbers go on from there even
    /// when its manifest can't be read any more.
    pub previous_sequence: Option<u64>,
    /// When the backup began, milliseconds since 1970.
    pub start_time_ms: i64,
}

/// A backup that is stored.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Names the manifest, with its digest.
    pub manifest: ManifestRef,
    /// The manifest's number within the vault.
    pub sequence: u64,
    /// What was counted.
    pub statistics: Statistics,
    /// What the backup holds not quite as the source had it; the first of them.
    pub warnings: Vec<Warning>,
    /// Warnings beyond those.
    pub warnings_omitted: u64,
    /// Bytes of all the vault's objects at the destination.
    pub vault_bytes: u64,
}

/// Which open segment a chunk goes to: contents and what describes them are kept
/// apart, so that a listing reads little.
#[derive(Debug, Clone, Copy)]
enum Lane {
    Data,
    Meta,
}

/// Writes one backup. All methods block: call them from `spawn_blocking`.
pub struct BackupWriter {
    pub(super) vault: Vault,
    pub(super) manifest: Manifest,
    pub(super) contents: Contents,
    /// Segments that this backup refers to.
    pub(super) used_segments: BitSet,
    pub(super) pipeline: Pipeline,
    pub(super) statistics: Statistics,
    pub(super) meter: Arc<Meter>,
    pub(super) runtime: Handle,
    pub(super) cancel: CancellationToken,
    data: SegmentBuilder,
    meta: SegmentBuilder,
    cutter: Cutter,
    entry_cutter: Cutter,
    entry_ids: IdList,
    entry_bytes: u64,
    last_path: Option<Vec<u8>>,
    pub(super) previous: Option<Previous>,
    previous_fault: Option<VaultError>,
}

impl Vault {
    /// Begins a backup: loads what the vault holds and starts the pipeline. The
    /// caller must be the vault's only writer. Call it on the async runtime; what
    /// it returns blocks.
    pub async fn begin_backup(
        &self,
        spec: BackupSpec,
        cancel: CancellationToken,
        meter: Arc<Meter>,
    ) -> Result<BackupWriter> {
        meter.set_phase(Phase::Preparing);
        let contents = self.load_contents().await?;
        let mut manifest = Manifest {
            backup_id: spec.backup_id,
            attempt: spec.attempt,
            agent_id: self.agent_id.clone(),
            sequence: spec.previous_sequence.map_or(1, |sequence| sequence + 1),
            start_time_ms: spec.start_time_ms,
            name: spec.name,
            source: spec.source,
            integrations: spec.integrations,
            agent_name: spec.agent_name,
            owner_id: spec.owner_id,
            workspace_id: spec.workspace_id,
            ..Manifest::default()
        };
        let (mut previous, mut previous_fault) = (None, None);
        if let Some(at) = &spec.previous {
            match self.read_manifest(at).await {
                Ok((read, _)) => {
                    let reader = BackupReader::new(
                        self.clone(),
                        read,
                        contents.chunks.clone(),
                        cancel.clone(),
                    );
                    manifest.sequence = manifest.sequence.max(reader.manifest().sequence + 1);
                    manifest.previous_digest = at.digest.map(|d| d.to_vec()).unwrap_or_default();
                    previous = Some(reader);
                }
                // A damaged earlier backup must not keep the next one from being
                // made: everything is read again.
                Err(
                    error @ (VaultError::Corrupt { .. }
                    | VaultError::Missing { .. }
                    | VaultError::Replayed { .. }),
                ) => {
                    tracing::warn!(agent_id = %self.agent_id, %error, "previous backup is not readable");
                    manifest.previous_digest = at.digest.map(|d| d.to_vec()).unwrap_or_default();
                    manifest.warnings.push(Warning {
                        path: Vec::new(),
                        message: format!(
                            "everything was read anew, as the backup before is not what it was: {error}"
                        ),
                    });
                    previous_fault = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let key = self.keys.writing().clone();
        let gear = Arc::new(key.gear());
        let runtime = Handle::current();
        let pipeline = Pipeline::start(self, &key, &contents.chunks, &runtime, meter.clone())?;
        let previous = match previous {
            Some(reader) => {
                let from = reader.clone();
                tokio::task::spawn_blocking(move || from.entries(None).ok())
                    .await
                    .map_err(|e| VaultError::Internal(e.to_string()))?
                    .map(|entries| Previous::new(reader, entries))
            }
            None => None,
        };
        meter.set_phase(Phase::Transferring);
        Ok(BackupWriter {
            vault: self.clone(),
            manifest,
            contents,
            used_segments: BitSet::default(),
            pipeline,
            statistics: Statistics::default(),
            meter,
            runtime,
            data: SegmentBuilder::default(),
            meta: SegmentBuilder::default(),
            cutter: Cutter::new(gear.clone()),
            entry_cutter: Cutter::new(gear),
            entry_ids: IdList::default(),
            entry_bytes: 0,
            last_path: None,
            previous,
            previous_fault,
            cancel,
        })
    }
}

impl BackupWriter {
    /// What is wrong with the previous backup's manifest, if it can't be used.
    pub fn previous_fault(&self) -> Option<&VaultError> {
        self.previous_fault.as_ref()
    }

    /// Stores a content that is read to its end.
    pub fn write_content(&mut self, source: &mut dyn Read) -> Result<Content> {
        let mut content = self.write_runs(source)?;
        content.data_runs.clear();
        Ok(content)
    }

    /// Stores a sparse content: `source` yields the bytes of the runs one after
    /// another. Where the source ends early, the content is cut short there.
    pub fn write_sparse(
        &mut self,
        size_bytes: u64,
        runs: &[DataRun],
        source: &mut dyn Read,
    ) -> Result<Content> {
        let mut content = self.write_runs(source)?;
        let (mut left, mut end) = (content.size_bytes, 0);
        content.data_runs.clear();
        for run in runs {
            let length = run.length_bytes.min(left);
            if length > 0 {
                content.data_runs.push(DataRun {
                    offset_bytes: run.offset_bytes,
                    length_bytes: length,
                });
            }
            left -= length;
            end = run.offset_bytes + length;
            if length < run.length_bytes {
                break;
            }
        }
        let complete = content.data_runs.len() == runs.len();
        content.size_bytes = if complete { size_bytes.max(end) } else { end };
        if content.data_runs.is_empty() && content.size_bytes > 0 {
            // A file that is one hole: an explicit empty run list would mean data.
            content.data_runs.push(DataRun {
                offset_bytes: 0,
                length_bytes: 0,
            });
        }
        Ok(content)
    }

    /// Adds an entry. Paths must ascend (see [`compare_paths`]).
    pub fn add(&mut self, entry: Entry) -> Result<()> {
        self.check_cancel()?;
        let refuse = |what| VaultError::Entry {
            path: String::from_utf8_lossy(&entry.path).into_owned(),
            what,
        };
        check_path(&entry.path).map_err(refuse)?;
        if self
            .last_path
            .as_ref()
            .is_some_and(|last| compare_paths(last, &entry.path).is_ge())
        {
            return Err(refuse("entries must come in path order, each once"));
        }
        self.statistics.entries += 1;
        if entry.r#type() == EntryType::Regular {
            let content = entry
                .content
                .as_ref()
                .ok_or_else(|| refuse("a regular file needs a content"))?;
            self.statistics.files += 1;
            self.statistics.size_bytes += content.size_bytes;
            self.use_content(content)
                .map_err(|()| refuse("its content is not in the vault"))?;
        }
        self.meter.add_entry();
        let record = entry.encode_length_delimited_to_vec();
        self.entry_bytes += record.len() as u64;
        self.last_path = Some(entry.path);
        let mut cutter = std::mem::take(&mut self.entry_cutter);
        let fed = cutter.feed(&record, &mut |chunk| {
            let id = self.store_chunk(chunk, Lane::Meta)?;
            self.push_entry_id(id)
        });
        self.entry_cutter = cutter;
        fed
    }

    /// Adds an entry whose content the previous backup read: it counts as
    /// unchanged, and its bytes as done.
    pub fn add_unchanged(&mut self, entry: Entry) -> Result<()> {
        let bytes = entry.content.as_ref().map_or(0, |c| c.size_bytes);
        self.add(entry)?;
        self.statistics.unchanged_files += 1;
        self.meter.add_bytes(bytes);
        Ok(())
    }

    /// Notes what the backup holds not quite as the source had it.
    pub fn warn(&mut self, path: &[u8], message: impl Into<String>) {
        if self.manifest.warnings.len() < WARNINGS_MAX {
            self.manifest.warnings.push(Warning {
                path: path.to_vec(),
                message: message.into(),
            });
        } else {
            self.manifest.warnings_omitted += 1;
        }
    }

    /// Says how the container ran.
    pub fn set_runtime(&mut self, runtime: RuntimeDocument) {
        self.manifest.runtime = Some(runtime);
    }

    /// Ends the entry stream and the open segments; what the entry stream is.
    pub(super) fn close_stream(&mut self) -> Result<Content> {
        let mut cutter = std::mem::take(&mut self.entry_cutter);
        cutter.end(&mut |chunk| {
            let id = self.store_chunk(chunk, Lane::Meta)?;
            self.push_entry_id(id)
        })?;
        let ids = std::mem::take(&mut self.entry_ids);
        let (chunk_ids, depth) = ids.finish(&mut |list| self.store_chunk(list, Lane::Meta))?;
        for lane in [Lane::Data, Lane::Meta] {
            self.close_segment(lane)?;
        }
        Ok(Content {
            size_bytes: self.entry_bytes,
            chunk_ids,
            depth,
            ..Content::default()
        })
    }

    fn push_entry_id(&mut self, id: ChunkId) -> Result<()> {
        let mut ids = std::mem::take(&mut self.entry_ids);
        let pushed = ids.push(&id, &mut |list| self.store_chunk(list, Lane::Meta));
        self.entry_ids = ids;
        pushed
    }

    /// Reads a source to its end and stores what it yields.
    fn write_runs(&mut self, source: &mut dyn Read) -> Result<Content> {
        let mut cutter = std::mem::take(&mut self.cutter);
        let mut ids = IdList::default();
        let done = self.cut_source(source, &mut cutter, &mut ids);
        cutter.reset();
        self.cutter = cutter;
        let (size_bytes, inline) = done?;
        if let Some(inline) = inline {
            return Ok(Content {
                size_bytes,
                inline,
                ..Content::default()
            });
        }
        let (chunk_ids, depth) = ids.finish(&mut |list| self.store_chunk(list, Lane::Meta))?;
        Ok(Content {
            size_bytes,
            chunk_ids,
            depth,
            ..Content::default()
        })
    }

    fn cut_source(
        &mut self,
        source: &mut dyn Read,
        cutter: &mut Cutter,
        ids: &mut IdList,
    ) -> Result<(u64, Option<Vec<u8>>)> {
        let mut total = 0u64;
        loop {
            self.check_cancel()?;
            let read = match source.read(cutter.space()) {
                Ok(read) => read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(VaultError::Source(e)),
            };
            total += read as u64;
            self.statistics.read_bytes += read as u64;
            self.meter.add_bytes(read as u64);
            cutter.filled(read);
            if read == 0 {
                if total <= INLINE_BYTES_MAX as u64 {
                    return Ok((total, Some(cutter.pending().to_vec())));
                }
                cutter.end(&mut |chunk| self.store_listed(chunk, ids))?;
                return Ok((total, None));
            }
            cutter.cut(&mut |chunk| self.store_listed(chunk, ids))?;
        }
    }

    fn store_listed(&mut self, chunk: &[u8], ids: &mut IdList) -> Result<()> {
        let id = self.store_chunk(chunk, Lane::Data)?;
        ids.push(&id, &mut |list| self.store_chunk(list, Lane::Meta))
    }

    /// Stores a chunk unless the vault has it.
    fn store_chunk(&mut self, chunk: &[u8], lane: Lane) -> Result<ChunkId> {
        let id = self.vault.keys.writing().chunk_id(chunk);
        let mut chunks = self
            .contents
            .chunks
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((_, at)) = chunks.find(&id) {
            self.used_segments.insert(at.segment);
            return Ok(id);
        }
        let builder = match lane {
            Lane::Data => &mut self.data,
            Lane::Meta => &mut self.meta,
        };
        let segment = match builder.number {
            Some(number) => number,
            None => *builder.number.insert(chunks.open_segment()),
        };
        let offset = builder.push(&id, chunk);
        let full = builder.is_full();
        chunks.insert(
            &id,
            Location {
                segment,
                offset,
                bytes: chunk.len() as u32,
            },
        );
        drop(chunks);
        self.used_segments.insert(segment);
        self.statistics.new_bytes += chunk.len() as u64;
        self.meter.new_bytes.fetch_add(chunk.len() as u64, Relaxed);
        if full {
            self.close_segment(lane)?;
        }
        Ok(id)
    }

    fn close_segment(&mut self, lane: Lane) -> Result<()> {
        let builder = match lane {
            Lane::Data => &mut self.data,
            Lane::Meta => &mut self.meta,
        };
        match builder.take(self.pipeline.spare_buffer()) {
            Some(segment) => self.pipeline.submit(segment),
            None => Ok(()),
        }
    }

    /// Marks what a content refers to as used by this backup.
    fn use_content(&mut self, content: &Content) -> Result<(), ()> {
        let chunks = read_lock(&self.contents.chunks);
        for id in content.chunk_ids.chunks_exact(CHUNK_ID_BYTES) {
            let id: &ChunkId = id.try_into().expect("chunks_exact");
            let (_, at) = chunks.find(id).ok_or(())?;
            self.used_segments.insert(at.segment);
        }
        Ok(())
    }

    fn check_cancel(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(VaultError::Canceled);
        }
        Ok(())
    }
}

pub(super) fn read_lock(chunks: &RwLock<ChunkIndex>) -> RwLockReadGuard<'_, ChunkIndex> {
    chunks.read().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for BackupWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "BackupWriter({}, {:?})",
            self.manifest.backup_id, self.statistics
        )
    }
}
