//! The demonstration with an agent that lives in a container.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use bollard::{
    API_DEFAULT_VERSION, Docker, body_full, body_stream,
    exec::{CreateExecOptions, StartExecResults},
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder,
        DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptions,
        RemoveVolumeOptions, StartContainerOptions, UploadToContainerOptionsBuilder,
    },
};
use futures::{StreamExt as _, TryStreamExt as _};
use proto::backup::v1::{Consistency, DockerSource, DockerTarget, restore_plan, source};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::{
    DemoArgs,
    folder::blocking,
    interruptible, made_up,
    steps::{Comparison, Stage, first_backup, restore, second_backup},
    tarball,
};
use crate::error::{CliError, Result, innermost};

/// Where the agent lives in its container, and the part of it that is a volume.
const HOME: &str = "/home/agent";
const MEMORY: &str = "/home/agent/memory";
/// What an engine may take for one answer.
const TIMEOUT_S: u64 = 120;
/// Where the image is made from.
const BUSYBOX: &str = "/bin/busybox";

/// The containers of this demonstration; they go when it ends.
struct Containers {
    docker: Docker,
    image: String,
    image_is_ours: bool,
    original: String,
    copy: String,
    volume: String,
}

/// Runs it.
pub async fn run(args: &DemoArgs, stage: &mut Stage) -> Result<Comparison> {
    let docker = connect(args).await?;
    let tag = Uuid::now_v7().simple().to_string();
    let tag = &tag[tag.len() - 8..];
    let containers = Containers {
        docker,
        image: args
            .image
            .clone()
            .unwrap_or_else(|| format!("nora-backup-demo:{tag}")),
        image_is_ours: args.image.is_none(),
        original: format!("nora-demo-{tag}"),
        copy: format!("nora-demo-{tag}-copy"),
        volume: format!("nora-demo-{tag}-memory"),
    };
    let ended = interruptible(containers.demonstrate(stage)).await;
    if !args.keep {
        containers.remove().await;
    }
    ended
}

async fn connect(args: &DemoArgs) -> Result<Docker> {
    let set = |text: Option<String>| text.filter(|host| !host.trim().is_empty());
    let host = set(args.docker_host.clone())
        .or_else(|| set(std::env::var("DOCKER_HOST").ok()))
        .unwrap_or_else(|| "unix:///var/run/docker.sock".into());
    let failed = |error: bollard::errors::Error| {
        CliError::new(
            crate::exit::Exit::Unavailable,
            format!("no Docker Engine at {host}: {}", innermost(&error)),
        )
        .hint("start one, or name it with --docker-host or DOCKER_HOST")
    };
    let docker = match host.strip_prefix("unix://") {
        Some(path) => Docker::connect_with_unix(path, TIMEOUT_S, API_DEFAULT_VERSION),
        None => Docker::connect_with_http(&host, TIMEOUT_S, API_DEFAULT_VERSION),
    }
    .map_err(failed)?;
    docker.negotiate_version().await.map_err(failed)
}

/// An error of the engine, with what was asked of it.
fn engine(doing: impl std::fmt::Display) -> impl FnOnce(bollard::errors::Error) -> CliError {
    move |error| CliError::failed(format!("{doing}: {error}"))
}

impl Containers {
    async fn demonstrate(&self, stage: &mut Stage) -> Result<Comparison> {
        if self.image_is_ours {
            self.import().await?;
        }
        let model = stage.agents.join("model");
        let made = model.clone();
        blocking("make up an agent", move || made_up::make(&made)).await?;
        self.create().await?;
        self.upload(&model).await?;
        stage.say(
            "Agent",
            format!(
                "container {} of {}, with a volume",
                self.original, self.image
            ),
        );
        let docker = DockerSource {
            container: self.original.clone(),
            consistency: Consistency::Pause.into(),
            ..DockerSource::default()
        };
        first_backup(stage, source::Kind::Docker(docker)).await?;

        let changed = model.clone();
        let removed =
            blocking("work on the agent", move || made_up::work_an_hour(&changed)).await?;
        self.upload(&model).await?;
        self.erase(&removed).await?;
        stage.say(
            "An hour later",
            "70 pages of its memory, a log, 12 files, a folder have changed",
        );
        let backup = second_backup(stage).await?;

        let target = restore_plan::Target::Docker(DockerTarget {
            container_name: self.copy.clone(),
            ..DockerTarget::default()
        });
        restore(stage, &backup, target).await?;
        self.check_original().await?;
        let (left, right) = (
            stage.agents.join("original.tar"),
            stage.agents.join("copy.tar"),
        );
        self.download(&self.original, &left).await?;
        self.download(&self.copy, &right).await?;
        let (differences, entries) = blocking("compare the copy", move || {
            tarball::differences(&left, &right)
        })
        .await?;
        let of_each = "bytes, modes, owners, times and links";
        Ok(Comparison {
            differences,
            entries,
            of_each,
        })
    }

