//! Keys through the whole program: rotated while backups run, killed at every step, with
//! replicas that hold the old key; and data keys that are destroyed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use proto::backup::v1::{
    Backup, DeregisterAgentRequest, ListKeysRequest, Phase,
    admin_service_client::AdminServiceClient, backup, key as shown_key, key_rotation,
};
use sea_orm::{ConnectionTrait as _, Database};
use services::{
    api::{self, Api, Authorized, expect_state, reason},
    cli::{command, said},
    fixture,
    fleet::{Fleet, Role},
    keys::{PREVIOUS, WRITING, begin_rotation, expect_rotated, key, rotate, watch_rotation},
    standalone::Standalone,
    tree::{Tree, assert_same, describe},
    vaults::{self, Objects},
};
use tonic::{Code, Status};

const OWNER: &str = "user-1";
/// The id of the key that the service writes with.
async fn writing_key(admin: &mut AdminServiceClient<Authorized>) -> Result<String> {
    let keys = admin.list_keys(ListKeysRequest {}).await?.into_inner().keys;
    let writing = keys
        .into_iter()
        .find(|key| key.role() == shown_key::Role::Writing);
    Ok(writing.context("a writing key")?.key_id)
}

/// `nora-backup recover` with nothing but the destination and one key.
fn recover(home: &Path, destination: &Path, key: &str, arguments: &[&str]) -> Result<Output> {
    let mut command: Command = command(home)?;
    command
        .env("NORA_BACKUP_DIR", destination)
        .env(WRITING, key)
        .arg("recover")
        .args(arguments);
    Ok(command.output()?)
}

/// This key alone opens every vault, or does not.
fn expect_opens(standalone: &Standalone, key: &str, opens: bool, when: &str) -> Result<()> {
    let home = standalone.outside_dir("home");
    let output = recover(&home, &standalone.destination(), key, &["agents"])?;
    ensure!(
        output.status.success() == opens,
        "{when}: {}",
        said(&output)
    );
    Ok(())
}

/// Agents with some files each, and one backup of each.
async fn with_agents(standalone: &Standalone, names: &[&str]) -> Result<Vec<(Backup, Tree)>> {
    let mut control = standalone.control_plane().await?;
    let mut user = standalone.user(OWNER).await?;
    let mut backups = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let root = standalone.agent_dir(name);
        fixture::random_files(&root, 6, 200_000, n as u64 + 1)?;
        control.register_directory(name, OWNER, &root).await?;
        let backup = user.complete_backup(name).await?;
        backups.push((backup, describe(&root)?));
    }
    Ok(backups)
}

async fn expect_restores(
    standalone: &Standalone,
    user: &mut Api,
    backups: &[(Backup, Tree)],
) -> Result<()> {
    for (backup, tree) in backups {
        let name = format!("restored-{}", backup.backup_id);
        let target = standalone.agent_dir(&name);
        user.restore_directory(&backup.backup_id, &name, &target)
            .await?;
        assert_same(tree, &describe(&target)?);
    }
    Ok(())
}

/// What is sealed under data keys.
fn data(mut objects: Objects) -> Objects {
    objects.folders.remove("keys");
    objects
}

