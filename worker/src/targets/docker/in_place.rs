//! A new container in place of one that is there.
//!
//! The new one is made out of sight, with all it needs, while the old one still runs. Publishing
//! it is a few calls of the engine, in this order:
//!
//! 1. the old one is renamed aside: from here on it is known that something has to be put back
//! 2. it is stopped
//! 3. the new one gets its name
//! 4. and is started, when the old one ran
//!
//! Putting back goes the other way, and can be stopped and begun again anywhere: the new one is
//! killed and gives the name back, the old one is started, and gets its name. The new one's
//! labels tell what the old one was, so it is removed last. When the catalog has the restore as
//! completed, the old one goes, with the volumes that were replaced.

use std::collections::HashMap;

use bollard::{
    models::ContainerInspectResponse,
    query_parameters::{
        KillContainerOptions, RemoveVolumeOptions, RenameContainerOptionsBuilder,
        StartContainerOptions, StopContainerOptionsBuilder,
    },
};
use tokio::time::Duration;

use super::{
    engine_failed,
    leftovers::{self, Mark},
};
use crate::{
    sources::docker::{
        engine::{Engine, EngineError, limited, limited_to},
        labels,
        runtime::is_volume,
    },
    targets::TargetError,
};

/// How long a container may take to stop that says nothing about it, and at the most.
const STOP_SECONDS_DEFAULT: i64 = 10;
const STOP_SECONDS_MAX: i64 = 600;
/// What stopping takes beyond that.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// The container that is replaced.
pub(super) struct Original {
    id: String,
    /// Its name.
    pub(super) name: String,
    runs: bool,
    /// Its volumes, by their place.
    volumes: HashMap<String, String>,
}

impl Original {
    /// Looks at it; says no when it can't be replaced.
    pub(super) async fn find(engine: &Engine, reference: &str) -> Result<Self, TargetError> {
        let found = match engine.inspect(reference).await {
            Ok(found) => found,
            Err(error) if error.is_missing() => {
                return Err(TargetError::Unusable(format!(
                    "there is no container {reference} to replace: restore the backup as a new \
                     agent"
                )));
            }
            Err(error) => return Err(engine_failed(error)),
        };
        let host = found.host_config.clone().unwrap_or_default();
        if host.auto_remove == Some(true) {
            return Err(TargetError::Unusable(format!(
                "container {reference} is one that the engine removes when it stops (--rm), so it \
                 could not be put back: restore the backup as a new agent"
            )));
        }
        Ok(Self {
            name: name_of(&found),
            id: found.id.clone().unwrap_or_default(),
            runs: runs(&found),
            volumes: found
                .mounts
                .unwrap_or_default()
                .into_iter()
                .filter(is_volume)
                .filter_map(|mount| Some((mount.destination?, mount.name?)))
                .collect(),
        })
    }

    /// The volume that it has at a place.
    pub(super) fn volume_at(&self, target: &str) -> Option<&String> {
        self.volumes.get(target)
    }

    /// What the new container's labels tell of it. `filled`: places of the new one's volumes that
    /// hold what the old ones held.
    pub(super) fn labels<'a>(
        &self,
        filled: impl Iterator<Item = &'a str>,
    ) -> HashMap<String, String> {
        let replaced: Vec<&String> = filled.filter_map(|target| self.volume_at(target)).collect();
        HashMap::from([
            (labels::REPLACES.to_owned(), self.id.clone()),
            (labels::REPLACES_NAME.to_owned(), self.name.clone()),
            (labels::REPLACES_RUNNING.to_owned(), self.runs.to_string()),
            (
                labels::REPLACES_VOLUMES.to_owned(),
                serde_json::to_string(&replaced).unwrap_or_default(),
            ),
        ])
    }
}

/// A container that a restore made, and what it replaces.
struct New {
    id: String,
    name: String,
    original: String,
    original_name: String,
    original_ran: bool,
    volumes: Vec<String>,
}