    async fn import(&self) -> Result<()> {
        let image = tarball::busybox_image(Path::new(BUSYBOX)).map_err(|error| {
            CliError::io(format!("make an image from {BUSYBOX}"), &error)
                .hint("--image NAME takes one that the engine has")
        })?;
        let (repository, tag) = self
            .image
            .split_once(':')
            .unwrap_or((&self.image, "latest"));
        let options = CreateImageOptionsBuilder::new()
            .from_src("-")
            .repo(repository)
            .tag(tag)
            .build();
        self.docker
            .create_image(Some(options), Some(body_full(image.into())), None)
            .try_collect::<Vec<_>>()
            .await
            .map_err(engine(format!("import image {}", self.image)))?;
        Ok(())
    }

    async fn create(&self) -> Result<()> {
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: Some(
                ["sh", "-c", "while :; do sleep 3600; done"]
                    .map(String::from)
                    .to_vec(),
            ),
            env: Some(vec!["AGENT_NAME=demo".into()]),
            labels: Some(HashMap::from([(
                "nora-backup.demo".into(),
                "original".into(),
            )])),
            working_dir: Some(HOME.into()),
            host_config: Some(HostConfig {
                binds: Some(vec![format!("{}:{MEMORY}", self.volume)]),
                network_mode: Some("none".into()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let name = &self.original;
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        self.docker
            .create_container(Some(options), body)
            .await
            .map_err(engine(format!("create container {name}")))?;
        self.docker
            .start_container(name, None::<StartContainerOptions>)
            .await
            .map_err(engine(format!("start container {name}")))
    }

    /// Puts a folder's contents into the original's home.
    async fn upload(&self, model: &Path) -> Result<()> {
        let archive = model.with_extension("tar");
        let (from, to) = (model.to_path_buf(), archive.clone());
        blocking("pack the agent", move || {
            tarball::pack(&from, io::BufWriter::new(std::fs::File::create(to)?))
        })
        .await?;
        let file = tokio::fs::File::open(&archive)
            .await
            .map_err(|error| CliError::io("read the packed agent", &error))?;
        // What can't be read would be missing in the container, and the comparison says so.
        let bytes = ReaderStream::new(file).filter_map(|piece| async { piece.ok() });
        let options = UploadToContainerOptionsBuilder::new().path(HOME).build();
        self.docker
            .upload_to_container(&self.original, Some(options), body_stream(bytes))
            .await
            .map_err(engine(format!("fill container {}", self.original)))
    }

    async fn erase(&self, paths: &[PathBuf]) -> Result<()> {
        let mut command = vec!["rm".to_string(), "-rf".to_string()];
        command.extend(
            paths
                .iter()
                .map(|path| format!("{HOME}/{}", path.display())),
        );
        let options = CreateExecOptions {
            cmd: Some(command),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let failed = || engine(format!("remove files in container {}", self.original));
        let exec = self
            .docker
            .create_exec(&self.original, options)
            .await
            .map_err(failed())?;
        let started = self
            .docker
            .start_exec(&exec.id, None)
            .await
            .map_err(failed())?;
        if let StartExecResults::Attached { output, .. } = started {
            output.try_collect::<Vec<_>>().await.map_err(failed())?;
        }
        Ok(())
    }

    /// The original runs on, unpaused.
    async fn check_original(&self) -> Result<()> {
        let inspected = self
            .docker
            .inspect_container(&self.original, None)
            .await
            .map_err(engine(format!("look at container {}", self.original)))?;
        let state = inspected.state.unwrap_or_default();
        if state.running == Some(true) && state.paused != Some(true) {
            return Ok(());
        }
        Err(CliError::failed(format!(
            "container {} does not run any more",
            self.original
        )))
    }

    async fn download(&self, name: &str, to: &Path) -> Result<()> {
        let options = DownloadFromContainerOptionsBuilder::new()
            .path(HOME)
            .build();
        let mut pieces = Box::pin(self.docker.download_from_container(name, Some(options)));
        let failed = |error: io::Error| CliError::io(format!("write {}", to.display()), &error);
        let mut file = tokio::fs::File::create(to).await.map_err(failed)?;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(engine(format!("read container {name}")))?;
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)
    }

    /// Removes what was made: the containers, their volumes, the image.
    async fn remove(&self) {
        let mut volumes = vec![self.volume.clone()];
        for name in [&self.original, &self.copy] {
            if let Ok(inspected) = self.docker.inspect_container(name, None).await {
                let mounts = inspected.mounts.unwrap_or_default();
                volumes.extend(mounts.into_iter().filter_map(|mount| mount.name));
            }
            let options = RemoveContainerOptionsBuilder::new()
                .force(true)
                .v(true)
                .build();
            let _ = self.docker.remove_container(name, Some(options)).await;
        }
        for volume in volumes {
            let _ = self
                .docker
                .remove_volume(&volume, None::<RemoveVolumeOptions>)
                .await;
        }
        if self.image_is_ours {
            let _ = self
                .docker
                .remove_image(&self.image, None::<RemoveImageOptions>, None)
                .await;
        }
    }
}