#[tokio::test]
async fn keys_are_rotated_while_backups_run_and_the_old_one_is_not_needed_any_more() -> Result<()> {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let mut standalone = Standalone::start("keys").await?;
    let mut backups = with_agents(&standalone, &NAMES).await?;
    standalone.stop()?;
    let before = data(vaults::objects(&standalone.destination(), "d")?);

    // Twice in a row, each time while a backup runs.
    for n in 1..3 {
        standalone.set_env(WRITING, key(n));
        standalone.set_env(PREVIOUS, key(n - 1));
        standalone.set_env("FAILPOINTS", "vault-pack-stored=sleep(700)");
        standalone.launch().await?;
        let mut running = standalone.user(OWNER).await?;
        let mut admin = standalone.administrators().await?;
        let name = NAMES[n - 1];
        let root = standalone.agent_dir(name);
        fixture::random_files(&root.join("bulk"), 12, 8 << 20, n as u64)?;
        let created = running.create_backup(name).await?;
        running.watch_backup(&created.backup_id, is_moving).await?;
        let added = rotate(&mut admin, false).await?;
        assert_eq!(
            (added.vaults_done, added.vaults_changed),
            (4, 4),
            "{added:?}"
        );
        rotate(&mut admin, true).await?;
        let meanwhile = running.backup(&created.backup_id).await?;
        expect_state(&meanwhile, backup::State::Running).context("it was rotated meanwhile")?;
        let ended = running.watch_backup(&created.backup_id, |_| false).await?;
        expect_state(&ended, backup::State::Completed)?;
        backups.push((ended, describe(&root)?));
        let keys = admin.list_keys(ListKeysRequest {}).await?.into_inner().keys;
        let old = keys
            .iter()
            .find(|key| key.role() == shown_key::Role::Previous);
        let old = old.context("the previous key is listed")?;
        assert_eq!((old.vaults, old.vaults_only), (0, 0), "{old:?}");
        standalone.stop()?;
        expect_opens(&standalone, &key(n), true, "the new key")?;
        expect_opens(&standalone, &key(n - 1), false, "the old key")?;
    }
    let after = data(vaults::objects(&standalone.destination(), "d")?);
    assert_eq!(before, after, "data is not touched");

    standalone.remove_env(PREVIOUS);
    standalone.remove_env("FAILPOINTS");
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let needed = writing_key(&mut standalone.administrators().await?).await?;
    expect_restores(&standalone, &mut user, &backups).await?;
    user.complete_backup("d").await?;
    standalone.stop()?;

    // With another key, what is needed is named.
    standalone.set_env(WRITING, key(9));
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let failed = user.make_backup("d").await?;
    let failure = failed.failure.context("a failure")?;
    assert_eq!(failure.reason, "KEY_NOT_CONFIGURED");
    assert!(failure.message.contains(&needed), "{}", failure.message);
    let error = user.entries(&backups[0].0.backup_id).await;
    let error = error.expect_err("not readable");
    let status = error.downcast_ref::<Status>().context("a status")?;
    assert_eq!(reason(status), "KEY_NOT_CONFIGURED");
    assert!(status.message().contains(&needed), "{status:?}");
    for n in 0..10 {
        assert!(!standalone.log().contains(&key(n)), "a key in the log");
    }
    Ok(())
}

fn is_moving(backup: &Backup) -> bool {
    let progress = backup.progress.as_ref();
    progress.is_some_and(|p| p.phase() == Phase::Transferring && p.bytes_done > 0)
}

/// Killed at each step of both parts of a rotation; each goes on from the key that the one
/// before has brought.
#[tokio::test]
async fn a_rotation_killed_at_any_step_goes_on_and_every_vault_opens_meanwhile() -> Result<()> {
    const FAILPOINTS: [&str; 6] = [
        "vault-rewrap-before-put",
        "vault-rewrap-stored",
        "worker-rotate-vault",
        "worker-rotate-noted",
        "worker-rotate-before-complete",
        "worker-rotate-completed",
    ];
    let mut standalone = Standalone::start("keys-killed").await?;
    let backups = with_agents(&standalone, &["a", "b", "c"]).await?;
    standalone.stop()?;
    for (n, failpoint) in FAILPOINTS.iter().enumerate() {
        let (old, new) = (key(n), key(n + 1));
        standalone.set_env(WRITING, &new);
        standalone.set_env(PREVIOUS, &old);
        for retire in [false, true] {
            let when = format!("{failpoint}, retiring: {retire}");
            standalone.set_env("FAILPOINTS", format!("{failpoint}=pause"));
            standalone.launch().await?;
            let mut admin = standalone.administrators().await?;
            let begun = begin_rotation(&mut admin, retire).await?;
            standalone.wait_until_quiet().await?;
            standalone.kill()?;
            // What is there opens with the one that opened it before.
            let alone = if retire { &new } else { &old };
            expect_opens(&standalone, alone, true, &when)?;
            standalone.remove_env("FAILPOINTS");
            standalone.launch().await?;
            let mut admin = standalone.administrators().await?;
            let ended = watch_rotation(&mut admin, &begun.rotation_id).await?;
            expect_rotated(&ended).context(when.clone())?;
            assert_eq!(ended.vaults_done, 3, "{when}: {ended:?}");
            standalone.stop()?;
            expect_opens(&standalone, &new, true, &when)?;
            expect_opens(&standalone, &old, !retire, &when)?;
        }
        // Those that were killed count as there for two minutes: these pass.
        let path = standalone.data_dir().join("catalog.db");
        let database = Database::connect(format!("sqlite:{}", path.display())).await?;
        for table in ["key_holders", "workers"] {
            let script = format!("UPDATE {table} SET seen_time_ms = seen_time_ms - 120001");
            database.execute_unprepared(&script).await?;
        }
        database.close().await?;
    }
    standalone.remove_env(PREVIOUS);
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    expect_restores(&standalone, &mut user, &backups).await
}

