//! What is said of a destination that can't be used.

use std::path::Path;

use anyhow::{Context as _, Result};
use proto::backup::v1::{
    Destination, S3Destination, SshDestination, destination::Kind, test_destination_request::Target,
};
use services::{api::reason, fleet::free_port, standalone::Standalone};
use tonic_types::StatusExt as _;

use crate::support::{changed_s3, local, s3, ssh, try_out};

const SECRETS: [&str; 2] = ["not-the-secret", "not-the-password"];

/// A destination that can't be used, and what is said of it.
struct Case {
    name: &'static str,
    destination: Destination,
    /// The step that fails; None: the description is refused before anything is tried.
    step: Option<&'static str>,
    reason: &'static str,
    /// What the message must hold: field, what it holds, remedy.
    said: Vec<String>,
}

fn case(
    name: &'static str,
    destination: Destination,
    (step, reason): (Option<&'static str>, &'static str),
    said: &[&str],
) -> Case {
    Case {
        name,
        destination,
        step,
        reason,
        said: said.iter().map(|&text| text.to_owned()).collect(),
    }
}

fn with_s3(change: impl FnOnce(&mut S3Destination)) -> Destination {
    changed_s3(s3("bucket"), change)
}

fn with_ssh(change: impl FnOnce(&mut SshDestination)) -> Destination {
    let mut destination = ssh("far");
    if let Some(Kind::Ssh(ssh)) = &mut destination.kind {
        change(ssh);
    }
    destination
}

fn cases(file: &Path) -> Result<Vec<Case>> {
    // Of nobody: its private half was never kept.
    const ANOTHER_HOST_KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIfnFjyMruv0L3g3YQHhx+hN0WJnm25GKGQiXB/Zcltu";
    let (closed, in_file) = (free_port()?, file.join("in-it"));
    let at = format!("127.0.0.1:{closed}");
    let address = format!("http://{at}");
    let in_file_text = in_file.display().to_string();
    Ok(vec![
        case(
            "the wrong secret",
            with_s3(|s3| SECRETS[0].clone_into(&mut s3.secret_access_key)),
            (Some("connect"), "DESTINATION_DENIED"),
            &["s3.secret_access_key is not the secret of the access key"],
        ),
        case(
            "no such bucket",
            with_s3(|s3| "nora-not-there".clone_into(&mut s3.bucket)),
            (Some("connect"), "DESTINATION_MISCONFIGURED"),
            &["\"nora-not-there\"", "create it, or set s3.bucket"],
        ),
        case(
            "nobody there",
            with_s3(|s3| s3.endpoint.clone_from(&address)),
            (Some("connect"), "DESTINATION_UNAVAILABLE"),
            &[&at, "connection refused", "s3.endpoint"],
        ),
        case(
            "the wrong password",
            with_ssh(|ssh| SECRETS[1].clone_into(&mut ssh.password)),
            (Some("connect"), "DESTINATION_DENIED"),
            &["nora-password", "check ssh.username and ssh.password"],
        ),
        case(
            "a path where no folders can be",
            with_ssh(|ssh| "/proc/nora".clone_into(&mut ssh.remote_path)),
            (Some("write"), "DESTINATION_MISCONFIGURED"),
            &["ssh.remote_path is /proc/nora", "set it to another path"],
        ),
        case(
            "a path that may not be written",
            with_ssh(|ssh| "/etc/nora".clone_into(&mut ssh.remote_path)),
            (Some("write"), "DESTINATION_DENIED"),
            &[
                "nora-password",
                "may not make a folder for /etc/nora",
                "set ssh.remote_path to",
            ],
        ),
        case(
            "no host key",
            with_ssh(|ssh| {
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHqf".clone_into(&mut ssh.host_key);
            }),
            (None, "INVALID_FIELD"),
            &["destination.ssh.host_key", "line 1", "`ssh-keyscan`"],
        ),
        case(
            "another host key",
            with_ssh(|ssh| ANOTHER_HOST_KEY.clone_into(&mut ssh.host_key)),
            (Some("connect"), "DESTINATION_UNTRUSTED"),
            &["SHA256:", "ssh.host_key"],
        ),
        case(
            "nobody there",
            with_ssh(|ssh| ssh.port = closed.into()),
            (Some("connect"), "DESTINATION_UNAVAILABLE"),
            &[&at, "ssh.host and ssh.port right?"],
        ),
        case(
            "a folder where no folders can be",
            local("nowhere", Path::new("/proc/nora")),
            (Some("connect"), "DESTINATION_MISCONFIGURED"),
            &["/proc/nora", "local.path", "set it to a folder"],
        ),
        case(
            "a folder in a file",
            local("in-file", &in_file),
            (Some("connect"), "DESTINATION_MISCONFIGURED"),
            &[&in_file_text, "local.path", "set it to a folder"],
        ),
    ])
}

#[tokio::test]
async fn a_test_names_the_step_that_failed_and_the_remedy() -> Result<()> {
    let standalone = Standalone::start("destinations-tried").await?;
    let mut admin = standalone.administrators().await?;
    let file = standalone.outside_dir("file");
    std::fs::write(&file, "no folder")?;
    let mut faults = Vec::new();
    for case in cases(&file)? {
        let name = format!("{}, {}", case.destination.destination_id, case.name);
        let tried = try_out(&mut admin, Target::Destination(case.destination)).await;
        let (step, reason, message) = match tried {
            Ok(tried) => {
                let last = tried.steps.last().context("a step")?;
                assert!(!tried.ok && !last.ok, "{name}: {tried:?}");
                let before = &tried.steps[..tried.steps.len() - 1];
                assert!(before.iter().all(|step| step.ok), "{name}: {tried:?}");
                let (reason, message) = (last.reason.clone(), last.message.clone());
                (Some(last.name.clone()), reason, message)
            }
            // What can't be a description is refused as such, by its field.
            Err(error) => {
                let status: &tonic::Status = error.downcast_ref().context("a status")?;
                let details = status.get_details_bad_request().context("which field")?;
                let fields: Vec<_> = details.field_violations.iter().map(|v| &v.field).collect();
                assert_eq!(fields, [&case.said[0]], "{name}: {status:?}");
                (None, reason(status), status.message().to_owned())
            }
        };
        println!(
            "{name}: {} {reason}: {message}",
            step.as_deref().unwrap_or("refused")
        );
        if (step.as_deref(), reason.as_str()) != (case.step, case.reason) {
            faults.push(format!("{name}: not {:?} {}", case.step, case.reason));
        }
        for said in &case.said {
            if !message.contains(said) {
                faults.push(format!("{name}: it does not say {said:?}"));
            }
        }
        for secret in SECRETS {
            assert!(!message.contains(secret), "{name}: a secret");
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}
