//! The image without paths that the agent had removed from it.
//!
//! The engine can't be told to remove a path of a container that does not run. But it takes an
//! image that is another one with one more layer, which says what is gone; such an image holds
//! next to nothing of its own. The new container's labels tell which image it stands for, so that
//! backups of it name that one.

use std::collections::{BTreeMap, HashMap};

use bollard::{body_full, query_parameters::ImportImageOptionsBuilder};
use futures::TryStreamExt as _;
use proto::vault::v1::{Entry, EntryType, RuntimeDocument};
use ring::digest::{SHA256, digest};
use vault::{BackupReader, VaultError, check_path, compare_paths};

use super::{
    super::warnings::Warnings, archive, engine_failed, image::Chosen, leftovers::Mark,
    mounts::Mounts,
};
use crate::{
    files::show,
    sources::docker::{
        engine::{ANSWER_MAX, Engine, EngineError},
        labels,
        paths::{base_name, join, parent, relative},
    },
    targets::TargetError,
    unwinding::join as join_task,
};

/// Removed paths that are removed again at the most.
const PATHS_MAX: usize = 10_000;

/// What the container is made from.
pub(super) struct Image {
    /// Names it to the engine.
    pub(super) reference: String,
    /// What the container's labels tell of it.
    pub(super) labels: HashMap<String, String>,
}

/// The image itself where nothing is gone from it, else one without those paths.
pub(super) async fn prepare(
    engine: &Engine,
    mark: &Mark,
    chosen: &Chosen,
    runtime: &RuntimeDocument,
    mounts: &Mounts,
    reader: &BackupReader,
    warnings: &mut Warnings,
) -> Result<Image, TargetError> {
    let as_it_is = Image {
        reference: chosen.reference.clone(),
        labels: HashMap::new(),
    };
    let deleted: Vec<Vec<u8>> = runtime
        .deleted_paths
        .iter()
        .map(|path| relative(&String::from_utf8_lossy(path)))
        .filter(|path| !path.is_empty() && check_path(path).is_ok() && !mounts.is_mounted(path))
        .collect();
    // Another image has its own reasons for what it holds.
    if deleted.is_empty() || chosen.id() != runtime.image_id {
        return Ok(as_it_is);
    }
    let first = show(&deleted[0]);
    let still_there = |why: &str| {
        format!(
            "{first} and {} more paths that the agent had removed from its image are there again \
             ({why})",
            deleted.len() - 1
        )
    };
    if deleted.len() > PATHS_MAX {
        warnings.add(still_there("they are too many"));
        return Ok(as_it_is);
    }
    let (reader, paths) = (reader.clone(), deleted.clone());
    let layer = join_task(tokio::task::spawn_blocking(move || layer(&reader, &paths))).await?;
    let Some((archive, reference)) = layer.and_then(|layer| image(chosen, mark, &layer)) else {
        warnings.add(still_there(
            "the backup or the image does not tell enough of them",
        ));
        return Ok(as_it_is);
    };
    match load(engine, archive, &reference).await {
        Ok(()) => {}
        Err(EngineError::Refused { message, .. }) => {
            warnings.add(still_there(&message));
            return Ok(as_it_is);
        }
        Err(error) => return Err(engine_failed(error)),
    }
    let texts: Vec<String> = deleted
        .iter()
        .map(|path| format!("/{}", String::from_utf8_lossy(path)))
        .collect();
    Ok(Image {
        reference,
        labels: HashMap::from([
            (labels::IMAGE.to_owned(), runtime.image.clone()),
            (labels::IMAGE_ID.to_owned(), runtime.image_id.clone()),
            (
                labels::DELETED_PATHS.to_owned(),
                serde_json::Value::from(texts).to_string(),
            ),
        ]),
    })
}

/// A layer that says what is gone; `None` where the backup does not hold the folders around it.
fn layer(reader: &BackupReader, deleted: &[Vec<u8>]) -> Result<Option<Vec<u8>>, VaultError> {
    // In a layer, a folder is there with what belongs to it, or is made anew.
    let mut folders: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    let mut entries = Vec::new();
    for path in deleted {
        let folder = parent(path).unwrap_or_default();
        let mut above = Some(folder);
        while let Some(path) = above.filter(|path| !path.is_empty()) {
            if folders.contains_key(path) {
                break;
            }
            let found = reader.find(path)?;
            let Some(entry) = found.filter(|entry| entry.r#type() == EntryType::Directory) else {
                return Ok(None);
            };
            folders.insert(path.to_vec(), entry);
            above = parent(path);
        }
        let name = [b".wh.", base_name(path)].concat();
        entries.push(Entry {
            path: join(folder, &name),
            r#type: EntryType::Regular.into(),
            ..Entry::default()
        });
    }
    entries.extend(folders.into_values());
    entries.sort_by(|a, b| compare_paths(&a.path, &b.path));
    let mut layer = Vec::new();
    for entry in &entries {
        let header = archive::header(entry, 0).map_err(VaultError::Sink)?;
        layer.extend_from_slice(&header);
    }
    layer.extend_from_slice(&archive::END);
    Ok(Some(layer))
}

/// An image with one more layer, as the engine loads it, and its id. The layers below are on the
/// engine already and are only named. `None` where the engine does not tell enough of the image.
fn image(chosen: &Chosen, mark: &Mark, layer: &[u8]) -> Option<(Vec<u8>, String)> {
    let inspect = &chosen.inspect;
    let mut layers = inspect.root_fs.as_ref()?.layers.clone()?;
    let below = layers.len();
    layers.push(sha256(layer));
    let mut config = inspect.config.clone().unwrap_or_default();
    let mut labels = config.labels.take().unwrap_or_default();
    labels.extend(mark.labels());
    config.labels = Some(labels);
    let document = serde_json::json!({
        "architecture": inspect.architecture.as_ref()?,
        "os": inspect.os.as_ref()?,
        "variant": inspect.variant.clone().unwrap_or_default(),
        "created": inspect.created.clone().unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned()),
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": layers },
    })
    .to_string();
    let id = sha256(document.as_bytes());
    let config_name = format!("{}.json", id.strip_prefix("sha256:")?);
    let mut names: Vec<String> = (0..below)
        .map(|number| format!("{number}/layer.tar"))
        .collect();
    names.push("layer.tar".to_owned());
    let manifest = serde_json::json!([{
        "Config": config_name,
        "RepoTags": null,
        "Layers": names,
    }])
    .to_string();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [
        (config_name.as_str(), document.as_bytes()),
        ("layer.tar", layer),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content).ok()?;
    }
    Some((archive.into_inner().ok()?, id))
}

async fn load(engine: &Engine, archive: Vec<u8>, id: &str) -> Result<(), EngineError> {
    let options = ImportImageOptionsBuilder::new().quiet(true).build();
    let loading = engine
        .docker()
        .import_image(options, body_full(archive.into()), None)
        .try_for_each(|_| std::future::ready(Ok(())));
    match tokio::time::timeout(ANSWER_MAX, loading).await {
        Ok(loaded) => loaded.map_err(|error| EngineError::of("load an image", error))?,
        Err(_) => {
            return Err(EngineError::Unavailable(format!(
                "no answer within {} s when asked to load an image",
                ANSWER_MAX.as_secs()
            )));
        }
    }
    engine.inspect_image(id).await.map(drop)
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, bytes)))
}
