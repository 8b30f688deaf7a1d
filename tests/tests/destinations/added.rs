//! Destinations that are added while the program runs.

use anyhow::{Context as _, Result};
use proto::backup::v1::{
    DeleteDestinationRequest, Destination, GetDestinationRequest, ListDestinationsRequest,
    UpdateDestinationRequest, destination::Kind, test_destination_request::Target,
};
use services::{api::reason, fixture, services::address, standalone::Standalone};

use crate::support::{
    Backups, OWNER, add, deregister, local, register, restores_from, s3, ssh, try_out, until,
    verify,
};

#[tokio::test]
async fn a_destination_added_at_run_time_is_tried_used_and_forgotten() -> Result<()> {
    let mut standalone = Standalone::prepare("destinations-added")?
        .with_env("NORA_BACKUP_COMPACT_GRACE_MS", "0")
        .with_env("RUST_LOG", "trace,h2=info,sqlx=info,tonic=info,hyper=info");
    standalone.launch().await?;
    fixture::random_files(&standalone.agent_dir("agent"), 4, 1 << 20, 1)?;
    let more = standalone.outside_dir("more");
    for destination in [local("more", &more), s3("bucket"), ssh("far")] {
        let id = destination.destination_id.clone();
        one_destination(&mut standalone, &destination)
            .await
            .with_context(|| id)?;
    }
    for secret in [
        address("NORA_TEST_S3_SECRET_ACCESS_KEY"),
        address("NORA_TEST_SSH_PASSWORD"),
    ] {
        assert!(!standalone.log().contains(&secret), "a secret in the log");
    }
    Ok(())
}

async fn one_destination(standalone: &mut Standalone, destination: &Destination) -> Result<()> {
    let id = destination.destination_id.as_str();
    let mut admin = standalone.administrators().await?;
    // Before it is saved, and after.
    let tried = try_out(&mut admin, Target::Destination(destination.clone())).await?;
    assert!(tried.ok, "{tried:?}");
    let added = add(&mut admin, destination).await?;
    let tried = try_out(&mut admin, Target::DestinationId(id.to_owned())).await?;
    let names: Vec<&str> = tried.steps.iter().map(|step| step.name.as_str()).collect();
    assert!(tried.ok, "{tried:?}");
    assert_eq!(names[..4], ["connect", "write", "read", "list"]);
    assert_eq!(names.last(), Some(&"delete"));
    let twice = add(&mut admin, destination).await.unwrap_err();
    let twice = twice.downcast_ref().context("a status")?;
    assert_eq!(reason(twice), "DESTINATION_EXISTS");

    let request = GetDestinationRequest {
        destination_id: id.to_owned(),
    };
    let shown = admin.get_destination(request).await?.into_inner();
    let shown = shown.destination.context("a destination")?;
    assert_eq!(shown, added);
    match shown.kind.clone().context("a kind")? {
        Kind::S3(s3) => assert_eq!(s3.secret_access_key, ""),
        Kind::Ssh(ssh) => assert_eq!(ssh.password, ""),
        Kind::Local(_) | Kind::R2(_) => {}
    }
    // Secrets that are left out stay.
    let request = UpdateDestinationRequest {
        destination: Some(Destination {
            display_name: "Another name".to_owned(),
            ..shown
        }),
        update_mask: None,
    };
    let updated = admin.update_destination(request).await?.into_inner();
    let updated = updated.destination.context("a destination")?;
    assert_eq!(updated.display_name, "Another name");
    assert_ne!(updated.etag, added.etag);

    register(standalone, "agent", id, "").await?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    assert_eq!(backup.destination_id, id);
    restores_from(standalone, &mut user, &backup.backup_id, "").await?;
    let verified = verify(&mut user, &backup.backup_id, "").await?;
    assert!(verified, "verified");
    assert!(!standalone.destination().join("vaults").exists());

    let request = DeleteDestinationRequest {
        destination_id: id.to_owned(),
        etag: String::new(),
    };
    let refused = admin.delete_destination(request.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "DESTINATION_IN_USE");
    for named in ["agent", backup.backup_id.as_str()] {
        assert!(refused.message().contains(named), "{refused:?}");
    }
    deregister(standalone, "agent", Backups::Deleted).await?;
    // What was restored is at the same destination as what it was restored from.
    for name in standalone.agent_names()? {
        if name != "agent" {
            deregister(standalone, &name, Backups::Kept).await?;
            std::fs::remove_dir_all(standalone.agent_dir(&name))?;
        }
    }
    until("it can be forgotten", async || {
        match admin.delete_destination(request.clone()).await {
            Ok(_) => Ok(Some(())),
            Err(refused) if reason(&refused) == "DESTINATION_IN_USE" => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    let listed = admin
        .list_destinations(ListDestinationsRequest::default())
        .await?
        .into_inner();
    let ids: Vec<&str> = listed
        .destinations
        .iter()
        .map(|one| one.destination_id.as_str())
        .collect();
    assert_eq!(ids, ["default"]);
    Ok(())
}
