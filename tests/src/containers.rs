//! Agents in containers on the tests' Docker Engine.

use std::{collections::HashMap, io::Read as _};

use anyhow::{Context as _, Result, bail};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    exec::{CreateExecOptions, StartExecResults},
    models::{ContainerCreateBody, ContainerInspectResponse, HostConfig, PortBinding},
    query_parameters::{
        CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
        RemoveContainerOptionsBuilder, RemoveVolumeOptions, StartContainerOptions,
    },
};
use futures::TryStreamExt as _;
use proto::backup::v1::{Agent, Consistency, DockerSource, Hooks, Integration, Source, source};

use crate::{api::Api, services, standalone::Standalone};

/// Who owns the agents.
pub const OWNER: &str = "user-1";
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
pub struct Agents {
    /// The engine.
    pub docker: Docker,
    /// Containers to remove in the end.
    pub names: Vec<String>,
}

impl Agents {
    /// Connects to the tests' engine.
    pub fn connect() -> Result<Self> {
        let host = services::address("NORA_TEST_DOCKER_HOST");
        let path = host.strip_prefix("unix://").context("a unix socket")?;
        Ok(Self {
            docker: Docker::connect_with_unix(path, 120, API_DEFAULT_VERSION)?,
            names: Vec::new(),
        })
    }

    /// Makes and starts a container that sleeps, with a volume, and gives it a life.
    pub async fn create(&mut self, name: &str) -> Result<()> {
        let ports = HashMap::from([(
            "8080/tcp".to_owned(),
            Some(vec![PortBinding {
                host_ip: None,
                host_port: Some(String::new()),
            }]),
        )]);
        let body = ContainerCreateBody {
            image: Some(services::IMAGE.to_owned()),
            cmd: Some(vec!["/bin/sleep".into(), "100000".into()]),
            env: Some(vec!["AGENT_MODE=careful".into(), "PATH=/bin".into()]),
            labels: Some(HashMap::from([("nora.test".to_owned(), name.to_owned())])),
            working_dir: Some("/home/agent".to_owned()),
            // It sleeps through all others.
            stop_signal: Some("SIGKILL".to_owned()),
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
    pub async fn run(&self, name: &str, script: &str) -> Result<String> {
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

    /// What the engine says of a container.
    pub async fn inspect(&self, name: &str) -> Result<ContainerInspectResponse> {
        Ok(self.docker.inspect_container(name, None).await?)
    }

    /// Every file under some paths: header and content, as the engine's archives
    /// tell; works on stopped containers.
    pub async fn describe(&self, name: &str, paths: &[&str]) -> Result<HashMap<String, String>> {
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

    /// Removes a container with its volumes.
    pub async fn remove_one(&self, name: &str) -> Result<()> {
        let found = self.inspect(name).await?;
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        self.docker.remove_container(name, Some(options)).await?;
        for volume in found.mounts.into_iter().flatten() {
            if let Some(name) = volume.name {
                let _ = self
                    .docker
                    .remove_volume(&name, None::<RemoveVolumeOptions>)
                    .await;
            }
        }
        Ok(())
    }

    /// Removes all containers with their volumes.
    pub async fn remove(&self) -> Result<()> {
        for name in &self.names {
            let _ = self.remove_one(name).await;
        }
        Ok(())
    }
}

/// A program that backs up containers of the tests' engine.
pub async fn standalone(name: &str) -> Result<Standalone> {
    let mut standalone = Standalone::prepare(name)?.with_env(
        "NORA_BACKUP_DOCKER_HOST",
        services::address("NORA_TEST_DOCKER_HOST"),
    );
    standalone.launch().await?;
    Ok(standalone)
}

/// Registers an agent in a container, with an integration.
pub async fn register(
    api: &mut Api,
    agent_id: &str,
    container: &str,
    paths: &[&str],
    consistency: Consistency,
    hooks: Option<Hooks>,
) -> Result<Agent> {
    let docker = DockerSource {
        container: container.to_owned(),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        consistency: consistency.into(),
        hooks,
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
