//! Restores in place of the agent itself: whatever is killed when, it is the agent as it was or
//! as the backup has it, and what fails puts back what was there.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use bollard::{
    models::{ContainerCreateBody, ContainerInspectResponse, HostConfig},
    query_parameters::{
        CreateContainerOptionsBuilder, StartContainerOptions, UploadToContainerOptionsBuilder,
    },
};
use proto::backup::v1::{Backup, Consistency, Restore, RestoreInPlaceRequest, backup, restore};
use services::{
    cli::Cli,
    containers::{Agents, OWNER, register, standalone},
    services::IMAGE,
    standalone::Standalone,
};

const PATHS: &[&str] = &["/data", "/etc/agent.conf", "/opt/agent", "/home/agent"];

/// Steps between which a container is replaced, and whether the new one is in its place then.
const STEPS: &[(&str, bool)] = &[
    ("worker-restore-written", false),
    ("worker-in-place-aside", false),
    ("worker-in-place-stopped", false),
    ("worker-in-place-renamed", true),
    ("worker-restore-published", true),
    ("worker-restore-completed", true),
    ("worker-in-place-before-removal", true),
    ("worker-in-place-removed", true),
];

fn request(agent_id: &str, backup_id: &str) -> RestoreInPlaceRequest {
    RestoreInPlaceRequest {
        agent_id: agent_id.to_owned(),
        backup_id: backup_id.to_owned(),
        confirm_agent_id: agent_id.to_owned(),
        request_id: String::new(),
    }
}

async fn begin(program: &Standalone, agent_id: &str, backup_id: &str) -> Result<Restore> {
    let mut admin = program.administrators().await?;
    let answer = admin.restore_in_place(request(agent_id, backup_id)).await?;
    answer.into_inner().restore.context("a restore")
}

fn runs(found: &ContainerInspectResponse) -> bool {
    let state = found.state.as_ref();
    state.and_then(|state| state.running).unwrap_or_default()
}

/// Containers and volumes whose names hold one of these.
async fn left(agents: &Agents, parts: &[&str]) -> Result<Vec<String>> {
    let all = bollard::query_parameters::ListContainersOptionsBuilder::new()
        .all(true)
        .build();
    let containers = agents.docker.list_containers(Some(all)).await?;
    let volumes = agents
        .docker
        .list_volumes(None::<bollard::query_parameters::ListVolumesOptions>)
        .await?;
    let mut names: Vec<String> = containers
        .into_iter()
        .flat_map(|container| container.names.unwrap_or_default())
        .chain(
            volumes
                .volumes
                .into_iter()
                .flatten()
                .map(|volume| volume.name),
        )
        .filter(|found| parts.iter().any(|part| found.contains(part)))
        .collect();
    names.sort();
    Ok(names)
}

