//! What is mounted in the new container: volumes of its own, whatever the original had there.

use bollard::models::{Mount, MountType, MountVolumeOptions, VolumeCreateRequest};
use proto::vault::v1::{EntryType, MountDocument, RuntimeDocument};
use vault::BackupReader;

use super::{
    super::warnings::Warnings,
    choices::{Choice, Choices},
    config::Description,
    engine_failed,
    in_place::Original,
    leftovers::Mark,
};
use crate::{
    sources::docker::{
        engine::{Engine, limited},
        paths::{is_within, join, relative},
    },
    targets::{RestoreContext, TargetError},
    unwinding::join as join_task,
};

/// Names that are tried for a volume: others may have some already.
const NAMES_MAX: u32 = 10_000;
/// Labels of volumes that the engine and its tools give them for their own ends.
const ENGINES_OWN: &str = "com.docker.";

/// The mounts of a new container.
pub(super) struct Mounts {
    all: Vec<Mounted>,
    /// Places of the backup's contents that have none in the new container.
    dropped: Vec<Vec<u8>>,
}

struct Mounted {
    /// Where it is in the container, links resolved.
    place: Vec<u8>,
    mount: Mount,
    /// Whether it takes contents from the backup.
    is_filled: bool,
}

impl Mounts {
    /// Decides on all of them, and makes the volumes.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub(super) async fn make(
        engine: &Engine,
        mark: &Mark,
        context: &RestoreContext,
        runtime: &RuntimeDocument,
        description: &Description,
        choices: &Choices,
        original: Option<&Original>,
        reader: &BackupReader,
        warnings: &mut Warnings,
    ) -> Result<Self, TargetError> {
        let mut this = Self {
            all: Vec::new(),
            dropped: Vec::new(),
        };
        let captured: Vec<Vec<u8>> = runtime
            .captured_paths
            .iter()
            .map(|path| relative(&String::from_utf8_lossy(path)))
            .collect();
        let mut number = 0;
        for document in &runtime.mounts {
            if context.cancel.is_cancelled() {
                return Err(TargetError::Canceled);
            }
            let place = resolve(reader, &document.target).await?;
            let target = &document.target;
            match document.r#type.as_str() {
                "volume" => {}
                "bind" => match choices.bind_mount(target) {
                    Choice::Volume => {}
                    Choice::Same => {
                        if original.is_some() && document.captured {
                            warnings.add(format!(
                                "the host's folder at {target} stays as it is: its contents are \
                                 not restored"
                            ));
                        }
                        this.keep_bind(document, place);
                        continue;
                    }
                    _ => {
                        warnings.add(format!("the host's folder at {target} is left out"));
                        this.dropped.push(place);
                        continue;
                    }
                },
                "tmpfs" => {
                    this.keep_tmpfs(document, description, place);
                    continue;
                }
                other => {
                    warnings.add(format!("what is mounted at {target} ({other}) is left out"));
                    this.dropped.push(place);
                    continue;
                }
            }
            let is_whole = captured.iter().any(|path| is_within(&place, path));
            if let Some(original) = original {
                if !document.captured {
                    let name = original.volume_at(target).unwrap_or(&document.source);
                    warnings.add(format!(
                        "the volume at {target} stays as it is: the backup does not hold its \
                         contents"
                    ));
                    this.keep_volume(document, name, place);
                    continue;
                }
                if !is_whole {
                    return Err(TargetError::Unusable(format!(
                        "the backup holds only a part of the volume at {target}: the rest would be \
                         lost; restore the backup as a new agent"
                    )));
                }
            }
            let name =
                make_volume(engine, mark, &context.plan.agent_id, document, &mut number).await?;
            if !document.captured {
                warnings.add(format!(
                    "the volume at {target} is new: the backup does not hold its contents"
                ));
            }
            if !matches!(document.driver.as_str(), "" | "local") {
                warnings.add(format!(
                    "the volume at {target} is made by the driver local, not by {}",
                    document.driver
                ));
            }
            this.all.push(Mounted {
                place,
                mount: Mount {
                    target: Some(target.clone()),
                    source: Some(name),
                    typ: Some(MountType::VOLUME),
                    read_only: Some(document.read_only),
                    volume_options: Some(MountVolumeOptions {
                        // What the image has there may be what the agent had removed.
                        no_copy: Some(is_whole),
                        ..MountVolumeOptions::default()
                    }),
                    ..Mount::default()
                },
                is_filled: document.captured,
            });
        }
        Ok(this)
    }

    /// Nothing.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self {
            all: Vec::new(),
            dropped: Vec::new(),
        }
    }

    fn keep_volume(&mut self, document: &MountDocument, name: &str, place: Vec<u8>) {
        self.all.push(Mounted {
            place,
            mount: Mount {
                target: Some(document.target.clone()),
                source: Some(name.to_owned()),
                typ: Some(MountType::VOLUME),
                read_only: Some(document.read_only),
                ..Mount::default()
            },
            is_filled: false,
        });
    }

    fn keep_bind(&mut self, document: &MountDocument, place: Vec<u8>) {
        // What is in it is the host's: it is used, and never written by a restore.
        self.dropped.push(place.clone());
        self.all.push(Mounted {
            place,
            mount: Mount {
                target: Some(document.target.clone()),
                source: Some(document.source.clone()),
                typ: Some(MountType::BIND),
                read_only: Some(document.read_only),
                ..Mount::default()
            },
            is_filled: false,
        });
    }

    fn keep_tmpfs(&mut self, document: &MountDocument, description: &Description, place: Vec<u8>) {
        let original = description.host.mounts.iter().flatten().find(|mount| {
            mount.typ == Some(MountType::TMPFS) && mount.target.as_ref() == Some(&document.target)
        });
        // Others come from the container's own list of them.
        if let Some(original) = original {
            self.all.push(Mounted {
                place,
                mount: original.clone(),
                is_filled: false,
            });
        }
    }

    /// The mounts of the container.
    pub(super) fn of_container(&self) -> Vec<Mount> {
        self.all
            .iter()
            .map(|mounted| mounted.mount.clone())
            .collect()
    }

    /// The volumes that take contents, writable.
    pub(super) fn writable(&self) -> Vec<Mount> {
        self.filled()
            .map(|mounted| Mount {
                read_only: Some(false),
                ..mounted.mount.clone()
            })
            .collect()
    }

    /// Whether some volume that takes contents is read-only in the container.
    pub(super) fn some_read_only(&self) -> bool {
        self.filled()
            .any(|mounted| mounted.mount.read_only == Some(true))
    }

    /// Where volumes are that take contents.
    pub(super) fn filled_targets(&self) -> impl Iterator<Item = &str> {
        self.filled()
            .filter_map(|mounted| mounted.mount.target.as_deref())
    }

    fn filled(&self) -> impl Iterator<Item = &Mounted> {
        self.all.iter().filter(|mounted| mounted.is_filled)
    }

    /// Whether a path lies in a volume that takes contents.
    pub(super) fn is_filled(&self, path: &[u8]) -> bool {
        self.filled().any(|mounted| is_within(path, &mounted.place))
    }

    /// Whether a path lies in anything that is mounted.
    pub(super) fn is_mounted(&self, path: &[u8]) -> bool {
        self.all
            .iter()
            .any(|mounted| is_within(path, &mounted.place))
    }

    /// Whether a path has no place in the new container.
    pub(super) fn is_dropped(&self, path: &[u8]) -> bool {
        self.dropped.iter().any(|place| is_within(path, place))
    }
}

