//! Agents in containers, on a real Docker Engine: what is the container's own
//! comes back in a new one, and the original is left alone.

use std::{collections::HashMap, io::Read as _};

use anyhow::{Context as _, Result, bail};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    exec::{CreateExecOptions, StartExecResults},
    models::{ContainerCreateBody, ContainerInspectResponse, HostConfig, PortBinding},
    query_parameters::{
        CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
        RemoveContainerOptionsBuilder, StartContainerOptions,
    },
};
use futures::TryStreamExt as _;
use proto::backup::v1::{
    Agent, Backup, Consistency, DockerSource, DockerTarget, Integration, Phase, Restore,
    RestorePlan, Source, StartRestoreRequest, backup, restore, restore_plan, source,
};
use services::{api::Api, services as real, standalone::Standalone};

const OWNER: &str = "user-1";
/// What an agent's life has left in its container.
const LIFE: &str = "
set -e
echo remembered > /data/memory.txt
mkdir -p /data/deep/er && echo x > /data/deep/er/x && ln -s x /data/deep/er/link && ln /data/memory.txt /data/deep/hard
chown -R 1000:1000 /data/deep && chmod 4750 /data/deep/er/x
head -c 3000000 /dev/urandom > /data/noise
mkfifo /data/pipe
echo temperature=1 >> /etc/agent.conf
rm /opt/agent/unwanted
echo made > /opt/agent/made && touch -d '1969-12-31 23:00:00' /opt/agent/made
mkdir -p /home/agent/work && echo draft > /home/agent/work/draft
";

/// A container with a life, and the means to look at it; removed when dropped.
struct Agents {
    docker: Docker,
    names: Vec<String>,
}

impl Agents {
    fn connect() -> Result<Self> {
        let host = real::address("NORA_TEST_DOCKER_HOST");
        let path = host.strip_prefix("unix://").context("a unix socket")?;
        Ok(Self {
            docker: Docker::connect_with_unix(path, 120, API_DEFAULT_VERSION)?,
            names: Vec::new(),
        })
    }

