//! Finds and removes what carries a restore's labels.

use std::collections::HashMap;

use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, ListVolumesOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder, RemoveVolumeOptions,
};

use super::engine_failed;
use crate::{
    sources::docker::{
        engine::{Engine, EngineError, limited},
        labels,
    },
    targets::TargetError,
};

/// What everything of one attempt of a restore is marked with.
#[derive(Clone)]
pub(super) struct Mark {
    pub(super) restore_id: String,
    pub(super) attempt: u32,
}

impl Mark {
    /// The container's name until it is published.
    pub(super) fn container_name(&self) -> String {
        format!("nora-restore-{}.{}", self.restore_id, self.attempt)
    }

    /// The name of the container that only takes contents.
    pub(super) fn loader_name(&self) -> String {
        format!("{}.loader", self.container_name())
    }

    /// The labels.
    pub(super) fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (labels::RESTORE_ID.to_owned(), self.restore_id.clone()),
            (labels::RESTORE_ATTEMPT.to_owned(), self.attempt.to_string()),
        ])
    }

    /// Whether labels are exactly this attempt's.
    pub(super) fn is_on(&self, found: &HashMap<String, String>) -> bool {
        found.get(labels::RESTORE_ID) == Some(&self.restore_id)
            && attempt_of(found) == Some(self.attempt)
    }

    fn filter(&self) -> HashMap<String, Vec<String>> {
        let label = format!("{}={}", labels::RESTORE_ID, self.restore_id);
        HashMap::from([("label".to_owned(), vec![label])])
    }
}

fn attempt_of(found: &HashMap<String, String>) -> Option<u32> {
    found.get(labels::RESTORE_ATTEMPT)?.parse().ok()
}

/// Removes what this attempt and those before it made.
pub(super) async fn remove_up_to(engine: &Engine, mark: &Mark) -> Result<(), TargetError> {
    remove(engine, mark, |attempt| attempt <= mark.attempt).await
}

/// Removes what this attempt made, unless it is published already.
pub(super) async fn remove_hidden(engine: &Engine, mark: &Mark) -> Result<(), TargetError> {
    for container in containers(engine, mark).await? {
        if container.attempt == mark.attempt && !container.is_hidden {
            return Ok(());
        }
    }
    remove(engine, mark, |attempt| attempt == mark.attempt).await
}

async fn remove(
    engine: &Engine,
    mark: &Mark,
    is_meant: impl Fn(u32) -> bool,
) -> Result<(), TargetError> {
    for container in containers(engine, mark).await? {
        if is_meant(container.attempt) {
            remove_container(engine, &container.id).await?;
        }
    }
    let options = ListVolumesOptionsBuilder::new()
        .filters(&mark.filter())
        .build();
    let call = engine.docker().list_volumes(Some(options));
    let found = limited("list volumes", call).await.map_err(engine_failed)?;
    for volume in found.volumes.unwrap_or_default() {
        if attempt_of(&volume.labels).is_some_and(&is_meant) {
            let call = engine
                .docker()
                .remove_volume(&volume.name, None::<RemoveVolumeOptions>);
            gone(limited("remove a volume that a restore made", call).await)?;
        }
    }
    let options = ListImagesOptionsBuilder::new()
        .all(true)
        .filters(&mark.filter())
        .build();
    let call = engine.docker().list_images(Some(options));
    for image in limited("list images", call).await.map_err(engine_failed)? {
        if attempt_of(&image.labels).is_some_and(&is_meant) {
            let options = RemoveImageOptionsBuilder::new()
                .force(true)
                .noprune(true)
                .build();
            let call = engine.docker().remove_image(&image.id, Some(options), None);
            gone(
                limited("remove an image that a restore made", call)
                    .await
                    .map(drop),
            )?;
        }
    }
    Ok(())
}

/// Removes a container that a restore made.
pub(super) async fn remove_container(engine: &Engine, id: &str) -> Result<(), TargetError> {
    // With the nameless volumes that the engine made for the image's sake.
    let options = RemoveContainerOptionsBuilder::new()
        .force(true)
        .v(true)
        .build();
    let call = engine.docker().remove_container(id, Some(options));
    gone(limited("remove a container that a restore made", call).await)
}

/// The containers that this attempt and those before it made, each with its attempt.
pub(super) async fn made_up_to(
    engine: &Engine,
    mark: &Mark,
) -> Result<Vec<(String, u32)>, TargetError> {
    let all = containers(engine, mark).await?;
    Ok(all
        .into_iter()
        .filter(|container| container.attempt <= mark.attempt)
        .map(|container| (container.id, container.attempt))
        .collect())
}

struct Found {
    id: String,
    attempt: u32,
    is_hidden: bool,
}

async fn containers(engine: &Engine, mark: &Mark) -> Result<Vec<Found>, TargetError> {
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&mark.filter())
        .build();
    let call = engine.docker().list_containers(Some(options));
    let all = limited("list containers", call)
        .await
        .map_err(engine_failed)?;
    Ok(all
        .into_iter()
        .filter_map(|container| {
            let attempt = attempt_of(container.labels.as_ref()?)?;
            let hidden = format!("/nora-restore-{}.", mark.restore_id);
            let names = container.names.unwrap_or_default();
            Some(Found {
                id: container.id?,
                attempt,
                is_hidden: names.iter().all(|name| name.starts_with(&hidden)),
            })
        })
        .collect())
}

/// What is gone already is as well.
fn gone(removed: Result<(), EngineError>) -> Result<(), TargetError> {
    match removed {
        Err(error) if !error.is_missing() => Err(engine_failed(error)),
        _ => Ok(()),
    }
}
