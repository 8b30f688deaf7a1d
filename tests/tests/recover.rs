//! `nora-backup recover` through the real program: what is left when everything but the
//! storage and the key is lost, or when the storage itself has lost something.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result};
use proto::backup::v1::{Agent, DirectorySource, Integration, Source, backup, source};
use serde_json::Value;
use services::{
    api::{Api, expect_state},
    cli::{command, said},
    fixture,
    standalone::{KEY, Standalone},
    tree::{assert_same, describe},
};

const OWNER: &str = "user-1";

/// `nora-backup recover` with nothing but the destination and a key.
fn recover(standalone: &Standalone, key: &str, arguments: &[&str]) -> Result<Output> {
    let mut command: Command = command(&standalone.outside_dir("home"))?;
    command
        .env("NORA_BACKUP_DIR", standalone.destination())
        .env("NORA_BACKUP_ENCRYPTION_KEY", key)
        .arg("recover")
        .args(arguments);
    Ok(command.output()?)
}

fn ok(standalone: &Standalone, arguments: &[&str]) -> Result<String> {
    let output = recover(standalone, KEY, arguments)?;
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    Ok(String::from_utf8(output.stdout)?)
}

fn json(standalone: &Standalone, arguments: &[&str]) -> Result<Value> {
    let text = ok(standalone, &[arguments, &["--json"]].concat())?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

/// A standalone with an agent that has integrations and two backups.
async fn with_backups(name: &str) -> Result<(Standalone, Api, [proto::backup::v1::Backup; 2])> {
    let standalone = Standalone::start(name).await?;
    let root = standalone.agent_dir("agent");
    fixture::every_kind(&root)?;
    fixture::random_files(&root, 40, 300_000, 1)?;
    let path = root.to_str().context("UTF-8")?.to_owned();
    let agent = Agent {
        agent_id: "agent".to_owned(),
        display_name: "The agent".to_owned(),
        owner_id: OWNER.to_owned(),
        workspace_id: "workspace-1".to_owned(),
        source: Some(Source {
            kind: Some(source::Kind::Directory(DirectorySource { path })),
        }),
        integrations: vec![Integration {
            r#type: "slack".to_owned(),
            name: "support".to_owned(),
            config_json: r#"{"channel":"C1"}"#.to_owned(),
        }],
        ..Agent::default()
    };
    standalone.control_plane().await?.register(agent).await?;
    let mut user = standalone.user(OWNER).await?;
    let first = user.complete_backup("agent").await?;
    fs::write(root.join("later"), "written between the two")?;
    let second = user.complete_backup("agent").await?;
    Ok((standalone, user, [first, second]))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
async fn with_the_database_gone_everything_is_found_and_the_service_goes_on() -> Result<()> {
    let (mut standalone, mut user, [first, second]) = with_backups("recover").await?;
    let before = describe(&standalone.agent_dir("agent"))?;
    let (download, _) = user.download(&second.backup_id, 0, "").await?;
    standalone.stop()?;
    standalone.lose_database()?;

    let agents = json(&standalone, &["agents"])?;
    let agent = &agents["agents"][0];
    assert_eq!(agent["agent_id"], "agent");
    assert_eq!(agent["display_name"], "The agent");
    assert_eq!(
        (&agent["owner_id"], &agent["backups"]),
        (&OWNER.into(), &2.into())
    );
    let backups = json(&standalone, &["backups", "agent"])?;
    assert_eq!(backups["backups"][0]["backup_id"], first.backup_id.as_str());
    assert_eq!(backups["backups"][1]["sequence"], 2);
    assert_eq!(backups["backups"][1]["size_bytes"], second.size_bytes);
    let verified = json(&standalone, &["verify", "agent", "--full"])?;
    assert_eq!(verified["backups"][1]["right"], true, "{verified}");

    let to = standalone.outside_dir("by-hand");
    let said = json(&standalone, &["restore", "agent@latest", "--to", text(&to)])?;
    assert_eq!(said["complete"], true, "{said}");
    assert_same(&before, &describe(&to)?);
    let beside = fs::read_to_string(standalone.outside_dir("by-hand.agent.json"))?;
    let beside: Value = serde_json::from_str(&beside)?;
    assert_eq!(beside["integrations"][0]["name"], "support");
    let archive = standalone.outside_dir("agent.tar.zst");
    let named = format!("agent@{}", &second.backup_id);
    ok(&standalone, &["export", &named, "--to", text(&archive)])?;
    assert!(
        fs::read(&archive)? == download,
        "other bytes than the download"
    );

    // The database is made again, once.
    let url = format!(
        "sqlite:{}",
        standalone.data_dir().join("catalog.db").display()
    );
    let dry = ["catalog", "--database-url", &url, "--dry-run"];
    assert_eq!(json(&standalone, &dry)?["changed"], false);
    let made = json(&standalone, &["--catalog", "--database-url", &url])?;
    let added = made["agents"][0]["backups_added"].as_array().map(Vec::len);
    assert_eq!(added, Some(2), "{made}");
    let again = json(&standalone, &["catalog", "--database-url", &url])?;
    assert_eq!(again["agents"][0]["backups_known"], 2, "{again}");
    assert_eq!(again["agents"][0]["agent_added"], false);

    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    let found = user.backup(&second.backup_id).await?;
    expect_state(&found, backup::State::Completed)?;
    assert_eq!(
        (found.size_bytes, found.name),
        (second.size_bytes, second.name)
    );
    let target = standalone.agent_dir("restored");
    user.restore_directory(&second.backup_id, "restored", &target)
        .await?;
    assert_same(&before, &describe(&target)?);
    // The vault goes on where it was.
    let third = user.complete_backup("agent").await?;
    assert!(third.stored_bytes < 200_000, "{}", third.stored_bytes);
    let backups = json(&standalone, &["backups", "agent"])?;
    assert_eq!(backups["backups"][2]["sequence"], 3);
    Ok(())
}

#[tokio::test]
async fn what_is_damaged_is_named_and_the_rest_comes_back() -> Result<()> {
    let (mut standalone, _, [first, second]) = with_backups("recover-damaged").await?;
    standalone.stop()?;
    let root = standalone.agent_dir("agent");
    let vault = standalone.destination().join("vaults/agent");
    for index in fs::read_dir(vault.join("indexes"))? {
        fs::write(index?.path(), "no index")?;
    }
    let mut packs: Vec<_> = fs::read_dir(vault.join("packs"))?
        .map(|pack| Ok(pack?.path()))
        .collect::<Result<_>>()?;
    packs.sort_by_key(|pack| fs::metadata(pack).map_or(0, |m| m.len()));
    let largest = packs.pop().context("a pack")?;
    let mut bytes = fs::read(&largest)?;
    bytes[3_000_000] ^= 1;
    fs::write(&largest, bytes)?;
    fs::write(
        vault.join("backups").join(format!("{}.1", first.backup_id)),
        "?",
    )?;

    let to = standalone.outside_dir("rest");
    let arguments = ["restore", "agent", "--to", text(&to), "--json"];
    let output = recover(&standalone, KEY, &arguments)?;
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let lost = report["lost"].as_array().context("lost")?;
    assert!((1..20).contains(&lost.len()), "{report}");
    let pack = text(Path::new(largest.file_name().context("a name")?)).to_owned();
    for loss in lost {
        let path = loss["path"].as_str().context("path")?;
        assert!(
            root.join(path).exists() && !to.join(path).exists(),
            "{loss}"
        );
        assert!(
            loss["reason"]
                .as_str()
                .is_some_and(|why| why.contains(&pack))
        );
    }
    let present = describe(&to)?;
    let expected = describe(&root)?;
    let differences = services::tree::differences(&expected, &present);
    assert!(differences.len() <= lost.len(), "{differences:?}");
    assert!(!differences.is_empty());

    let output = recover(&standalone, KEY, &["verify", "agent", "--full"])?;
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    let words = said(&output);
    assert!(
        words.contains(&pack) && words.contains(&first.backup_id),
        "{words}"
    );
    let archive = standalone.outside_dir("agent.tar.zst");
    let arguments = ["export", "agent@latest", "--to", text(&archive)];
    let output = recover(&standalone, KEY, &arguments)?;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("recover restore") && !archive.exists());
    let output = recover(&standalone, KEY, &["backups", "agent"])?;
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert!(said(&output).contains(&second.backup_id));
    Ok(())
}

#[tokio::test]
async fn a_wrong_key_is_told_which_one_is_needed() -> Result<()> {
    let (mut standalone, ..) = with_backups("recover-key").await?;
    standalone.stop()?;
    let agents = json(&standalone, &["agents"])?;
    let needed = agents["agents"][0]["key_ids"][0]
        .as_str()
        .context("an id")?
        .to_owned();
    let wrong = "aa".repeat(32);
    let output = recover(&standalone, &wrong, &["agents"])?;
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert!(said(&output).contains(&needed) && !said(&output).contains(&wrong));
    let to = standalone.outside_dir("nothing");
    let arguments = ["restore", "agent", "--to", text(&to)];
    let output = recover(&standalone, &wrong, &arguments)?;
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains(&needed) && !to.exists());
    let output = recover(&standalone, KEY, &["restore", "nobody", "--to", text(&to)])?;
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    Ok(())
}

