//! A container on a Docker Engine as a source.
//!
//! What is captured are the paths that the agent was registered with or, when there are none, its
//! volumes and everything that differs from its image. It is read by the engine's archives, which
//! come in path order, and streamed into the vault as it comes. The engine tells times to the
//! second, and of attributes only `security.capability`; sockets, and what is not on a disk
//! (`/proc`, tmpfs), are no part of a backup.
//!
//! - `engine`: the calls, with their time limits
//! - `paths`: paths in a container
//! - `plan`: what is wanted; `resolve`: where links in the registered paths lead
//! - `capture`: carries the plan out
//! - `feed`, `archive`, `pax`: an archive as it comes
//! - `second_look`: which files changed while they were read
//! - `pause`: pausing, and never leaving a container paused
//! - `hooks`: commands around the capture, and never owing the one afterwards
//! - `runtime`: the document that a restore makes a new container from
//! - `labels`: what this program marks its own things with

use async_trait::async_trait;
use bollard::models::ContainerInspectResponse;
use catalog::AfterHook;
use proto::backup::v1::{Consistency, DockerSource};
use tokio::runtime::Handle;
use vault::BackupWriter;

use super::{CaptureContext, Source, SourceError};
use crate::{settings::WorkerSettings, unwinding::join};

mod archive;
mod capture;
pub(crate) mod engine;
mod feed;
pub(crate) mod hooks;
pub(crate) mod labels;
pub(crate) mod paths;
mod pause;
mod pax;
mod plan;
mod resolve;
pub(crate) mod runtime;
mod second_look;

use capture::Capture;
use engine::{Engine, EngineError};
use hooks::Hooked;
use pause::Paused;
use plan::{Given, Plan};

/// Opens a container as a source. Does not reach out yet.
pub fn open(
    settings: &WorkerSettings,
    source: &DockerSource,
) -> Result<Box<dyn Source>, SourceError> {
    if !engine::is_container_name(&source.container) {
        return Err(SourceError::NotFound(format!(
            "{:?} can't be a container's name: register the agent with the name or id of its \
             container",
            source.container
        )));
    }
    Ok(Box::new(Container {
        settings: settings.clone(),
        source: source.clone(),
    }))
}

/// Says whether the configured Docker Engine answers; `None` when none is configured.
pub async fn check(settings: &WorkerSettings) -> Option<Result<(), SourceError>> {
    settings.docker_host()?;
    Some(match Engine::connect(settings).await {
        Ok(_) => Ok(()),
        Err(error) => Err(engine_failed(error)),
    })
}

/// Resumes a container that a dead attempt left paused. Fine when it is gone or not paused.
pub async fn resume(settings: &WorkerSettings, container: &str) -> Result<(), SourceError> {
    let engine = Engine::connect(settings).await.map_err(engine_failed)?;
    pause::resume(&engine, container)
        .await
        .map_err(engine_failed)
}

/// Runs a command that a dead attempt owes a container. Fine when that is gone, does not run, or
/// the command fails: it was to be run once more at the most.
pub async fn run_owed(settings: &WorkerSettings, owed: &AfterHook) -> Result<(), SourceError> {
    let Some(command) = &owed.command else {
        return Ok(());
    };
    let engine = Engine::connect(settings).await.map_err(engine_failed)?;
    let container = &owed.container;
    let failed = hooks::run_owed(&engine, container, command)
        .await
        .map_err(engine_failed)?;
    if failed.is_some() {
        tracing::warn!(container, "the command after a backup failed");
    }
    Ok(())
}

/// A container that this worker's engine runs.
struct Container {
    settings: WorkerSettings,
    source: DockerSource,
}

#[async_trait]
impl Source for Container {
    async fn capture(
        &self,
        context: CaptureContext,
        writer: BackupWriter,
    ) -> Result<BackupWriter, SourceError> {
        let (settings, source) = (self.settings.clone(), self.source.clone());
        let runtime = Handle::current();
        join(tokio::task::spawn_blocking(move || {
            let reading = Reading {
                engine: within(&runtime, &context, Engine::connect(&settings))?,
                runtime,
                source,
                context,
            };
            reading.run(writer)
        }))
        .await
    }
}