impl New {
    /// None when it is gone, or one that replaces nothing.
    async fn read(engine: &Engine, id: &str) -> Result<Option<Self>, TargetError> {
        let Some(found) = inspect(engine, id).await? else {
            return Ok(None);
        };
        let name = name_of(&found);
        let labels = found.config.and_then(|config| config.labels);
        let mut labels = labels.unwrap_or_default();
        let Some(original) = labels.remove(labels::REPLACES) else {
            return Ok(None);
        };
        let volumes = labels.remove(labels::REPLACES_VOLUMES).unwrap_or_default();
        Ok(Some(Self {
            id: found.id.unwrap_or_default(),
            name,
            original,
            original_name: labels.remove(labels::REPLACES_NAME).unwrap_or_default(),
            original_ran: labels
                .get(labels::REPLACES_RUNNING)
                .is_some_and(|it| it == "true"),
            volumes: serde_json::from_str(&volumes).unwrap_or_default(),
        }))
    }
}

/// The name under which an attempt puts the old container aside.
fn aside(mark: &Mark) -> String {
    format!("nora-replaced-{}.{}", mark.restore_id, mark.attempt)
}

/// Puts the new container, made under its hidden name, in place of the old one.
pub(super) async fn exchange(engine: &Engine, mark: &Mark) -> Result<(), TargetError> {
    let hidden = mark.container_name();
    let Some(new) = New::read(engine, &hidden).await? else {
        return Err(TargetError::Unwritable(format!(
            "the new container {hidden} is not there any more: start the restore again"
        )));
    };
    let name = &new.original_name;
    rename(engine, &new.original, &aside(mark)).await?;
    fail::fail_point!("worker-in-place-aside");
    stop(engine, &new.original).await?;
    fail::fail_point!("worker-in-place-stopped");
    rename(engine, &new.id, name).await?;
    fail::fail_point!("worker-in-place-renamed");
    if new.original_ran {
        start(engine, &new.id).await.map_err(|error| match error {
            EngineError::Refused { message, .. } => TargetError::Unusable(format!(
                "container {name} can't be started as the backup has it: {message}; the one that \
                 was there is put back: restore another backup, or this one as a new agent"
            )),
            error @ EngineError::Unavailable(_) => engine_failed(error),
        })?;
    }
    Ok(())
}

/// Puts back what this attempt and those before it have put aside, and removes what they made.
pub(super) async fn put_back(
    engine: &Engine,
    mark: &Mark,
    reference: &str,
) -> Result<(), TargetError> {
    let mut made = Vec::new();
    for (id, attempt) in leftovers::made_up_to(engine, mark).await? {
        if let Some(new) = New::read(engine, &id).await? {
            made.push((new, attempt));
        }
    }
    for attempt in 1..=mark.attempt {
        let attempted = Mark {
            attempt,
            ..mark.clone()
        };
        let Some(old) = inspect(engine, &aside(&attempted)).await? else {
            continue;
        };
        let old_id = old.id.clone().unwrap_or_default();
        let new = made
            .iter()
            .find(|(new, of)| *of == attempt && new.original == old_id);
        // Without the new one, only the registration tells the name.
        let name = new.map_or(reference, |(new, _)| new.original_name.as_str());
        for (other, of) in made.iter().filter(|(other, _)| other.name == name) {
            kill(engine, &other.id).await?;
            let hidden = Mark {
                attempt: *of,
                ..mark.clone()
            };
            rename(engine, &other.id, &hidden.container_name()).await?;
        }
        fail::fail_point!("worker-in-place-freed");
        if new.is_none_or(|(new, _)| new.original_ran) && !runs(&old) {
            start(engine, &old_id).await.map_err(engine_failed)?;
        }
        fail::fail_point!("worker-in-place-restarted");
        rename(engine, &old_id, name).await?;
    }
    fail::fail_point!("worker-in-place-put-back");
    leftovers::remove_up_to(engine, mark).await
}

/// Removes what this attempt made, unless it has begun to put it in place.
pub(super) async fn abandon(engine: &Engine, mark: &Mark) -> Result<(), TargetError> {
    if inspect(engine, &aside(mark)).await?.is_some() {
        // The next attempt puts it back.
        return Ok(());
    }
    leftovers::remove_hidden(engine, mark).await
}

