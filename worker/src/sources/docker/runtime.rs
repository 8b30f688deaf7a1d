//! How a container runs: the document that a restore makes a new one from.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard::models::{ContainerInspectResponse, MountPoint};
use proto::vault::v1::{MountDocument, RuntimeDocument};
use tokio_util::sync::CancellationToken;

use super::{
    engine::{Engine, EngineError},
    labels,
    paths::relative,
    plan::Plan,
};

/// What is captured of a container, with the places of its mounts, their links resolved.
pub(super) struct Captured<'a> {
    pub(super) plan: &'a Plan,
    pub(super) places: &'a HashMap<String, Vec<u8>>,
    pub(super) registered: &'a [Vec<u8>],
}

/// Whether something mounted is a volume.
pub(crate) fn is_volume(mount: &MountPoint) -> bool {
    matches!(mount.typ.as_deref(), Some("volume" | "cluster"))
}

/// Writes the document.
pub(super) async fn document(
    engine: &Engine,
    cancel: &CancellationToken,
    inspect: &ContainerInspectResponse,
    captured: &Captured<'_>,
) -> Result<RuntimeDocument, EngineError> {
    let config = inspect.config.clone().unwrap_or_default();
    let own_labels = config.labels.unwrap_or_default();
    let label = |name: &str| {
        own_labels
            .get(name)
            .filter(|value| !value.is_empty())
            .cloned()
    };
    let image_id = label(labels::IMAGE_ID)
        .or(inspect.image.clone())
        .unwrap_or_default();
    let image = label(labels::IMAGE).or(config.image).unwrap_or_default();
    let image_digests = match engine.inspect_image(&image_id).await {
        Ok(image) => image.repo_digests.unwrap_or_default(),
        Err(EngineError::Refused { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut mounts = Vec::new();
    for mount in inspect.mounts.iter().flatten() {
        if cancel.is_cancelled() {
            break;
        }
        mounts.push(mount_document(engine, mount, captured).await?);
    }
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    let mut captured_paths: BTreeSet<Vec<u8>> = captured.registered.iter().cloned().collect();
    if captured_paths.is_empty() {
        captured_paths.extend(
            mounts
                .iter()
                .filter(|mount| mount.captured)
                .map(|mount| place(captured, &mount.target)),
        );
    }
    Ok(RuntimeDocument {
        image,
        image_id,
        image_digests,
        container_name: inspect
            .name
            .as_deref()
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned(),
        inspect_json: serde_json::to_vec(inspect).unwrap_or_default(),
        mounts,
        deleted_paths: captured.plan.deleted.iter().map(rooted).collect(),
        captured_paths: captured_paths.iter().map(rooted).collect(),
        was_running: inspect
            .state
            .as_ref()
            .and_then(|state| state.running)
            .unwrap_or_default(),
    })
}

fn rooted(path: &Vec<u8>) -> Vec<u8> {
    [b"/", path.as_slice()].concat()
}

async fn mount_document(
    engine: &Engine,
    mount: &MountPoint,
    captured: &Captured<'_>,
) -> Result<MountDocument, EngineError> {
    let target = mount.destination.clone().unwrap_or_default();
    let (kind, source) = if is_volume(mount) {
        ("volume".to_owned(), mount.name.clone())
    } else {
        (mount.typ.clone().unwrap_or_default(), mount.source.clone())
    };
    let labels = match &mount.name {
        Some(name) if is_volume(mount) => match engine.inspect_volume(name).await {
            Ok(volume) => volume.labels.into_iter().collect(),
            Err(EngineError::Refused { .. }) => BTreeMap::new(),
            Err(error) => return Err(error),
        },
        _ => BTreeMap::new(),
    };
    Ok(MountDocument {
        captured: kind != "tmpfs" && captured.plan.captures_mount(&place(captured, &target)),
        r#type: kind,
        source: source.unwrap_or_default(),
        target,
        driver: mount.driver.clone().unwrap_or_default(),
        read_only: mount.rw == Some(false),
        labels: labels.into_iter().collect(),
    })
}

fn place(captured: &Captured<'_>, target: &str) -> Vec<u8> {
    let resolved = captured.places.get(target).cloned();
    resolved.unwrap_or_else(|| relative(target))
}

/// Paths that were gone from the image already when a restore made the container.
pub(super) fn gone_before(inspect: &ContainerInspectResponse) -> Vec<Vec<u8>> {
    let labels = inspect
        .config
        .as_ref()
        .and_then(|config| config.labels.as_ref());
    labels
        .and_then(|labels| labels.get(labels::DELETED_PATHS))
        .and_then(|paths| serde_json::from_str::<Vec<String>>(paths).ok())
        .unwrap_or_default()
        .iter()
        .map(|path| relative(path))
        .collect()
}
