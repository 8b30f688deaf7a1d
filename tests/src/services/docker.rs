//! A private Docker Engine.
//!
//! It runs in namespaces of its own (processes, mounts, network), so it shares
//! nothing with another engine on this machine, and the end of its first process
//! is the end of everything it started. Only frozen containers outlive that: they
//! are thawed first.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use bollard::{
    API_DEFAULT_VERSION, Docker, body_full, query_parameters::CreateImageOptionsBuilder,
};
use futures::TryStreamExt as _;

use super::{
    image,
    life::{Plan, Service, Started, own_name, remove, run_dir_away, text},
    packages,
    process::Identity,
    wire,
    world::Launch,
};

/// The image that test containers are made from.
pub const IMAGE: &str = "nora-test-agent:latest";
/// The variable that carries the engine's address.
const HOST_VARIABLE: &str = "NORA_TEST_DOCKER_HOST";
/// A socket's path has at most 107 bytes; the engine's own containerd adds this
/// much to the folder it is given.
const SOCKET_PATH_BYTES_MAX: usize = 107;
const LONGEST_SOCKET: &str = "exec/containerd/containerd-debug.sock";
/// How long a process may take to end once killed.
const KILL_MS_MAX: u64 = 20_000;

/// The engine must not find the machine's own containerd: it starts its own then.
const SETUP: &str = "mkdir -p /run/containerd && mount -t tmpfs -o mode=711 tmpfs /run/containerd";

pub(super) struct DockerEngine;

impl Service for DockerEngine {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn install(&self) -> Result<()> {
        packages::find_or_install("dockerd", "docker.io")?;
        static_busybox().map(|_| ())
    }

    fn prepare(&self, folder: &Path) -> Result<Plan> {
        let engine = packages::find_or_install("dockerd", "docker.io")?;
        let run_dir = run_dir(folder);
        fs::create_dir_all(&run_dir).with_context(|| format!("make {}", run_dir.display()))?;
        let host = format!("unix://{}", text(&run_dir.join("docker.sock"))?);
        let launch = Launch {
            namespaces: vec!["--net".into()],
            setup: SETUP.into(),
            ..Launch::new([
                text(&engine)?,
                format!("--host={host}"),
                format!("--data-root={}", text(&folder.join("data"))?),
                format!("--exec-root={}", text(&run_dir.join("exec"))?),
                format!("--pidfile={}", text(&run_dir.join("pid"))?),
                format!("--cgroup-parent=/{}", own_name(folder)),
                // Its network is its own and leads nowhere: no rules are needed.
                "--iptables=false".into(),
                "--ip6tables=false".into(),
                "--ip-masq=false".into(),
                "--group=root".into(),
                "--shutdown-timeout=1".into(),
            ])
        };
        Ok(Plan {
            launch,
            env: BTreeMap::from([(HOST_VARIABLE.to_owned(), host)]),
            run_dir: Some(run_dir),
        })
    }

    fn answers(&self, started: &Started) -> bool {
        socket(started).is_ok_and(|socket| {
            let ping = b"GET /_ping HTTP/1.0\r\n\r\n";
            let answer = wire::first_bytes_of_socket(&socket, ping, "HTTP/1.0 200".len());
            answer.is_some_and(|answer| answer.ends_with(b" 200"))
        })
    }

    fn fill(&self, _folder: &Path, started: &Started) -> Result<()> {
        let busybox = static_busybox()?;
        let socket = text(&socket(started)?)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let docker = Docker::connect_with_unix(&socket, 60, API_DEFAULT_VERSION)?;
            let docker = docker.negotiate_version().await?;
            import_image(&docker, image::rootfs(&busybox)?).await
        })
    }

    fn unblock(&self, folder: &Path) {
        thaw(&own_name(folder));
    }

    fn sweep(&self, folder: &Path, started: &Started) -> Result<()> {
        kill_members(&own_name(folder))?;
        remove_cgroups(&own_name(folder));
        // Sockets and ids of processes that are no more.
        if let Some(run_dir) = &started.run_dir {
            remove(run_dir)?;
            fs::create_dir_all(run_dir).with_context(|| format!("make {}", run_dir.display()))?;
        }
        Ok(())
    }
}

fn socket(started: &Started) -> Result<PathBuf> {
    let host = started.value(HOST_VARIABLE)?;
    Ok(PathBuf::from(host.trim_start_matches("unix://")))
}

fn static_busybox() -> Result<PathBuf> {
    let found = packages::find_or_install("busybox", "busybox-static")?;
    if image::is_static(&found)? {
        return Ok(found);
    }
    packages::install("busybox-static")?;
    let found = packages::find_or_install("busybox", "busybox-static")?;
    if !image::is_static(&found)? {
        bail!(
            "{} needs shared libraries, and busybox-static did not replace it",
            found.display()
        );
    }
    Ok(found)
}

/// Under the service's folder, unless sockets there would have too long a path.
fn run_dir(folder: &Path) -> PathBuf {
    let near = folder.join("run");
    if near.join(LONGEST_SOCKET).as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return near;
    }
    run_dir_away(folder)
}

async fn import_image(docker: &Docker, rootfs: Vec<u8>) -> Result<()> {
    let (repository, tag) = IMAGE.split_once(':').context("an image has a tag")?;
    let options = CreateImageOptionsBuilder::new()
        .from_src("-")
        .repo(repository)
        .tag(tag)
        .build();
    docker
        .create_image(Some(options), Some(body_full(rootfs.into())), None)
        .try_collect::<Vec<_>>()
        .await
        .with_context(|| format!("import {IMAGE}"))?;
    docker
        .inspect_image(IMAGE)
        .await
        .with_context(|| format!("find {IMAGE} after its import"))?;
    Ok(())
}

/// The engine's folders in every hierarchy of control groups.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut all = vec![root.join(name)];
    if let Ok(hierarchies) = fs::read_dir(root) {
        all.extend(hierarchies.flatten().map(|entry| entry.path().join(name)));
    }
    all.retain(|path| path.is_dir());
    all
}

fn children(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && !path.is_symlink())
        .collect()
}

/// Everything in the engine's control groups was started by it. Most of it has
/// ended with the engine already.
fn kill_members(name: &str) -> Result<()> {
    let mut members = Vec::new();
    for cgroup in cgroups(name) {
        for folder in children(&cgroup).into_iter().chain([cgroup]) {
            let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            members.extend(
                pids.lines()
                    .filter_map(|pid| Identity::of(pid.parse().ok()?).ok()),
            );
        }
    }
    for process in members {
        process.kill(KILL_MS_MAX, || thaw(name))?;
    }
    Ok(())
}

/// A frozen process does not die of SIGKILL before it is thawed.
fn thaw(name: &str) {
    for cgroup in cgroups(name) {
        for container in children(&cgroup) {
            let _ = fs::write(container.join("freezer.state"), "THAWED");
            let _ = fs::write(container.join("cgroup.freeze"), "0");
        }
    }
}

fn remove_cgroups(name: &str) {
    fn remove(cgroup: &Path) {
        for child in children(cgroup) {
            remove(&child);
        }
        let _ = fs::remove_dir(cgroup);
    }
    for cgroup in cgroups(name) {
        remove(&cgroup);
    }
}
