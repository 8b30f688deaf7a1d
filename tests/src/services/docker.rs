//! A private Docker Engine.
//!
//! It runs in namespaces of its own (processes, mounts, network), so it shares
//! nothing with another engine on this machine, and the end of its first process
//! is the end of everything it started. Only frozen containers outlive that: they
//! are thawed first.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bollard::{
    API_DEFAULT_VERSION, Docker, body_full, query_parameters::CreateImageOptionsBuilder,
};
use futures::TryStreamExt as _;

use super::{Note, READY_MS_MAX, Started, image, packages, process::Identity};

/// The image that test containers are made from.
pub const IMAGE: &str = "nora-test-agent:latest";
/// The variable that carries the engine's address.
const HOST_VARIABLE: &str = "NORA_TEST_DOCKER_HOST";
/// A socket's path has at most 107 bytes; the engine's own containerd adds this
/// much to the folder it is given.
const SOCKET_PATH_BYTES_MAX: usize = 107;
const LONGEST_SOCKET: &str = "exec/containerd/containerd-debug.sock";
/// How long the engine may take to end once killed.
const KILL_MS_MAX: u64 = 20_000;
/// How often its socket is tried.
const TRY_MS: u64 = 50;

/// The engine must not find the machine's own containerd: it starts its own then.
const SCRIPT: &str = r#"
mkdir -p /run/containerd && mount -t tmpfs -o mode=711 tmpfs /run/containerd || exit 1
exec "$@"
"#;

pub(super) fn start(folder: &Path, note: &mut Note<'_>) -> Result<Started> {
    if !rustix::process::geteuid().is_root() {
        bail!("a Docker Engine can only be started by root");
    }
    let engine = packages::find_or_install("dockerd", "docker.io")?;
    let busybox = static_busybox()?;
    let run_dir = run_dir(folder);
    fs::create_dir_all(&run_dir).with_context(|| format!("make {}", run_dir.display()))?;
    let socket = run_dir.join("docker.sock");
    let log_path = folder.join("log");
    let log = File::create(&log_path).with_context(|| format!("open {}", log_path.display()))?;

    let mut command = Command::new("unshare");
    command
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            SCRIPT,
            "sh",
        ])
        .arg(engine)
        .arg("--host")
        .arg(format!("unix://{}", socket.display()))
        .arg("--data-root")
        .arg(folder.join("data"))
        .arg("--exec-root")
        .arg(run_dir.join("exec"))
        .arg("--pidfile")
        .arg(run_dir.join("pid"))
        .arg("--cgroup-parent")
        .arg(format!("/{}", cgroup_name(folder)))
        // Its network is its own and leads nowhere: no rules are needed.
        .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false"])
        .args(["--group", "root", "--shutdown-timeout", "1"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Apart from the terminal's Ctrl-C: it ends by `stop`.
        .process_group(0);
    let child = command.spawn().context("run unshare")?;

    let host = format!("unix://{}", socket.display());
    let mut started = Started {
        process: Identity::of(child.id().cast_signed())?,
        children: Vec::new(),
        run_dir,
        env: BTreeMap::from([(HOST_VARIABLE.to_owned(), host)]),
    };
    note(&started)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let docker = wait_until_ready(&socket, &started, &log_path).await?;
        import_image(&docker, image::rootfs(&busybox)?).await
    })?;
    started.children = started.process.children();
    Ok(started)
}

pub(super) fn stop(folder: &Path, started: &Started) -> Result<()> {
    // unshare, and its child: the first process of the engine's own world.
    let children = [started.children.clone(), started.process.children()].concat();
    for process in children.iter().chain([&started.process]) {
        process.kill(KILL_MS_MAX, || thaw(&cgroup_name(folder)))?;
    }
    kill_members(&cgroup_name(folder))?;
    remove_cgroups(&cgroup_name(folder));
    for path in [&folder.join("data"), &started.run_dir] {
        match fs::remove_dir_all(path) {
            Ok(()) => {}
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(cause).with_context(|| format!("remove {}", path.display())),
        }
    }
    Ok(())
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
    PathBuf::from("/tmp").join(cgroup_name(folder))
}

/// A name of this engine's own, the same at each start.
fn cgroup_name(folder: &Path) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    format!("nora-test-{:016x}", hasher.finish())
}

async fn wait_until_ready(socket: &Path, started: &Started, log: &Path) -> Result<Docker> {
    let deadline = Instant::now() + Duration::from_millis(READY_MS_MAX);
    loop {
        if let Ok(docker) =
            Docker::connect_with_unix(&socket.to_string_lossy(), 60, API_DEFAULT_VERSION)
            && docker.ping().await.is_ok()
        {
            return Ok(docker.negotiate_version().await?);
        }
        if !started.process.is_alive() {
            bail!(
                "the Docker Engine ended at once; the end of {}:\n{}",
                log.display(),
                last_lines(log)
            );
        }
        if Instant::now() > deadline {
            bail!(
                "the Docker Engine does not answer; the end of {}:\n{}",
                log.display(),
                last_lines(log)
            );
        }
        tokio::time::sleep(Duration::from_millis(TRY_MS)).await;
    }
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

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
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