/// Makes a volume under a name that nobody has.
async fn make_volume(
    engine: &Engine,
    mark: &Mark,
    agent_id: &str,
    document: &MountDocument,
    number: &mut u32,
) -> Result<String, TargetError> {
    let mut labels = document.labels.clone();
    labels.retain(|name, _| !name.starts_with(ENGINES_OWN));
    labels.extend(mark.labels());
    while *number < NAMES_MAX {
        *number += 1;
        let name = format!("nora-{agent_id}-{number}");
        match engine.inspect_volume(&name).await {
            Ok(_) => continue,
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(engine_failed(error)),
        }
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            driver: Some("local".to_owned()),
            labels: Some(labels.clone().into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        let call = engine.docker().create_volume(request);
        let made = limited("make a volume", call)
            .await
            .map_err(engine_failed)?;
        // The engine answers alike when somebody else made it a moment before.
        if mark.is_on(&made.labels) {
            return Ok(name);
        }
    }
    Err(TargetError::Unusable(format!(
        "there are volumes of all names nora-{agent_id}-1 to -{NAMES_MAX} already: remove those \
         that are not needed, or choose another id for the new agent"
    )))
}

/// Where a mount's target really is, as far as the backup holds the links on the way.
async fn resolve(reader: &BackupReader, target: &str) -> Result<Vec<u8>, TargetError> {
    let (reader, target) = (reader.clone(), relative(target));
    join_task(tokio::task::spawn_blocking(move || {
        let mut place: Vec<u8> = Vec::new();
        for component in target.split(|byte| *byte == b'/') {
            let next = join(&place, component);
            let link = reader
                .find(&next)?
                .filter(|entry| entry.r#type() == EntryType::Symlink);
            place = match link {
                Some(link) if link.link_target.starts_with(b"/") => {
                    relative(&String::from_utf8_lossy(&link.link_target))
                }
                Some(link) => {
                    let from = format!(
                        "{}/{}",
                        String::from_utf8_lossy(&place),
                        String::from_utf8_lossy(&link.link_target)
                    );
                    relative(&from)
                }
                None => next,
            };
        }
        Ok(place)
    }))
    .await
}