    async fn create(&mut self, name: &str) -> Result<()> {
        let ports = HashMap::from([(
            "8080/tcp".to_owned(),
            Some(vec![PortBinding {
                host_ip: None,
                host_port: Some(String::new()),
            }]),
        )]);
        let body = ContainerCreateBody {
            image: Some(real::IMAGE.to_owned()),
            cmd: Some(vec!["/bin/sleep".into(), "100000".into()]),
            env: Some(vec!["AGENT_MODE=careful".into(), "PATH=/bin".into()]),
            labels: Some(HashMap::from([("nora.test".to_owned(), name.to_owned())])),
            working_dir: Some("/home/agent".to_owned()),
            host_config: Some(HostConfig {
                binds: Some(vec![format!("{name}-data:/data")]),
                port_bindings: Some(ports),
                memory: Some(64 << 20),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        self.docker
            .create_container(Some(options), body)
            .await
            .with_context(|| format!("create container {name}"))?;
        self.names.push(name.to_owned());
        self.docker
            .start_container(name, None::<StartContainerOptions>)
            .await?;
        self.run(name, LIFE).await?;
        Ok(())
    }

    /// Runs a shell script in a container; it must succeed.
    async fn run(&self, name: &str, script: &str) -> Result<String> {
        let options = CreateExecOptions {
            cmd: Some(vec![
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                script.to_owned(),
            ]),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let exec = self.docker.create_exec(name, options).await?.id;
        let StartExecResults::Attached { output, .. } = self.docker.start_exec(&exec, None).await?
        else {
            bail!("the script is not attached")
        };
        let said: Vec<String> = output.map_ok(|line| line.to_string()).try_collect().await?;
        let said = said.concat();
        match self.docker.inspect_exec(&exec).await?.exit_code {
            Some(0) => Ok(said),
            code => bail!("a script in {name} ended with {code:?}: {said}"),
        }
    }

    async fn inspect(&self, name: &str) -> Result<ContainerInspectResponse> {
        Ok(self.docker.inspect_container(name, None).await?)
    }

    /// Every file under some paths: header and content, as the engine's archives
    /// tell; works on stopped containers.
    async fn describe(&self, name: &str, paths: &[&str]) -> Result<HashMap<String, String>> {
        let mut all = HashMap::new();
        for path in paths {
            let options = DownloadFromContainerOptionsBuilder::new()
                .path(path)
                .build();
            let chunks: Vec<bytes::Bytes> = self
                .docker
                .download_from_container(name, Some(options))
                .try_collect()
                .await?;
            let mut archive = tar::Archive::new(std::io::Cursor::new(chunks.concat()));
            for entry in archive.entries()? {
                let mut entry = entry?;
                let own = [
                    &b"etc/mtab"[..],
                    b"etc/hosts",
                    b"etc/hostname",
                    b"etc/resolv.conf",
                ];
                if own.iter().any(|path| entry.path_bytes().ends_with(path)) {
                    // The engine's own, made anew with each container.
                    continue;
                }
                let header = entry.header();
                let mut text = format!(
                    "{:?} {:o} {}:{} mtime {} link {:?}",
                    header.entry_type(),
                    header.mode()? & 0o7777,
                    header.uid()?,
                    header.gid()?,
                    // Folders' times change as mounts are made in them.
                    if header.entry_type().is_dir() {
                        0
                    } else {
                        header.mtime()?
                    },
                    entry.link_name_bytes(),
                );
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                text.push_str(blake3::hash(&content).to_hex().as_str());
                all.insert(format!("{path}: {}", entry.path()?.display()), text);
            }
        }
        Ok(all)
    }

    async fn remove(&self) -> Result<()> {
        for name in &self.names {
            let options = RemoveContainerOptionsBuilder::new()
                .force(true)
                .v(true)
                .build();
            let _ = self.docker.remove_container(name, Some(options)).await;
        }
        Ok(())
    }
}

async fn standalone(name: &str) -> Result<Standalone> {
    let mut standalone = Standalone::prepare(name)?.with_env(
        "NORA_BACKUP_DOCKER_HOST",
        real::address("NORA_TEST_DOCKER_HOST"),
    );
    standalone.launch().await?;
    Ok(standalone)
}

async fn register(
    api: &mut Api,
    agent_id: &str,
    container: &str,
    paths: &[&str],
    consistency: Consistency,
) -> Result<Agent> {
    let docker = DockerSource {
        container: container.to_owned(),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        consistency: consistency.into(),
    };
    let agent = Agent {
        agent_id: agent_id.to_owned(),
        owner_id: OWNER.to_owned(),
        source: Some(Source {
            kind: Some(source::Kind::Docker(docker)),
        }),
        integrations: vec![Integration {
            r#type: "slack".into(),
            name: "team".into(),
            config_json: r#"{"channel":"x"}"#.into(),
        }],
        ..Agent::default()
    };
    api.register(agent).await
}

fn plan(agent_id: &str, container_name: &str, start: bool) -> RestorePlan {
    let target = DockerTarget {
        container_name: container_name.to_owned(),
        start,
        ..DockerTarget::default()
    };
    RestorePlan {
        agent_id: agent_id.to_owned(),
        target: Some(restore_plan::Target::Docker(target)),
        ..RestorePlan::default()
    }
}

async fn restored(
    user: &mut Api,
    backup: &Backup,
    plan: RestorePlan,
    choices: &[(&str, &str)],
) -> Result<Restore> {
    let draft = user.draft_restore(&backup.backup_id, plan).await?;
    let choices = choices
        .iter()
        .map(|(name, choice)| ((*name).to_owned(), (*choice).to_owned()))
        .collect();
    user.restores
        .start_restore(StartRestoreRequest {
            restore_id: draft.restore_id.clone(),
            choices,
        })
        .await?;
    let ended = user.watch_restore(&draft.restore_id, |_| false).await?;
    if ended.state() != restore::State::Completed {
        bail!("the restore is {:?}: {:?}", ended.state(), ended.failure);
    }
    Ok(ended)
}

#[tokio::test]
async fn a_container_comes_back_as_a_new_one_and_the_original_is_untouched() -> Result<()> {
    const PATHS: &[&str] = &["/data", "/etc", "/opt", "/home"];
    let mut agents = Agents::connect()?;
    let (original, copy) = ("nora-original", "nora-copy");
    agents.create(original).await?;
    agents.names.push(copy.to_owned());
    let standalone = standalone("docker").await?;
    register(
        &mut standalone.control_plane().await?,
        "boxed",
        original,
        &[],
        Consistency::Live,
    )
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let outcome = async {
        let was = agents.inspect(original).await?;
        let before = agents.describe(original, PATHS).await?;
        let backup = user.complete_backup("boxed").await?;
        let draft = user
            .draft_restore(&backup.backup_id, plan("unboxed", copy, false))
            .await?;
        assert!(
            draft
                .decisions
                .iter()
                .any(|decision| decision.decision_id == "port:8080/tcp"),
            "{:?}",
            draft.decisions
        );

        restored(
            &mut user,
            &backup,
            plan("unboxed", copy, false),
            &[("port:8080/tcp", "random")],
        )
        .await?;
        let is = agents.inspect(copy).await?;
        assert_eq!(
            is.state.as_ref().and_then(|state| state.running),
            Some(false),
            "stopped unless asked"
        );
        let settings = |inspected: &ContainerInspectResponse| {
            let config = inspected.config.clone().unwrap_or_default();
            let memory = inspected.host_config.clone().unwrap_or_default().memory;
            (
                config.cmd,
                config.env,
                config.working_dir,
                config.labels.and_then(|all| all.get("nora.test").cloned()),
                memory,
            )
        };
        assert_eq!(settings(&is), settings(&was));
        let volume = |inspected: &ContainerInspectResponse| {
            inspected.mounts.clone().unwrap_or_default()[0].name.clone()
        };
        assert_ne!(volume(&is), volume(&was), "a volume of its own");
        let found = agents.describe(copy, PATHS).await?;
        for (path, text) in &before {
            assert_eq!(found.get(path), Some(text), "{path}");
        }
        assert_eq!(found.len(), before.len(), "what was removed stays removed");

        let still = agents.inspect(original).await?;
        assert_eq!(
            (&still.id, &still.state, &still.restart_count),
            (&was.id, &was.state, &was.restart_count)
        );
        assert_eq!(agents.describe(original, PATHS).await?, before);
        user.complete_backup("unboxed")
            .await
            .context("the new agent is backed up at once")?;
        anyhow::Ok(())
    }
    .await;
    agents.remove().await?;
    outcome
}

#[tokio::test]
async fn only_the_paths_named_are_captured() -> Result<()> {
    let mut agents = Agents::connect()?;
    agents.create("nora-paths").await?;
    let standalone = standalone("docker-paths").await?;
    register(
        &mut standalone.control_plane().await?,
        "paths",
        "nora-paths",
        &["/data/deep", "/etc/agent.conf"],
        Consistency::Live,
    )
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let outcome = async {
        let backup = user.complete_backup("paths").await?;
        let names: Vec<String> = user
            .entries(&backup.backup_id)
            .await?
            .into_iter()
            .map(|entry| entry.path_text)
            .collect();
        assert!(
            names.iter().any(|name| name == "data/deep/er/x")
                && names.iter().any(|name| name == "etc/agent.conf"),
            "{names:?}"
        );
        assert!(
            !names.iter().any(|name| name.contains("noise")
                || name.contains("motd")
                || name.contains("draft")),
            "{names:?}"
        );
        anyhow::Ok(())
    }
    .await;
    agents.remove().await?;
    outcome
}

#[tokio::test]
async fn a_second_backup_of_a_container_stores_only_what_changed() -> Result<()> {
    let mut agents = Agents::connect()?;
    agents.create("nora-twice").await?;
    let standalone = standalone("docker-twice").await?;
    register(
        &mut standalone.control_plane().await?,
        "twice",
        "nora-twice",
        &[],
        Consistency::Live,
    )
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let outcome = async {
        let first = user.complete_backup("twice").await?;
        agents
            .run("nora-twice", "echo more >> /data/memory.txt")
            .await?;
        let second = user.complete_backup("twice").await?;
        assert!(first.stored_bytes > 3_000_000, "{}", first.stored_bytes);
        assert!(second.stored_bytes < 100_000, "{}", second.stored_bytes);
        anyhow::Ok(())
    }
    .await;
    agents.remove().await?;
    outcome
}

#[tokio::test]
async fn a_paused_container_is_resumed_after_success_after_cancel_and_after_a_kill() -> Result<()> {
    let mut agents = Agents::connect()?;
    agents.create("nora-paused").await?;
    agents
        .run("nora-paused", "head -c 200000000 /dev/urandom > /data/big")
        .await?;
    let mut standalone = standalone("docker-pause").await?;
    register(
        &mut standalone.control_plane().await?,
        "paused",
        "nora-paused",
        &[],
        Consistency::Pause,
    )
    .await?;
    let outcome = async {
        let is_paused = || async {
            let state = agents
                .inspect("nora-paused")
                .await?
                .state
                .unwrap_or_default();
            anyhow::Ok(state.paused.unwrap_or_default())
        };
        let is_moving = |backup: &Backup| {
            backup.progress.as_ref().is_some_and(|progress| {
                progress.phase() == Phase::Transferring && progress.bytes_done > 0
            })
        };
        let mut user = standalone.user(OWNER).await?;
        // Canceled in the middle.
        let created = user.create_backup("paused").await?;
        user.watch_backup(&created.backup_id, is_moving).await?;
        assert!(is_paused().await?, "it is paused while it is read");
        let request = proto::backup::v1::CancelBackupRequest {
            backup_id: created.backup_id.clone(),
        };
        user.backups.cancel_backup(request).await?;
        let ended = user.watch_backup(&created.backup_id, |_| false).await?;
        assert_eq!(ended.state(), backup::State::Canceled);
        assert!(!is_paused().await?, "after a cancel");
        // Killed in the middle.
        let created = user.create_backup("paused").await?;
        user.watch_backup(&created.backup_id, is_moving).await?;
        standalone.kill()?;
        assert!(is_paused().await?, "nobody could resume it");
        standalone.launch().await?;
        let mut user = standalone.user(OWNER).await?;
        let ended = user.watch_backup(&created.backup_id, |_| false).await?;
        assert_eq!(
            ended.state(),
            backup::State::Completed,
            "{:?}",
            ended.failure
        );
        assert!(
            !is_paused().await?,
            "after a kill, a new attempt and its success"
        );
        anyhow::Ok(())
    }
    .await;
    agents.remove().await?;
    outcome
}

#[tokio::test]
async fn a_container_or_an_engine_that_is_not_there_fails_with_the_cause() -> Result<()> {
    let mut standalone = standalone("docker-missing").await?;
    register(
        &mut standalone.control_plane().await?,
        "gone",
        "nora-no-such-container",
        &[],
        Consistency::Live,
    )
    .await?;
    let mut user = standalone.user(OWNER).await?;
    let failure = user.make_backup("gone").await?.failure.unwrap_or_default();
    assert_eq!(failure.reason, "SOURCE_NOT_FOUND", "{failure:?}");
    standalone.stop()?;
    standalone.set_env("NORA_BACKUP_DOCKER_HOST", "unix:///nonexistent/docker.sock");
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let failure = user.make_backup("gone").await?.failure.unwrap_or_default();
    assert_eq!(failure.reason, "ENGINE_UNAVAILABLE", "{failure:?}");
    Ok(())
}
