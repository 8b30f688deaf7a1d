//! The services themselves: private, stopped whole, and started anew after a
//! crash.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, StartContainerOptions,
    },
};
use rustix::process::{Pid, Signal, kill_process};
use services::{
    place,
    services::{IMAGE, Services},
};

fn connect(services: &Services) -> Result<Docker> {
    let env = services.env()?;
    let host = env
        .get("NORA_TEST_DOCKER_HOST")
        .context("the engine's address")?;
    Ok(Docker::connect_with_unix(
        host.trim_start_matches("unix://"),
        60,
        API_DEFAULT_VERSION,
    )?)
}

/// Whether a process with this argument runs anywhere on this machine.
fn naps(nap: &str) -> bool {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            words
                .split(|byte| *byte == 0)
                .any(|word| word == nap.as_bytes())
        })
}

fn pid_of(folder: &Path) -> Result<i32> {
    let state: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("docker.json"))?)?;
    let pid = state["process"]["pid"].as_i64().context("a process id")?;
    Ok(i32::try_from(pid)?)
}

#[tokio::test]
async fn an_engine_that_was_killed_is_cleared_away_and_started_anew() -> Result<()> {
    // A second engine beside that of the other tests: they share nothing.
    let scratch = place::scratch("services");
    let folder = scratch.path().to_path_buf();
    // What tells its container's process from all others.
    let nap = rand::random_range(1_000_000_000..2_000_000_000_u32).to_string();
    let services = || Services::at(folder.clone());
    let outcome = async {
        tokio::task::spawn_blocking({
            let services = services();
            move || services.up()
        })
        .await??;
        let docker = connect(&services())?;
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(vec!["/bin/sleep".into(), nap.clone()]),
            ..ContainerCreateBody::default()
        };
        let name = CreateContainerOptionsBuilder::new().name("napper").build();
        docker.create_container(Some(name), body).await?;
        docker
            .start_container("napper", None::<StartContainerOptions>)
            .await?;
        // A frozen process does not even die of SIGKILL.
        docker.pause_container("napper").await?;
        ensure!(naps(&nap), "it runs, frozen");

        let pid = Pid::from_raw(pid_of(&folder)?).context("a process id")?;
        kill_process(pid, Signal::KILL)?;
        while services().status()?.iter().any(|(_, running)| *running) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        tokio::task::spawn_blocking({
            let services = services();
            move || services.up()
        })
        .await??;
        ensure!(!naps(&nap), "what the first engine ran is gone");
        let all = ListContainersOptionsBuilder::new().all(true).build();
        let containers = connect(&services())?.list_containers(Some(all)).await?;
        ensure!(containers.is_empty(), "the new one begins empty");
        anyhow::Ok(())
    }
    .await;
    tokio::task::spawn_blocking({
        let services = services();
        move || services.down()
    })
    .await??;
    outcome?;
    assert!(services().status()?.iter().all(|(_, running)| !running));
    assert!(!folder.join("docker/data").exists());
    Ok(())
}
