//! What is said of a destination that can't be used.

use std::path::Path;

use anyhow::{Context as _, Result};
use proto::backup::v1::{
    S3Destination, SshDestination, destination::Kind, test_destination_request::Target,
};
use services::{api::reason, standalone::Standalone};

use crate::support::{local, s3, ssh, try_out};

#[tokio::test]
async fn a_test_names_the_step_that_failed_and_the_remedy() -> Result<()> {
    let standalone = Standalone::start("destinations-tried").await?;
    let mut admin = standalone.administrators().await?;
    let with_s3 = |change: &dyn Fn(&mut S3Destination)| {
        let mut destination = s3("bucket");
        if let Some(Kind::S3(s3)) = &mut destination.kind {
            change(s3);
        }
        destination
    };
    let with_ssh = |change: &dyn Fn(&mut SshDestination)| {
        let mut destination = ssh("far");
        if let Some(Kind::Ssh(ssh)) = &mut destination.kind {
            change(ssh);
        }
        destination
    };
    let cases = [
        (
            with_s3(&|s3| s3.secret_access_key = "not-the-secret".to_owned()),
            "DESTINATION_DENIED",
            "s3.secret_access_key is not the secret of the access key",
        ),
        (
            with_s3(&|s3| s3.bucket = "nora-not-there".to_owned()),
            "DESTINATION_MISCONFIGURED",
            "nora-not-there",
        ),
        (
            with_ssh(&|ssh| ssh.password = "not-the-password".to_owned()),
            "DESTINATION_DENIED",
            "password",
        ),
        (
            with_ssh(&|ssh| ssh.remote_path = "/proc/nora".to_owned()),
            "",
            "remote_path",
        ),
        (
            with_ssh(&|ssh| ssh.host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHqf".to_owned()),
            "",
            "",
        ),
        (local("nowhere", Path::new("/proc/nora")), "", ""),
    ];
    for (destination, expected, named) in cases {
        let id = destination.destination_id.clone();
        let tried = match try_out(&mut admin, Target::Destination(destination)).await {
            Ok(tried) => tried,
            // A description that can't be one is refused as such.
            Err(error) => {
                let status: &tonic::Status = error.downcast_ref().context("a status")?;
                assert_eq!(reason(status), "INVALID_FIELD", "{id}: {status:?}");
                continue;
            }
        };
        let last = tried.steps.last().context("a step")?;
        println!("{id}: {} {}: {}", last.name, last.reason, last.message);
        assert!(!tried.ok && !last.ok, "{id}: {tried:?}");
        assert!(last.reason.starts_with("DESTINATION_"), "{id}: {last:?}");
        if !expected.is_empty() {
            assert_eq!(last.reason, expected, "{id}: {last:?}");
        }
        assert!(last.message.contains(named), "{id}: {last:?}");
        assert!(last.message.len() > 20, "{id}: {last:?}");
        for secret in ["not-the-secret", "not-the-password"] {
            assert!(!last.message.contains(secret), "{id}: {last:?}");
        }
    }
    Ok(())
}
