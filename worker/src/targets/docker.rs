//! A new container as the target of a restore.
//!
//! Everything that is made carries the restore's id and attempt as labels: the container, under a
//! hidden name until it is published, its new volumes, and sometimes an image of its own. By
//! those a later attempt finds and removes what is left. The original container and its volumes
//! are never touched: nothing of the backup's description is taken over that would share them.
//!
//! - `image`: which image is used; `without`: the same without paths that the agent had removed
//! - `choices`: what was decided; `config`: from the backup's description to a new container's
//! - `mounts`: new volumes, and what becomes of bind mounts
//! - `upload`: contents into the container; `archive`: as the engine takes them
//! - `in_place`: the same in place of a container that is there
//! - `leftovers`: finds and removes what carries a restore's labels

use std::sync::Arc;

use async_trait::async_trait;
use bollard::{
    models::{ContainerCreateBody, NetworkConnectRequest},
    query_parameters::{
        CreateContainerOptionsBuilder, RenameContainerOptionsBuilder, StartContainerOptions,
    },
};
use prost::Message as _;
use proto::{
    backup::v1::{self as api, Source as SourceMessage, source::Kind},
    vault::v1::RuntimeDocument,
};
use vault::{BackupReader, Phase};

use super::{RestoreContext, Restored, Target, TargetError};
use crate::{
    settings::WorkerSettings,
    sources::docker::engine::{Engine, EngineError, is_container_name, limited},
};

mod archive;
mod choices;
mod config;
mod image;
mod in_place;
mod leftovers;
mod mounts;
mod upload;
mod without;

use super::warnings::Warnings;
use choices::Choices;
use in_place::Original;
use leftovers::Mark;
use mounts::Mounts;
use upload::{Part, Upload};

/// Opens a container to be made as a target. Does not reach out yet.
pub fn open(
    settings: &WorkerSettings,
    target: api::DockerTarget,
    context: RestoreContext,
) -> Result<Box<dyn Target>, TargetError> {
    if !is_container_name(&target.container_name) {
        return Err(TargetError::Unusable(format!(
            "{:?} can't be a container's name: choose one of letters, digits, '_', '.' and '-'",
            target.container_name
        )));
    }
    Ok(Box::new(Container {
        settings: settings.clone(),
        mark: Mark {
            restore_id: context.restore_id.clone(),
            attempt: context.attempt,
        },
        target,
        context,
    }))
}

/// A container that a restore makes.
struct Container {
    settings: WorkerSettings,
    mark: Mark,
    target: api::DockerTarget,
    context: RestoreContext,
}

#[async_trait]
impl Target for Container {
    async fn clean(&self) -> Result<(), TargetError> {
        let engine = self.connect().await?;
        if self.context.in_place {
            let name = &self.target.container_name;
            return in_place::put_back(&engine, &self.mark, name).await;
        }
        leftovers::remove_up_to(&engine, &self.mark).await
    }

    async fn abandon(&self) -> Result<(), TargetError> {
        let engine = self.connect().await?;
        if self.context.in_place {
            return in_place::abandon(&engine, &self.mark).await;
        }
        leftovers::remove_hidden(&engine, &self.mark).await
    }

    async fn write(&self, reader: BackupReader) -> Result<Restored, TargetError> {
        let engine = self.within(self.connect()).await?;
        self.make(&engine, reader).await
    }

    async fn publish(&self) -> Result<(), TargetError> {
        let engine = self.connect().await?;
        if self.context.in_place {
            return in_place::exchange(&engine, &self.mark).await;
        }
        let hidden = self.mark.container_name();
        let name = &self.target.container_name;
        let options = RenameContainerOptionsBuilder::new().name(name).build();
        let call = engine.docker().rename_container(&hidden, options);
        match limited("name the new container", call).await {
            Ok(()) => {}
            Err(error) if error.is_conflict() => return Err(self.name_taken()),
            Err(error) => return Err(engine_failed(error)),
        }
        if self.target.start {
            let call = engine
                .docker()
                .start_container(name, None::<StartContainerOptions>);
            limited("start the new container", call)
                .await
                .map_err(|error| match error {
                    EngineError::Refused { message, .. } => TargetError::Unusable(format!(
                        "the new container {name} can't be started: {message}; choose otherwise \
                         for what is in its way, or restore without starting it"
                    )),
                    error @ EngineError::Unavailable(_) => engine_failed(error),
                })?;
        }
        Ok(())
    }

    async fn settle(&self) -> Result<(), TargetError> {
        if self.context.in_place {
            return in_place::remove_old(&self.connect().await?, &self.mark).await;
        }
        // Labels stay for ever; whoever comes for them later asks the catalog first.
        Ok(())
    }
}

impl Container {
    async fn connect(&self) -> Result<Engine, TargetError> {
        Engine::connect(&self.settings).await.map_err(engine_failed)
    }