#[tokio::test]
async fn a_database_that_knows_otherwise_is_left_alone_unless_told() -> Result<()> {
    let (mut standalone, ..) = with_backups("recover-conflict").await?;
    standalone.stop()?;
    let url = format!("sqlite:{}", standalone.outside_dir("other.db").display());
    json(&standalone, &["catalog", "--database-url", &url])?;
    let agent_of = |owner: &str| {
        let path = standalone.outside_dir("other.db");
        let script = format!("UPDATE agents SET owner_id = '{owner}'");
        (path, script)
    };
    let (path, script) = agent_of("somebody-else");
    let database = sea_orm::Database::connect(format!("sqlite:{}", path.display())).await?;
    sea_orm::ConnectionTrait::execute_unprepared(&database, &script).await?;
    database.close().await?;
    let arguments = ["catalog", "--database-url", &url];
    let output = recover(&standalone, KEY, &arguments)?;
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    let words = said(&output);
    assert!(
        words.contains("somebody-else") && words.contains("nothing was changed"),
        "{words}"
    );
    json(
        &standalone,
        &["catalog", "--database-url", &url, "--replace"],
    )?;
    json(&standalone, &arguments)?;
    Ok(())
}

#[tokio::test]
async fn a_destination_that_has_lost_a_vault_is_not_begun_anew() -> Result<()> {
    let (standalone, mut user, [_, second]) = with_backups("rolled-back").await?;
    let vault = standalone.destination().join("vaults/agent");
    let aside = standalone.destination().join("aside");
    fs::rename(&vault, &aside)?;
    let failed = user.make_backup("agent").await?;
    expect_state(&failed, backup::State::Failed)?;
    let failure = failed.failure.context("a failure")?;
    assert_eq!(failure.reason, "VAULT_ROLLED_BACK", "{}", failure.message);
    assert!(
        failure.message.contains("right destination"),
        "{}",
        failure.message
    );
    assert!(!vault.exists());
    fs::rename(&aside, &vault)?;

    // One manifest goes: the next backup says so, and its number goes on.
    let manifest = vault
        .join("backups")
        .join(format!("{}.1", second.backup_id));
    let bytes = fs::read(&manifest)?;
    fs::remove_file(&manifest)?;
    let next = user.complete_backup("agent").await?;
    let found = user.backup(&second.backup_id).await?;
    let kept = found.verify_failure.context("kept with the backup")?;
    assert_eq!(kept.reason, "OBJECT_MISSING", "{}", kept.message);
    assert!(!next.warnings.is_empty());
    fs::write(&manifest, bytes)?;
    let listed = json(&standalone, &["backups", "agent"])?;
    assert_eq!(listed["backups"][2]["sequence"], 3, "{listed}");
    Ok(())
}
