//! The command line from end to end: what a person types, what a program reads,
//! and how it ends.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use services::{
    cli::{Cli, command, said},
    fixture,
    standalone::Standalone,
    tree::{assert_same, describe},
};

const OWNER: &str = "user-1";

#[tokio::test]
async fn register_create_watch_list_download_and_restore_by_hand() -> Result<()> {
    let standalone = Standalone::start("commands").await?;
    let root = standalone.agent_dir("agent");
    fixture::every_kind(&root)?;
    let before = describe(&root)?;
    let control_plane = Cli::new(&standalone, "control-plane", "service");
    let user = Cli::new(&standalone, OWNER, "user");
    let folder = root.to_str().context("UTF-8")?;
    control_plane.ok(&[
        "agent",
        "register",
        "my-agent",
        "--directory",
        folder,
        "--owner",
        OWNER,
    ])?;

    let made = user.json(&[
        "backup", "create", "my-agent", "--name", "by hand", "--watch",
    ])?;
    assert_eq!(
        (made["state"].as_str(), made["name"].as_str()),
        (Some("STATE_COMPLETED"), Some("by hand")),
        "{made}"
    );
    assert!(
        made["size_bytes"].as_u64().is_some_and(|bytes| bytes > 0),
        "{made}"
    );
    let listed = user.json(&["backup", "list"])?;
    assert_eq!(
        listed["backups"][0]["backup_id"], made["backup_id"],
        "{listed}"
    );
    let table = user.ok(&["backup", "list"])?;
    assert!(
        table.contains("COMPLETED") && table.contains("by hand"),
        "{table}"
    );

    let archive = standalone.outside_dir("agent.tar.zst");
    user.ok(&[
        "backup",
        "download",
        "my-agent@latest",
        "-o",
        archive.to_str().context("UTF-8")?,
    ])?;
    let list = Command::new("tar")
        .args(["--zstd", "-tf"])
        .arg(&archive)
        .stderr(Stdio::inherit())
        .output()?;
    assert!(list.status.success());
    assert!(String::from_utf8_lossy(&list.stdout).contains("one-byte"));
    let one = standalone.outside_dir("one-file");
    user.ok(&[
        "backup",
        "get",
        "my-agent@latest",
        "compressible",
        "-o",
        one.to_str().context("UTF-8")?,
    ])?;
    assert!(fs::read(one)? == fs::read(root.join("compressible"))?);

    let target = standalone.agent_dir("restored");
    let to = target.to_str().context("UTF-8")?;
    let restored = user.json(&[
        "restore",
        "create",
        "my-agent@latest",
        "--agent",
        "my-agent-2",
        "--to",
        to,
        "--watch",
    ])?;
    assert_eq!(
        restored["state"].as_str(),
        Some("STATE_COMPLETED"),
        "{restored}"
    );
    assert_same(&before, &describe(&target)?);
    user.ok(&["backup", "verify", "my-agent@latest"])?;
    user.ok(&["backup", "delete", "my-agent@latest", "--yes"])?;
    Ok(())
}

#[tokio::test]
async fn each_exit_code_means_one_thing_and_says_what_to_do() -> Result<()> {
    let mut standalone = Standalone::start("exit-codes").await?;
    let user = Cli::new(&standalone, OWNER, "user");
    let missing = "01920000-0000-7000-8000-000000000000";
    let folder = standalone.agent_dir("x");
    let register = [
        "agent",
        "register",
        "x",
        "--directory",
        folder.to_str().context("UTF-8")?,
    ];
    for (arguments, code) in [
        (&["backup", "list"][..], 0),
        (&["backup", "create"], 2),
        (&["backup", "show", missing], 3),
        (&["backup", "create", "no-such-agent", "--watch"], 3),
        (&register, 4),
        (&["--token", "not-a-token", "backup", "list"], 4),
    ] {
        let output = user.run(arguments)?;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            said(&output)
        );
        if code != 0 {
            assert!(
                output.stdout.is_empty(),
                "{arguments:?}: errors go to standard error"
            );
            let said = said(&output);
            assert!(
                said.len() > 10 && !said.contains("Status {") && !said.contains("panicked"),
                "{arguments:?}: {said}"
            );
        }
    }
    // A backup that fails.
    let control_plane = Cli::new(&standalone, "control-plane", "service");
    let nowhere = standalone.agent_dir("never-there");
    let nowhere = nowhere.to_str().context("UTF-8")?;
    control_plane.ok(&[
        "agent",
        "register",
        "empty",
        "--directory",
        nowhere,
        "--owner",
        OWNER,
    ])?;
    let failed = user.run(&["backup", "create", "empty", "--watch"])?;
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    assert!(
        said(&failed).contains("SOURCE_NOT_FOUND"),
        "{}",
        said(&failed)
    );
    // Administrators are served elsewhere, and nobody else is there.
    let administrator = Cli::new(&standalone, "root", "admin");
    let workers = administrator.json(&["admin", "workers"])?;
    assert_eq!(workers["workers"][0]["pools"][0], "default", "{workers}");
    let refused = user.run(&["admin", "workers"])?;
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    standalone.stop()?;
    let away = user.run(&["backup", "list"])?;
    assert_eq!(away.status.code(), Some(5), "{}", said(&away));
    Ok(())
}

#[test]
fn completions_are_printed_for_each_shell() -> Result<()> {
    let scratch = services::place::scratch("completions");
    for shell in ["bash", "zsh", "fish"] {
        let output = command(scratch.path())?
            .args(["completions", shell])
            .output()?;
        assert!(output.status.success(), "{}", said(&output));
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("nora-backup"),
            "{shell}"
        );
    }
    Ok(())
}
