//! A lost database, made again from the vaults at several destinations.

use anyhow::{Context as _, Result, ensure};
use proto::backup::v1::{Destination, GetAgentRequest, backup_copy, destination::Kind};
use services::{
    cli::{command, said},
    standalone::{KEY, Standalone},
};

use crate::support::{OWNER, add, backed_up, copied, local, restores, s3};

/// The settings that lead to a destination.
fn environment(destination: &Destination) -> Vec<(&'static str, String)> {
    match &destination.kind {
        Some(Kind::Local(local)) => vec![("NORA_BACKUP_DIR", local.path.clone())],
        Some(Kind::S3(s3)) => vec![
            ("NORA_BACKUP_STORAGE", "s3".to_owned()),
            ("NORA_BACKUP_S3_BUCKET", s3.bucket.clone()),
            ("NORA_BACKUP_S3_REGION", s3.region.clone()),
            ("NORA_BACKUP_S3_ENDPOINT", s3.endpoint.clone()),
            ("NORA_BACKUP_S3_ACCESS_KEY_ID", s3.access_key_id.clone()),
            (
                "NORA_BACKUP_S3_SECRET_ACCESS_KEY",
                s3.secret_access_key.clone(),
            ),
            ("NORA_BACKUP_S3_PREFIX", s3.prefix.clone()),
        ],
        _ => Vec::new(),
    }
}

/// `nora-backup recover catalog` of one destination: its exit code and what it says.
fn recover(standalone: &Standalone, read: &Destination, named: &str) -> Result<(i32, String)> {
    let database = standalone.data_dir().join("catalog.db");
    let output = command(&standalone.outside_dir("home"))?
        .envs(environment(read))
        .env("NORA_BACKUP_ENCRYPTION_KEY", KEY)
        .args([
            "recover",
            "catalog",
            "--destination",
            named,
            "--database-url",
        ])
        .arg(format!("sqlite:{}", database.display()))
        .output()?;
    let code = output.status.code().context("an exit code")?;
    Ok((code, said(&output)))
}

#[tokio::test]
async fn the_backups_of_every_destination_come_back_and_copies_are_copies() -> Result<()> {
    let mut standalone = Standalone::start("destinations-lost").await?;
    let (bucket, last) = (s3("bucket"), local("last", &standalone.outside_dir("last")));
    let mut admin = standalone.administrators().await?;
    add(&mut admin, &bucket).await?;
    add(&mut admin, &last).await?;
    let agents = [("agent", "", "bucket"), ("near", "last", "")];
    let backups = backed_up(&standalone, &agents).await?;
    standalone.stop()?;
    standalone.lose_database()?;

    let default = local("default", &standalone.destination());
    for (read, named, tells) in [
        (&default, "default", "agent: agent added, 1 backup added"),
        (&bucket, "bucket", "agent: 1 copy added"),
        (&bucket, "bucket", "agent: 1 known already"),
        (&last, "last", "near: agent added, 1 backup added"),
    ] {
        let (code, words) = recover(&standalone, read, named)?;
        ensure!(code == 0 && words.contains(tells), "{named}: {words}");
    }
    // What is read at one place is not taken to lie at another.
    let (code, words) = recover(&standalone, &default, "last")?;
    ensure!(code == 2, "{words}");
    let places = [standalone.destination(), standalone.outside_dir("last")];
    for place in &places {
        ensure!(words.contains(&*place.to_string_lossy()), "{words}");
    }
    let (code, words) = recover(&standalone, &last, "new")?;
    ensure!(code == 2 && words.contains("--destination last"), "{words}");

    // Everything is listed and comes back, and the service goes on as it did.
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    for (n, destination_id) in [(0, ""), (0, "bucket"), (1, "")] {
        let backup = (agents[n].0, backups[n].as_str());
        restores(&standalone, &mut user, backup, destination_id).await?;
    }
    let request = GetAgentRequest {
        agent_id: "near".to_owned(),
    };
    let near = user.agents.get_agent(request).await?.into_inner();
    let near = near.agent.context("an agent")?;
    assert_eq!(near.destination_id, "last");
    let next = user.complete_backup("agent").await?;
    let next = copied(&mut user, &next.backup_id).await?;
    assert_eq!(next.copies[0].destination_id, "bucket");
    assert_eq!(next.copies[0].state(), backup_copy::State::Completed);
    Ok(())
}