#[tokio::test]
async fn while_a_replica_writes_with_the_old_key_it_is_not_retired() -> Result<()> {
    let mut fleet = Fleet::start("keys-fleet", 1, 2).await?;
    for (n, name) in ["a", "b", "late"].into_iter().enumerate() {
        fixture::random_files(&fleet.agent_dir(name), 4, 100_000, n as u64 + 1)?;
    }
    fleet.register("a", OWNER).await?;
    fleet.register("b", OWNER).await?;
    let mut user = fleet.user(0, OWNER).await?;
    let mut backups = vec![
        user.complete_backup("a").await?,
        user.complete_backup("b").await?,
    ];
    // One worker stays as it is, and does not even know the new key.
    let workers = fleet.numbers(Role::Worker);
    let (renewed, behind) = (workers[0], workers[1]);
    for number in [0, renewed] {
        fleet.members[number].stop()?;
        fleet.members[number].set_env(WRITING, key(1));
        fleet.members[number].set_env(PREVIOUS, key(0));
    }
    fleet.launch().await?;
    let mut admin = api::administrators(&fleet.members[0].admin_url()).await?;
    rotate(&mut admin, false).await?;
    let status = begin_rotation(&mut admin, true).await;
    let status = status.expect_err("a worker writes with the old key");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason(&status), "KEY_NOT_HELD", "{status:?}");

    // It goes on working: what is there still opens with the old key, and a new vault is
    // under that alone.
    fleet.members[renewed].stop()?;
    let mut user = fleet.user(0, OWNER).await?;
    backups.push(user.complete_backup("a").await?);
    fleet.register("late", OWNER).await?;
    backups.push(user.complete_backup("late").await?);
    fleet.members[behind].stop()?;
    fleet.members[behind].set_env(WRITING, key(1));
    fleet.members[behind].set_env(PREVIOUS, key(0));
    fleet.launch().await?;

    // Everyone holds it, and one vault is not under it yet: nothing is taken away.
    let begun = begin_rotation(&mut admin, true).await?;
    let refused = watch_rotation(&mut admin, &begun.rotation_id).await?;
    assert_eq!(refused.state(), key_rotation::State::Failed);
    let failure = refused.failure.context("a failure")?;
    assert_eq!(failure.reason, "KEYS_NOT_ROTATED", "{}", failure.message);
    assert!(failure.message.contains("late"), "{}", failure.message);
    let home = fleet.agent_dir("home");
    let opens = |fleet: &Fleet, n| -> Result<bool> {
        let output = recover(&home, &fleet.destination(), &key(n), &["agents"])?;
        Ok(output.status.success())
    };
    assert!(opens(&fleet, 0)?, "the old key still opens everything");
    rotate(&mut admin, false).await?;
    rotate(&mut admin, true).await?;
    assert!(opens(&fleet, 1)? && !opens(&fleet, 0)?);

    // The old key goes out of the configuration.
    for number in 0..fleet.members.len() {
        fleet.members[number].stop()?;
        fleet.members[number].set_env(PREVIOUS, "");
    }
    fleet.launch().await?;
    let mut user = fleet.user(0, OWNER).await?;
    for backup in &backups {
        let name = format!("restored-{}", backup.backup_id);
        let target = fleet.agent_dir(&name);
        let plan = api::directory_plan(&name, &target)?;
        let draft = user.draft_restore(&backup.backup_id, plan).await?;
        user.start_restore(&draft.restore_id).await?;
        let ended = user.watch_restore(&draft.restore_id, |_| false).await?;
        ensure!(ended.failure.is_none(), "{:?}", ended.failure);
        assert_same(
            &describe(&fleet.agent_dir(&backup.agent_id))?,
            &describe(&target)?,
        );
    }
    Ok(())
}