/// Waits until a container and one volume are all that is left of an agent.
async fn only_it_is_left(agents: &Agents, name: &str, agent_id: &str) -> Result<()> {
    let volumes = format!("nora-{agent_id}-");
    let mut found = Vec::new();
    for _ in 0..1_200 {
        found = left(agents, &[name, &volumes]).await?;
        if found.len() == 2 && found[0] == format!("/{name}") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("left are {found:?}")
}

/// A container that was backed up and has lived on since.
struct Life {
    program: Standalone,
    agents: Agents,
    name: &'static str,
    agent_id: &'static str,
    first: Backup,
}

impl Life {
    async fn new(name: &'static str, agent_id: &'static str) -> Result<Self> {
        let mut agents = Agents::connect()?;
        agents.create(name).await?;
        let program = standalone(name).await?;
        register(
            &mut program.control_plane().await?,
            agent_id,
            name,
            &[],
            Consistency::Live,
            None,
        )
        .await?;
        let first = program.user(OWNER).await?.complete_backup(agent_id).await?;
        Ok(Self {
            program,
            agents,
            name,
            agent_id,
            first,
        })
    }

    async fn live_on(&self) -> Result<()> {
        self.agents
            .run(
                self.name,
                "echo today > /data/memory.txt; echo later > /home/agent/work/later; rm -f /opt/agent/made",
            )
            .await?;
        Ok(())
    }

    async fn memory(&self) -> Result<String> {
        self.agents.run(self.name, "cat /data/memory.txt").await
    }
}

/// Waits until the engine shows that a step is reached; calls of it take their time, in which
/// the program is quiet as well.
async fn wait_for(
    agents: &Agents,
    name: &str,
    old: &str,
    failpoint: &str,
    restore_id: &str,
) -> Result<()> {
    let aside = format!("nora-replaced-{restore_id}.1");
    for _ in 0..600 {
        let there = agents.inspect(name).await.ok();
        let put_aside = agents.inspect(&aside).await.ok();
        let is_new = there.is_some_and(|found| found.id.as_deref() != Some(old));
        let is_reached = match failpoint {
            "worker-restore-written" => {
                let hidden = format!("nora-restore-{restore_id}.1");
                agents.inspect(&hidden).await.is_ok()
            }
            "worker-in-place-aside" => put_aside.is_some(),
            "worker-in-place-stopped" => put_aside.is_some_and(|found| !runs(&found)),
            "worker-in-place-removed" => is_new && put_aside.is_none(),
            _ => is_new,
        };
        if is_reached {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("{failpoint} is not reached")
}

/// A container whose program lies outside of what is backed up of it.
async fn create_with_program(agents: &mut Agents, name: &str) -> Result<()> {
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(vec!["/start".into()]),
        env: Some(vec!["PATH=/bin".into()]),
        stop_signal: Some("SIGKILL".to_owned()),
        host_config: Some(HostConfig {
            binds: Some(vec![format!("{name}-data:/data")]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    agents.docker.create_container(Some(options), body).await?;
    agents.names.push(name.to_owned());
    let script = b"#!/bin/sh\nexec /bin/sleep 100000\n";
    let mut header = tar::Header::new_ustar();
    header.set_path("start")?;
    header.set_mode(0o755);
    header.set_size(script.len() as u64);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, &script[..])?;
    let options = UploadToContainerOptionsBuilder::new().path("/").build();
    let archive = bollard::body_full(archive.into_inner()?.into());
    agents
        .docker
        .upload_to_container(name, Some(options), archive)
        .await?;
    agents
        .docker
        .start_container(name, None::<StartContainerOptions>)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_container_is_replaced_and_a_kill_at_any_step_leaves_one_of_both() -> Result<()> {
    let mut life = Life::new("nora-swapped", "swapped-agent").await?;
    let outcome = replaced_at_every_step(&mut life).await;
    life.agents.remove().await?;
    outcome
}

async fn replaced_at_every_step(life: &mut Life) -> Result<()> {
    let name = life.name;
    let before = life.agents.describe(name, PATHS).await?;
    let was = life.agents.inspect(name).await?;
    for (failpoint, is_replaced) in STEPS {
        life.live_on().await?;
        let now = life.agents.inspect(name).await?;
        life.program.stop()?;
        life.program
            .set_env("FAILPOINTS", format!("{failpoint}=pause"));
        life.program.launch().await?;
        let begun = begin(&life.program, life.agent_id, &life.first.backup_id).await?;
        let old = now.id.as_deref().unwrap_or_default();
        wait_for(&life.agents, name, old, failpoint, &begun.restore_id).await?;
        life.program.wait_until_quiet().await?;
        if *is_replaced {
            let found = life.agents.inspect(name).await?;
            assert_ne!(found.id, now.id, "{failpoint}");
        }
        life.program.kill()?;
        life.program.remove_env("FAILPOINTS");
        life.program.launch().await?;
        let mut user = life.program.user(OWNER).await?;
        let ended = user.watch_restore(&begun.restore_id, |_| false).await?;
        assert_eq!(
            ended.state(),
            restore::State::Completed,
            "{failpoint}: {:?}",
            ended.failure
        );

        let is = life.agents.inspect(name).await?;
        assert!(runs(&is), "{failpoint}: it ran, so it runs");
        let found = life.agents.describe(name, PATHS).await?;
        for (path, text) in &before {
            assert_eq!(found.get(path), Some(text), "{failpoint}: {path}");
        }
        assert_eq!(
            found.len(),
            before.len(),
            "{failpoint}: nothing since then is left"
        );
        let settings = |of: &ContainerInspectResponse| {
            let host = of.host_config.clone().unwrap_or_default();
            let config = of.config.clone().unwrap_or_default();
            (host.port_bindings, host.memory, config.env, config.cmd)
        };
        assert_eq!(settings(&is), settings(&was), "{failpoint}");
        // What is there no more: the old container, and its volume.
        only_it_is_left(&life.agents, name, life.agent_id).await?;
        assert_eq!(left(&life.agents, &[&ended.restore_id]).await?, [""; 0]);

        let safety = user.backup(&ended.safety_backup_id).await?;
        assert_eq!(
            (safety.state(), safety.trigger()),
            (backup::State::Completed, backup::Trigger::Safety)
        );
        assert!(!safety.protected);
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_started_is_put_back_also_when_that_is_killed() -> Result<()> {
    let mut life = Life::new("nora-put-back", "put-agent").await?;
    let outcome = put_back(&mut life).await;
    life.agents.remove().await?;
    outcome
}

async fn put_back(life: &mut Life) -> Result<()> {
    let name = life.name;
    create_with_program(&mut life.agents, "nora-with-program").await?;
    register(
        &mut life.program.control_plane().await?,
        "programmed",
        "nora-with-program",
        &["/data"],
        Consistency::Live,
        None,
    )
    .await?;
    let mut user = life.program.user(OWNER).await?;
    let write = "echo then > /data/memory.txt";
    life.agents.run("nora-with-program", write).await?;
    let first = user.complete_backup("programmed").await?;
    let write = "echo today > /data/memory.txt";
    life.agents.run("nora-with-program", write).await?;
    let was = life.agents.inspect("nora-with-program").await?;
    let steps = [
        "",
        "worker-in-place-freed",
        "worker-in-place-restarted",
        "worker-in-place-put-back",
    ];
    for failpoint in steps {
        life.program.stop()?;
        if !failpoint.is_empty() {
            // The first time is before anything was made.
            let first = if failpoint == "worker-in-place-put-back" {
                "1*off->"
            } else {
                ""
            };
            life.program
                .set_env("FAILPOINTS", format!("{failpoint}={first}pause"));
        }
        life.program.launch().await?;
        let begun = begin(&life.program, "programmed", &first.backup_id).await?;
        if !failpoint.is_empty() {
            life.program.wait_until_quiet().await?;
            life.program.kill()?;
            life.program.remove_env("FAILPOINTS");
            life.program.launch().await?;
        }
        let mut user = life.program.user(OWNER).await?;
        let ended = user.watch_restore(&begun.restore_id, |_| false).await?;
        assert_eq!(ended.state(), restore::State::Failed, "{failpoint}");
        let failure = ended.failure.unwrap_or_default();
        assert_eq!(
            failure.reason, "TARGET_UNUSABLE",
            "{failpoint}: {failure:?}"
        );
        assert!(
            failure.message.contains("is put back"),
            "{}",
            failure.message
        );
        let is = life.agents.inspect("nora-with-program").await?;
        assert_eq!((&is.id, runs(&is)), (&was.id, true), "{failpoint}");
        let memory = life
            .agents
            .run("nora-with-program", "cat /data/memory.txt")
            .await?;
        assert_eq!(memory, "today\n");
        let parts = [
            "nora-with-program",
            "nora-programmed-",
            ended.restore_id.as_str(),
        ];
        let names = left(&life.agents, &parts).await?;
        assert_eq!(
            names,
            ["/nora-with-program", "nora-with-program-data"],
            "{failpoint}"
        );
        let safety = user.backup(&ended.safety_backup_id).await?;
        assert!(safety.protected, "until a restore has succeeded");
    }
    // The agent goes on: the next backup, and the command line's restore of the other agent.
    let mut user = life.program.user(OWNER).await?;
    user.complete_backup("programmed").await?;
    life.live_on().await?;
    let cli = Cli::new(&life.program, "the-admin", "admin");
    let said = cli.ok(&[
        "admin",
        "restore-in-place",
        &life.first.backup_id,
        "--confirm",
        life.agent_id,
        "--watch",
    ])?;
    ensure!(said.contains("replaced agent put-agent"), "{said}");
    assert_eq!(life.memory().await?, "remembered\n");
    only_it_is_left(&life.agents, name, life.agent_id).await?;
    Ok(())
}

#[tokio::test]
async fn it_must_be_meant_and_its_safety_backup_must_succeed() -> Result<()> {
    let program = Standalone::start("in-place").await?;
    let root = program.agent_dir("agent");
    fs::create_dir_all(&root)?;
    fs::write(root.join("memory"), "old days")?;
    let mut control = program.control_plane().await?;
    control.register_directory("agent", OWNER, &root).await?;
    let other = program.agent_dir("other");
    fs::create_dir_all(&other)?;
    control.register_directory("other", OWNER, &other).await?;
    let mut user = program.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    fs::write(root.join("memory"), "today")?;

    let mut admin = program.administrators().await?;
    let mut unmeant = request("agent", &backup.backup_id);
    unmeant.confirm_agent_id = "agnet".to_owned();
    let refused = admin.restore_in_place(unmeant).await.unwrap_err();
    assert!(refused.message().contains("confirm_agent_id"), "{refused}");
    let anothers = admin
        .restore_in_place(request("other", &backup.backup_id))
        .await
        .unwrap_err();
    assert_eq!(services::api::reason(&anothers), "BACKUP_NOT_FOUND");

    // Idempotent, and one at a time.
    let mut keyed = request("agent", &backup.backup_id);
    keyed.request_id = "once".to_owned();
    let one = admin.restore_in_place(keyed.clone()).await?.into_inner();
    let again = admin.restore_in_place(keyed).await?.into_inner();
    let (one, again) = (one.restore.context("one")?, again.restore.context("again")?);
    assert_eq!(one.restore_id, again.restore_id);
    let ended = user.watch_restore(&one.restore_id, |_| false).await?;
    assert_eq!(
        ended.state(),
        restore::State::Completed,
        "{:?}",
        ended.failure
    );
    assert!(ended.in_place);
    assert_eq!(fs::read_to_string(root.join("memory"))?, "old days");
    let agent = control
        .agents
        .get_agent(proto::backup::v1::GetAgentRequest {
            agent_id: "agent".to_owned(),
        });
    let agent = agent.await?.into_inner().agent.context("the agent")?;
    assert!(agent.restore_id.is_empty(), "it is the same agent");
    // And back again, by the safety backup.
    let back = begin(&program, "agent", &ended.safety_backup_id).await?;
    user.watch_restore(&back.restore_id, |_| false).await?;
    assert_eq!(fs::read_to_string(root.join("memory"))?, "today");

    // No safety backup, no restore.
    fs::rename(&root, program.agent_dir("moved"))?;
    let begun = begin(&program, "agent", &backup.backup_id).await?;
    let ended = user.watch_restore(&begun.restore_id, |_| false).await?;
    assert_eq!(ended.state(), restore::State::Failed);
    assert_eq!(
        ended.failure.clone().unwrap_or_default().reason,
        "SAFETY_BACKUP_FAILED",
        "{:?}",
        ended.failure
    );
    assert!(!root.exists());
    Ok(())
}