/// Removes the old container, and its volumes that were replaced.
pub(super) async fn remove_old(engine: &Engine, mark: &Mark) -> Result<(), TargetError> {
    for (id, attempt) in leftovers::made_up_to(engine, mark).await? {
        let Some(new) = New::read(engine, &id).await? else {
            continue;
        };
        let attempted = Mark {
            attempt,
            ..mark.clone()
        };
        fail::fail_point!("worker-in-place-before-removal");
        let old = inspect(engine, &aside(&attempted)).await?;
        if old.is_some_and(|old| old.id.as_deref() == Some(&new.original)) {
            leftovers::remove_container(engine, &new.original).await?;
        }
        fail::fail_point!("worker-in-place-removed");
        remove_volumes(engine, &new.volumes).await?;
    }
    Ok(())
}

async fn remove_volumes(engine: &Engine, volumes: &[String]) -> Result<(), TargetError> {
    for volume in volumes {
        let call = engine
            .docker()
            .remove_volume(volume, None::<RemoveVolumeOptions>);
        match limited("remove a volume that was replaced", call).await {
            Ok(()) => {}
            Err(error) if error.is_missing() => {}
            // Another container has it as well.
            Err(error) if error.is_conflict() => {
                tracing::warn!(volume, "a replaced volume is in use, and stays");
            }
            Err(error) => return Err(engine_failed(error)),
        }
    }
    Ok(())
}

async fn inspect(
    engine: &Engine,
    container: &str,
) -> Result<Option<ContainerInspectResponse>, TargetError> {
    match engine.inspect(container).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(engine_failed(error)),
    }
}

fn name_of(found: &ContainerInspectResponse) -> String {
    let name = found.name.as_deref().unwrap_or_default();
    name.trim_start_matches('/').to_owned()
}

fn runs(found: &ContainerInspectResponse) -> bool {
    let state = found.state.as_ref();
    state.and_then(|state| state.running).unwrap_or_default()
}

async fn rename(engine: &Engine, container: &str, name: &str) -> Result<(), TargetError> {
    let found = engine.inspect(container).await.map_err(engine_failed)?;
    if name_of(&found) == name {
        return Ok(());
    }
    let options = RenameContainerOptionsBuilder::new().name(name).build();
    let call = engine.docker().rename_container(container, options);
    limited("rename a container", call)
        .await
        .map_err(engine_failed)
}

async fn start(engine: &Engine, container: &str) -> Result<(), EngineError> {
    let call = engine
        .docker()
        .start_container(container, None::<StartContainerOptions>);
    limited("start a container", call).await
}

/// Stops a container as it wishes to be; fine when it does not run.
async fn stop(engine: &Engine, container: &str) -> Result<(), TargetError> {
    let found = engine.inspect(container).await.map_err(engine_failed)?;
    if !runs(&found) {
        return Ok(());
    }
    let paused = found.state.and_then(|state| state.paused);
    if paused == Some(true) {
        engine.unpause(container).await.map_err(engine_failed)?;
    }
    let wished = found.config.and_then(|config| config.stop_timeout);
    let seconds = wished
        .unwrap_or(STOP_SECONDS_DEFAULT)
        .clamp(0, STOP_SECONDS_MAX);
    let options = StopContainerOptionsBuilder::new().t(seconds as i32).build();
    let limit = Duration::from_secs(seconds as u64) + STOP_MARGIN;
    let call = engine.docker().stop_container(container, Some(options));
    limited_to(limit, "stop a container", call)
        .await
        .map_err(engine_failed)
}

/// Ends a container at once; fine when it does not run.
async fn kill(engine: &Engine, container: &str) -> Result<(), TargetError> {
    let call = engine
        .docker()
        .kill_container(container, None::<KillContainerOptions>);
    match limited("end a container", call).await {
        Err(error) if error.is_conflict() => Ok(()),
        ended => ended.map_err(engine_failed),
    }
}
