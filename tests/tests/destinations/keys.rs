//! Keys over several destinations: rotated at each by itself, and destroyed at all of them.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use proto::backup::v1::{DestinationRotation, KeyRotation, key_rotation};
use services::{
    api::reason,
    fixture,
    keys::{PREVIOUS, WRITING, begin_rotation, key, rotate, watch_rotation},
    proxy::{Fault, Proxy},
    services::address,
    standalone::Standalone,
    vaults,
};

use crate::support::{
    Admin, Backups, OWNER, add, backed_up, changed_s3, copied, deregister, local,
    register_with_second, restores, s3,
};

/// How far a rotation is at a destination: id, vaults seen to, vaults in all, what is wrong.
fn at(place: &DestinationRotation) -> (&str, i64, i64, &str) {
    let failure = place.failure.as_ref();
    let why = failure.map_or("", |failure| failure.reason.as_str());
    (
        &place.destination_id,
        place.vaults_done,
        place.vaults_total,
        why,
    )
}

async fn rotated(admin: &mut Admin, retire: bool) -> Result<KeyRotation> {
    let begun = begin_rotation(admin, retire).await?;
    watch_rotation(admin, &begun.rotation_id).await
}

#[tokio::test]
async fn a_destination_that_does_not_answer_holds_up_no_other() -> Result<()> {
    let mut standalone = Standalone::start("destinations-rotated").await?;
    let bucket = s3("bucket");
    let server: SocketAddr = address("NORA_TEST_S3_ENDPOINT")
        .trim_start_matches("http://")
        .parse()?;
    let proxy = Proxy::start(server).await?;
    let through = format!("http://127.0.0.1:{}", proxy.port());
    let mut admin = standalone.administrators().await?;
    add(&mut admin, &changed_s3(bucket, |s3| s3.endpoint = through)).await?;
    let last = local("last", &standalone.outside_dir("last"));
    add(&mut admin, &last).await?;
    // "agent" lies at the default destination and is copied to the bucket.
    let agents = [
        ("agent", "", "bucket"),
        ("lone", "bucket", ""),
        ("near", "last", ""),
    ];
    let backups = backed_up(&standalone, &agents).await?;
    standalone.stop()?;

    standalone.set_env(WRITING, key(1));
    standalone.set_env(PREVIOUS, key(0));
    standalone.launch().await?;
    let mut admin = standalone.administrators().await?;
    proxy.fault_all(Fault::Cut);
    let ended = rotated(&mut admin, false).await?;
    assert_eq!(ended.state(), key_rotation::State::Completed, "{ended:?}");
    let found: Vec<_> = ended.destinations.iter().map(at).collect();
    let expected = [
        ("bucket", 0, 0, "DESTINATION_UNAVAILABLE"),
        ("default", 1, 1, ""),
        ("last", 1, 1, ""),
    ];
    assert_eq!(found, expected, "{ended:?}");
    let refused = begin_rotation(&mut admin, true).await.expect_err("refused");
    assert_eq!(reason(&refused), "KEYS_NOT_ROTATED", "{refused:?}");
    assert!(refused.message().contains("bucket"), "{refused:?}");

    // It answers again, and only what was left is rewritten.
    proxy.fault_all(Fault::None);
    let ended = rotate(&mut admin, false).await?;
    assert_eq!(
        (ended.vaults_done, ended.vaults_changed),
        (4, 2),
        "{ended:?}"
    );

    // Nothing is taken away while one does not answer.
    proxy.fault_all(Fault::Cut);
    let ended = rotated(&mut admin, true).await?;
    assert_eq!(ended.state(), key_rotation::State::Failed, "{ended:?}");
    assert_eq!(ended.vaults_changed, 0, "{ended:?}");
    let failure = ended.failure.context("why")?;
    assert_eq!(failure.reason, "DESTINATION_UNAVAILABLE", "{failure:?}");
    for said in ["destination bucket", "nothing was removed"] {
        assert!(failure.message.contains(said), "{failure:?}");
    }
    proxy.fault_all(Fault::None);
    let ended = rotate(&mut admin, true).await?;
    assert_eq!(
        (ended.vaults_done, ended.vaults_changed),
        (4, 4),
        "{ended:?}"
    );
    standalone.stop()?;

    // The new key alone opens everything, descriptions too.
    standalone.remove_env(PREVIOUS);
    standalone.launch().await?;
    let mut user = standalone.user(OWNER).await?;
    for (n, destination_id) in [(0, ""), (0, "bucket"), (1, ""), (2, "")] {
        let backup = (agents[n].0, backups[n].as_str());
        restores(&standalone, &mut user, backup, destination_id).await?;
    }
    for n in 0..2 {
        assert!(!standalone.log().contains(&key(n)), "a key in the log");
    }
    Ok(())
}

#[tokio::test]
async fn the_data_keys_of_an_erased_agent_are_destroyed_at_both_destinations_first() -> Result<()> {
    let mut standalone = Standalone::start("destinations-erased").await?;
    let (root, second) = register_with_second(&standalone).await?;
    fixture::random_files(&root, 4, 1 << 20, 1)?;
    let mut user = standalone.user(OWNER).await?;
    let backup = user.complete_backup("agent").await?;
    copied(&mut user, &backup.backup_id).await?;
    standalone.stop()?;
    let places = [standalone.destination(), second];
    let count = |folder: &str| -> Result<Vec<usize>> {
        let count = |place: &PathBuf| Ok(vaults::objects(place, "agent")?.count(folder));
        places.iter().map(count).collect()
    };
    assert_eq!(count("keys")?, [1, 1]);

    standalone.set_env("FAILPOINTS", "worker-erase-keys-destroyed=pause");
    standalone.launch().await?;
    deregister(&standalone, "agent", Backups::Erased).await?;
    standalone.wait_until_quiet().await?;
    standalone.kill()?;
    assert_eq!(count("keys")?, [0, 0]);
    assert!(count("packs")?.iter().all(|&packs| packs > 0));

    // Then everything else goes.
    standalone.remove_env("FAILPOINTS");
    standalone.launch().await?;
    for place in &places {
        vaults::wait_until(place, "agent", |objects| objects.folders.is_empty()).await?;
    }
    Ok(())
}