#[tokio::test]
async fn keys_come_from_files_and_commands_and_are_told_nowhere() -> Result<()> {
    let mut standalone = Standalone::start("keys-from").await?;
    let backups = with_agents(&standalone, &["a"]).await?;
    standalone.stop()?;
    let old = standalone.outside_dir("old-keys");
    fs::write(&old, format!("# rotated in spring\n\n{}\n", key(0)))?;
    fs::set_permissions(&old, fs::Permissions::from_mode(0o600))?;
    standalone.remove_env(WRITING);
    standalone.set_env(&format!("{WRITING}_COMMAND"), format!("echo {}", key(1)));
    standalone.set_env(&format!("{PREVIOUS}_FILE"), old.display().to_string());
    standalone.launch().await?;
    rotate(&mut standalone.administrators().await?, false).await?;
    standalone.stop()?;
    let logged = standalone.log();

    let new = standalone.outside_dir("new-key");
    fs::write(&new, key(1))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    standalone.remove_env(&format!("{WRITING}_COMMAND"));
    standalone.remove_env(&format!("{PREVIOUS}_FILE"));
    standalone.set_env(&format!("{WRITING}_FILE"), new.display().to_string());
    standalone.set_env(
        &format!("{PREVIOUS}_COMMAND"),
        format!("echo '#'; echo {}", key(0)),
    );
    standalone.launch().await?;
    rotate(&mut standalone.administrators().await?, true).await?;
    let mut user = standalone.user(OWNER).await?;
    expect_restores(&standalone, &mut user, &backups).await?;
    standalone.stop()?;
    expect_opens(&standalone, &key(1), true, "from a file")?;

    // A command that fails says why, and no key.
    standalone.remove_env(&format!("{WRITING}_FILE"));
    let failing = format!("echo {}; echo the safe is sealed >&2; exit 3", key(1));
    standalone.set_env(&format!("{WRITING}_COMMAND"), failing);
    let (status, words) = standalone.launch_refused()?;
    assert!(!status.success());
    let named = words.contains("NORA_BACKUP_ENCRYPTION_KEY_COMMAND");
    assert!(named && words.contains("the safe is sealed"), "{words}");
    for n in 0..2 {
        assert!(!words.contains(&key(n)) && !logged.contains(&key(n)));
    }
    Ok(())
}

/// Returns when a backup is gone for good: the end of it is no event.
async fn expect_forgotten(user: &mut Api, backup_id: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_mins(1);
    while user.backup(backup_id).await.is_ok() {
        ensure!(
            Instant::now() < deadline,
            "backup {backup_id} is still there"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn an_erased_agent_loses_its_data_keys_first_wherever_it_is_killed() -> Result<()> {
    for failpoint in [
        "worker-erase-keys-noted",
        "worker-erase-keys-destroyed",
        "worker-erase-erased",
    ] {
        erased_at(failpoint).await.context(failpoint)?;
    }
    Ok(())
}

async fn erased_at(failpoint: &str) -> Result<()> {
    let mut standalone = Standalone::start(failpoint).await?;
    let backups = with_agents(&standalone, &["gone", "stays"]).await?;
    standalone.stop()?;
    let vault = standalone.destination().join("vaults/gone");
    // Somebody has a copy of the packs.
    let copied = standalone.outside_dir("copied");
    for folder in ["packs", "indexes", "backups"] {
        fixture::copy_all(
            &vault.join(folder),
            &copied.join("vaults/gone").join(folder),
        )?;
    }
    standalone.set_env("FAILPOINTS", format!("{failpoint}=pause"));
    standalone.launch().await?;
    let request = DeregisterAgentRequest {
        agent_id: "gone".to_owned(),
        crypto_erase: true,
        ..DeregisterAgentRequest::default()
    };
    let mut control = standalone.control_plane().await?;
    control.agents.deregister_agent(request).await?;
    standalone.wait_until_quiet().await?;
    standalone.kill()?;
    let left = vaults::objects(&standalone.destination(), "gone")?;
    let found = (
        left.count("keys"),
        left.count("packs") > 0,
        left.count("backups"),
    );
    let expected = match failpoint {
        "worker-erase-keys-noted" => (1, true, 1),
        "worker-erase-keys-destroyed" => (0, true, 1),
        _ => (0, false, 0),
    };
    assert_eq!(found, expected, "{left:#?}");

    standalone.remove_env("FAILPOINTS");
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    expect_forgotten(&mut user, &backups[0].0.backup_id).await?;
    let left = vaults::objects(&standalone.destination(), "gone")?;
    assert!(left.folders.is_empty(), "{left:#?}");
    user.restore_directory(
        &backups[1].0.backup_id,
        "restored",
        &standalone.agent_dir("restored"),
    )
    .await
    .context("others are not touched")?;
    // With the key-encryption key, and the copy of everything but `keys/`.
    let home = standalone.outside_dir("home");
    let to = standalone.outside_dir("nothing");
    let to_text = to.to_str().context("UTF-8")?;
    let arguments = ["restore", "gone", "--to", to_text];
    let output = recover(&home, &copied, &key(0), &arguments)?;
    let words = said(&output);
    ensure!(!output.status.success() && !to.exists(), "{words}");
    assert!(words.contains("keys/ objects are gone"), "{words}");

    // The same id begins anew, under another data key.
    let root = standalone.agent_dir("gone");
    let mut control = standalone.control_plane().await?;
    control.register_directory("gone", OWNER, &root).await?;
    user.complete_backup("gone").await?;
    let objects = vaults::objects(&standalone.destination(), "gone")?;
    assert_eq!(objects.count("keys"), 1);
    Ok(())
}
