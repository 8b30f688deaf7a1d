//! Agents in containers, on a real Docker Engine: what is the container's own
//! comes back in a new one, and the original is left alone.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bollard::models::ContainerInspectResponse;
use proto::backup::v1::{
    Backup, Consistency, DockerTarget, HookCommand, Hooks, Phase, Restore, RestorePlan,
    StartRestoreRequest, backup, restore, restore_plan,
};
use services::{
    api::Api,
    containers::{Agents, OWNER, register, standalone},
};

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
        None,
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
        None,
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
        None,
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
        None,
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
        None,
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

#[tokio::test]
async fn the_command_after_a_backup_runs_also_when_the_worker_is_killed() -> Result<()> {
    let mut agents = Agents::connect()?;
    agents.create("nora-hooked").await?;
    let outcome = killed_around_commands(&agents).await;
    agents.remove().await?;
    outcome
}

async fn killed_around_commands(agents: &Agents) -> Result<()> {
    let command = |what: &str| HookCommand {
        argv: vec![
            "/bin/sh".into(),
            "-c".into(),
            format!("echo {what} >> /data/commands"),
        ],
        ..HookCommand::default()
    };
    let mut program = standalone("docker-hooks").await?;
    let hooks = Hooks {
        before: Some(command("before")),
        after: Some(command("after")),
        continue_on_error: false,
    };
    register(
        &mut program.control_plane().await?,
        "hooked",
        "nora-hooked",
        &["/data"],
        Consistency::Pause,
        Some(hooks),
    )
    .await?;
    for failpoint in ["worker-before-hook", "worker-hooked"] {
        agents.run("nora-hooked", ": > /data/commands").await?;
        program.stop()?;
        program.set_env("FAILPOINTS", format!("{failpoint}=pause"));
        program.launch().await?;
        let mut user = program.user(OWNER).await?;
        let created = user.create_backup("hooked").await?;
        program.wait_until_quiet().await?;
        program.kill()?;
        program.remove_env("FAILPOINTS");
        program.launch().await?;
        let mut user = program.user(OWNER).await?;
        let ended = user.watch_backup(&created.backup_id, |_| false).await?;
        assert_eq!(
            ended.state(),
            backup::State::Completed,
            "{:?}",
            ended.failure
        );
        let said = agents.run("nora-hooked", "cat /data/commands").await?;
        // The dead attempt's is run first, then both of the next attempt.
        let expected = match failpoint {
            "worker-before-hook" => "after\nbefore\nafter\n",
            _ => "before\nafter\nbefore\nafter\n",
        };
        assert_eq!(said, expected, "{failpoint}");
    }

    // Killed, and canceled before the next attempt: whoever clears up runs it.
    agents.run("nora-hooked", ": > /data/commands").await?;
    program.stop()?;
    program.set_env("FAILPOINTS", "worker-hooked=pause".to_owned());
    program.launch().await?;
    let mut user = program.user(OWNER).await?;
    let created = user.create_backup("hooked").await?;
    program.wait_until_quiet().await?;
    let request = proto::backup::v1::CancelBackupRequest {
        backup_id: created.backup_id.clone(),
    };
    user.backups.cancel_backup(request).await?;
    program.kill()?;
    program.remove_env("FAILPOINTS");
    program.launch().await?;
    let mut user = program.user(OWNER).await?;
    let ended = user.watch_backup(&created.backup_id, |_| false).await?;
    assert_eq!(ended.state(), backup::State::Canceled);
    for _ in 0..1_200 {
        if agents.run("nora-hooked", "cat /data/commands").await? == "before\nafter\n" {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the command after was never run")
}