    /// Waits for something; ends at once when the job shall end.
    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, TargetError>>,
    ) -> Result<T, TargetError> {
        let done = self.context.cancel.run_until_cancelled(work).await;
        done.ok_or(TargetError::Canceled)?
    }

    fn name_taken(&self) -> TargetError {
        TargetError::Unusable(format!(
            "there is a container {} already: remove or rename it, or choose another name for the \
             new one",
            self.target.container_name
        ))
    }

    async fn make(&self, engine: &Engine, reader: BackupReader) -> Result<Restored, TargetError> {
        let manifest = reader.manifest();
        let source = api::Source::decode(manifest.source.as_slice()).unwrap_or_default();
        let (Some(runtime), Some(Kind::Docker(registered))) = (&manifest.runtime, source.kind)
        else {
            return Err(TargetError::Unusable(
                "the backup is not one of a container: restore it into a folder".to_owned(),
            ));
        };
        let description = config::Description::read(runtime)?;
        let (choices, original) = if self.context.in_place {
            let find = Original::find(engine, &self.target.container_name);
            (Choices::same(), Some(self.within(find).await?))
        } else {
            (Choices::of(&self.context.decisions), None)
        };
        let mut warnings = Warnings::default();
        let prepared = self
            .within(self.prepare(engine, runtime, &choices, &mut warnings))
            .await?;
        // What makes something is not broken off in the middle: it might be made after all, when
        // nobody looks for it any more.
        let mounts = Mounts::make(
            engine,
            &self.mark,
            &self.context,
            runtime,
            &description,
            &choices,
            original.as_ref(),
            &reader,
            &mut warnings,
        )
        .await?;
        let mounts = Arc::new(mounts);
        let image = without::prepare(
            engine,
            &self.mark,
            &prepared,
            runtime,
            &mounts,
            &reader,
            &mut warnings,
        )
        .await?;
        let networks = config::Networks::of(&description, &choices);
        self.within(check_networks(engine, &networks)).await?;
        let mut body = config::body(
            &description,
            &choices,
            &networks,
            &image,
            &mounts,
            &self.mark,
            &mut warnings,
        );
        if let Some(original) = &original {
            let labels = original.labels(mounts.filled_targets());
            body.labels.get_or_insert_default().extend(labels);
        }
        let is_read_only = description.is_read_only();
        let container = self
            .create(engine, &self.mark.container_name(), body)
            .await?;
        self.within(connect_networks(engine, &container, &networks))
            .await?;
        // The engine unpacks nothing where the container may not write: another one, that is
        // never started, takes what lies there.
        let upload = Upload {
            engine,
            context: &self.context,
            reader: &reader,
            mounts: &mounts,
            may_make_devices: self.settings.restore_devices,
        };
        if is_read_only || mounts.some_read_only() {
            let loader = config::loader(&image, &mounts, &self.mark);
            let name = self.mark.loader_name();
            let loader = self.create(engine, &name, loader).await?;
            upload.run(&loader, Part::Mounted, &mut warnings).await?;
            leftovers::remove_container(engine, &loader).await?;
            if is_read_only {
                warnings.add(
                    "the container's root is read-only: outside of its volumes the new one has what \
                     its image holds",
                );
            } else {
                upload.run(&container, Part::Root, &mut warnings).await?;
            }
        } else {
            upload.run(&container, Part::All, &mut warnings).await?;
        }
        self.context.meter.set_phase(Phase::Committing);
        let name = self.target.container_name.clone();
        Ok(Restored {
            source: SourceMessage {
                kind: Some(Kind::Docker(api::DockerSource {
                    container: original.map_or(name, |original| original.name),
                    ..registered
                })),
            },
            warnings: warnings.into_messages(),
        })
    }

    async fn prepare(
        &self,
        engine: &Engine,
        runtime: &RuntimeDocument,
        choices: &Choices,
        warnings: &mut Warnings,
    ) -> Result<image::Chosen, TargetError> {
        match engine.inspect(&self.target.container_name).await {
            Ok(_) if self.context.in_place => {}
            Ok(_) => return Err(self.name_taken()),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(engine_failed(error)),
        }
        image::choose(engine, &self.target.image, choices, runtime, warnings).await
    }

    async fn create(
        &self,
        engine: &Engine,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<String, TargetError> {
        if self.context.cancel.is_cancelled() {
            return Err(TargetError::Canceled);
        }
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let call = engine.docker().create_container(Some(options), body);
        let created = limited("make the new container", call).await.map_err(
            |error| match error {
                EngineError::Refused {
                    status: 400..500,
                    message,
                    ..
                } => TargetError::Unusable(format!(
                    "the new container can't be made: {message}; choose otherwise in the restore's \
                     decisions"
                )),
                error => engine_failed(error),
            },
        )?;
        Ok(created.id)
    }
}

async fn check_networks(engine: &Engine, networks: &config::Networks) -> Result<(), TargetError> {
    for network in networks.named() {
        let missing = || {
            TargetError::Unusable(format!(
                "there is no network {network} on the Docker Engine: make it, or choose the \
                 default for it"
            ))
        };
        if !is_container_name(network) {
            return Err(missing());
        }
        let call = engine.docker().inspect_network(network, None);
        match limited("describe the network", call).await {
            Ok(_) => {}
            Err(error) if error.is_missing() => return Err(missing()),
            Err(error) => return Err(engine_failed(error)),
        }
    }
    Ok(())
}

/// Connects to the networks beyond the first.
async fn connect_networks(
    engine: &Engine,
    container: &str,
    networks: &config::Networks,
) -> Result<(), TargetError> {
    for (network, settings) in &networks.further {
        let request = NetworkConnectRequest {
            container: container.to_owned(),
            endpoint_config: Some(settings.clone()),
        };
        let call = engine.docker().connect_network(network, request);
        limited("connect to the network", call)
            .await
            .map_err(engine_failed)?;
    }
    Ok(())
}

/// The engine failed at something that may work later.
fn engine_failed(error: EngineError) -> TargetError {
    let message = error.to_string();
    match error {
        EngineError::Unavailable(_) => TargetError::EngineUnavailable(message),
        EngineError::Refused { .. } => TargetError::Unwritable(message),
    }
}