/// Waits for the engine; ends at once when the job shall end.
fn within<T>(
    runtime: &Handle,
    context: &CaptureContext,
    call: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, SourceError> {
    runtime
        .block_on(context.cancel.run_until_cancelled(call))
        .ok_or(SourceError::Canceled)?
        .map_err(engine_failed)
}

/// A container that is being read. Blocks.
struct Reading {
    runtime: Handle,
    engine: Engine,
    source: DockerSource,
    context: CaptureContext,
}

impl Reading {
    fn run(&self, mut writer: BackupWriter) -> Result<BackupWriter, SourceError> {
        let name = &self.source.container;
        let found = self.runtime.block_on(
            self.context
                .cancel
                .run_until_cancelled(self.engine.inspect(name)),
        );
        let inspect = found
            .ok_or(SourceError::Canceled)?
            .map_err(|error| not_read(name, error))?;
        // The name may be another container's a moment later.
        let container = inspect.id.clone().unwrap_or_else(|| name.clone());
        let state = inspect.state.clone().unwrap_or_default();
        let (runs, is_paused) = (
            state.running.unwrap_or_default(),
            state.paused.unwrap_or_default(),
        );
        let hooks = self.source.hooks.as_ref().filter(|_| runs && !is_paused);
        let hooked = hooks
            .map(|hooks| {
                let (runtime, context) = (&self.runtime, &self.context);
                Hooked::begin(
                    runtime,
                    &self.engine,
                    &container,
                    hooks,
                    context,
                    &mut writer,
                )
            })
            .transpose()?;
        let wants_pause = self.source.consistency() == Consistency::Pause && runs && !is_paused;
        let pause = if wants_pause {
            Paused::begin(&self.runtime, &self.engine, &container, &self.context.undo)?
        } else {
            None
        };
        let is_live = runs && !is_paused && pause.is_none();
        let done = self.read(&container, &inspect, is_live, writer);
        // What is left is undone when the guards go: resumed, then the command after.
        let mut writer = done?;
        if let Some(pause) = pause {
            pause.end()?;
        }
        if let Some(hooked) = hooked {
            hooked.end(&mut writer)?;
        }
        Ok(writer)
    }

    fn read(
        &self,
        container: &str,
        inspect: &ContainerInspectResponse,
        is_live: bool,
        mut writer: BackupWriter,
    ) -> Result<BackupWriter, SourceError> {
        let mounts = inspect.mounts.clone().unwrap_or_default();
        let mut resolver = resolve::Resolver::new(|path| {
            let look = self.engine.stat(container, path);
            self.within(look)
        });
        let places = resolver.mounts(&mounts)?;
        let registered = resolver.registered(&self.source.paths)?;
        for missing in &registered.missing {
            writer.warn(
                missing,
                "is registered, but is not in the container: it is not in this backup",
            );
        }
        if registered.paths.is_empty()
            && registered.links.is_empty()
            && !self.source.paths.is_empty()
        {
            return Err(SourceError::NotFound(format!(
                "none of the registered paths is in container {}: register the agent with paths \
                 that are",
                self.source.container
            )));
        }
        let changes = self.within(self.engine.changes(container))?;
        let (volumes, other): (Vec<_>, Vec<_>) = mounts.iter().partition(|m| runtime::is_volume(m));
        let place = |mount: &&bollard::models::MountPoint| {
            places
                .get(mount.destination.as_deref().unwrap_or_default())
                .cloned()
        };
        let plan = Plan::new(Given {
            registered: registered.paths.clone(),
            links: resolver.into_links(),
            volumes: volumes.iter().filter_map(place).collect(),
            other_mounts: other.iter().filter_map(place).collect(),
            changes,
            gone_before: runtime::gone_before(inspect),
            names_paths: !self.source.paths.is_empty(),
            patterns: self.context.patterns.clone(),
        });
        let captured = runtime::Captured {
            plan: &plan,
            places: &places,
            registered: &registered.paths,
        };
        let cancel = &self.context.cancel;
        let document = runtime::document(&self.engine, cancel, inspect, &captured);
        writer.set_runtime(self.within(document)?);
        let mut capture = Capture::new(
            &self.runtime,
            &self.engine,
            container,
            &self.context,
            &plan,
            writer,
        );
        capture.run()?;
        let writer = capture.finish(is_live);
        if cancel.is_cancelled() {
            return Err(SourceError::Canceled);
        }
        Ok(writer)
    }

    fn within<T>(
        &self,
        call: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, SourceError> {
        within(&self.runtime, &self.context, call).map_err(|error| match error {
            SourceError::NotFound(_) => gone(&self.source.container),
            error => error,
        })
    }
}

/// The engine failed at something that concerns no container by name.
fn engine_failed(error: EngineError) -> SourceError {
    let message = error.to_string();
    match error {
        EngineError::Unavailable(_) => SourceError::EngineUnavailable(message),
        EngineError::Refused { status: 404, .. } => SourceError::NotFound(message),
        EngineError::Refused { .. } => SourceError::Unreadable(message),
    }
}

/// The engine failed at something that concerns a container.
fn not_read(container: &str, error: EngineError) -> SourceError {
    if error.is_missing() {
        return gone(container);
    }
    engine_failed(error)
}

fn gone(container: &str) -> SourceError {
    SourceError::NotFound(format!(
        "there is no container {container} on the Docker Engine: start it again under this name, \
         or register the agent with the container that it runs in now"
    ))
}
