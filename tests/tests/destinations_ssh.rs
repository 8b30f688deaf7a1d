//! Backups on a real SSH server, through the whole program: made and restored, with a
//! server that is killed or frozen in the middle, and with what is wrong named.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use proto::backup::v1::backup;
use services::{
    fixture,
    one_agent::{OWNER, launch, restores},
    proxy::{Fault, Proxy},
    services::{Services, address},
    standalone::Standalone,
};

/// A standalone whose vaults lie in a folder of an account there.
fn prepare(name: &str, account: &str) -> Result<Standalone> {
    let own = format!("test-{:016x}", rand::random::<u64>());
    let home = match account {
        "nora-chroot" => String::new(),
        other => format!("/run/nora-homes/{other}"),
    };
    let keys = PathBuf::from(address("NORA_TEST_SSH_KEYS"));
    let mut standalone = Standalone::prepare(name)?
        // All that is ever said, for the secrets that must not be in it.
        .with_env("RUST_LOG", "trace,h2=info,sqlx=info,tonic=info,hyper=info")
        .with_env("NORA_BACKUP_STORAGE", "ssh")
        .with_env("NORA_BACKUP_SSH_HOST", "127.0.0.1")
        .with_env("NORA_BACKUP_SSH_PORT", address("NORA_TEST_SSH_PORT"))
        .with_env("NORA_BACKUP_SSH_USERNAME", account)
        .with_env("NORA_BACKUP_SSH_REMOTE_PATH", format!("{home}/data/{own}"))
        .with_env(
            "NORA_BACKUP_SSH_HOST_KEY",
            address("NORA_TEST_SSH_HOST_KEY"),
        );
    if account == "nora-password" {
        standalone.set_env(
            "NORA_BACKUP_SSH_PASSWORD",
            address("NORA_TEST_SSH_PASSWORD"),
        );
    } else {
        let key = keys.join("key_passphrase").display().to_string();
        standalone.set_env("NORA_BACKUP_SSH_PRIVATE_KEY", key);
        let passphrase = address("NORA_TEST_SSH_PASSPHRASE");
        standalone.set_env("NORA_BACKUP_SSH_PASSPHRASE", passphrase);
    }
    Ok(standalone)
}

fn assert_no_secret(said: &str) {
    let key = PathBuf::from(address("NORA_TEST_SSH_KEYS")).join("key_passphrase");
    let key = fs::read_to_string(key).expect("read a key");
    let secrets = key
        .lines()
        .filter(|line| !line.starts_with("-----") && line.len() > 8)
        .map(str::to_owned)
        .chain([
            address("NORA_TEST_SSH_PASSWORD"),
            address("NORA_TEST_SSH_PASSPHRASE"),
            "not-the-password".to_owned(),
        ]);
    for secret in secrets {
        assert!(!said.contains(&secret), "a credential is in the log");
    }
}

#[tokio::test]
async fn backups_on_each_kind_of_account() -> Result<()> {
    for account in ["nora-key", "nora-password", "nora-chroot", "nora-plain"] {
        let standalone = prepare("ssh-kinds", account)?;
        let (standalone, mut user) = launch(standalone, 6).await?;
        let first = user.complete_backup("agent").await?;
        restores(&standalone, &mut user, &first.backup_id).await?;
        fixture::random_files(&standalone.agent_dir("agent"), 8, 1 << 20, 2)?;
        let second = user.complete_backup("agent").await?;
        restores(&standalone, &mut user, &second.backup_id).await?;
        assert_no_secret(&standalone.log());
    }
    Ok(())
}

#[tokio::test]
async fn a_server_killed_in_the_middle_of_a_backup() -> Result<()> {
    // A server of its own, so that no other test loses its connection.
    let folder = services::place::scratch("sshd");
    let own = Services::at(folder.path().to_path_buf());
    own.up_only(&["sshd"])?;
    let outcome = killed_in_the_middle(&own).await;
    own.down()?;
    outcome
}

async fn killed_in_the_middle(own: &Services) -> Result<()> {
    let env: BTreeMap<String, String> = own.env()?;
    let of = |name: &str| env.get(name).cloned().context("a variable of sshd");
    let upstream = SocketAddr::from(([127, 0, 0, 1], of("NORA_TEST_SSH_PORT")?.parse()?));
    let proxy = Proxy::start(upstream).await?;
    let key = PathBuf::from(of("NORA_TEST_SSH_KEYS")?).join("key");
    let standalone = prepare("ssh-killed", "nora-key")?
        .with_env("NORA_BACKUP_SSH_PORT", proxy.port().to_string())
        .with_env("NORA_BACKUP_SSH_HOST_KEY", of("NORA_TEST_SSH_HOST_KEY")?)
        .with_env("NORA_BACKUP_SSH_PRIVATE_KEY", key.display().to_string())
        .with_env("NORA_BACKUP_SSH_PASSPHRASE", "");
    let (standalone, mut user) = launch(standalone, 4).await?;
    let first = user.complete_backup("agent").await?;

    // In the middle: some packs are there, and some are not.
    fixture::random_files(&standalone.agent_dir("agent"), 120, 1 << 20, 2)?;
    let carried = proxy.carried();
    let mut backing_up = standalone.user(OWNER).await?;
    let making = tokio::spawn(async move { backing_up.make_backup("agent").await });
    while proxy.carried() < carried + (60 << 20) {
        ensure!(!making.is_finished(), "it ended too soon");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    own.kill("sshd")?;
    own.restart("sshd")?;
    let second = making.await??;
    assert_eq!(second.state(), backup::State::Completed, "{second:?}");
    let written = proxy.carried() - carried;
    ensure!(
        written < 120 * (1 << 20) * 3,
        "what was stored before is used: {written} bytes went over the line"
    );
    restores(&standalone, &mut user, &second.backup_id).await?;

    // Away for longer than is waited for: the cause is named, and the rest stays.
    own.kill("sshd")?;
    fixture::random_files(&standalone.agent_dir("agent"), 2, 1 << 20, 3)?;
    let failed = user.make_backup("agent").await?;
    assert_eq!(failed.state(), backup::State::Failed);
    let failure = failed.failure.context("a failure")?;
    println!("{}", failure.message);
    assert_eq!(failure.reason, "DESTINATION_UNAVAILABLE", "{failure:?}");
    own.restart("sshd")?;
    let third = user.complete_backup("agent").await?;
    restores(&standalone, &mut user, &third.backup_id).await?;
    let earlier = standalone.agent_dir("earlier");
    user.restore_directory(&first.backup_id, "earlier", &earlier)
        .await?;
    assert_no_secret(&standalone.log());
    Ok(())
}

#[tokio::test]
async fn a_connection_cut_again_and_again_during_a_backup() -> Result<()> {
    let port = address("NORA_TEST_SSH_PORT").parse()?;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    let standalone = prepare("ssh-cut", "nora-chroot")?
        .with_env("NORA_BACKUP_SSH_PORT", proxy.port().to_string());
    let (standalone, mut user) = launch(standalone, 60).await?;
    let mut backing_up = standalone.user(OWNER).await?;
    let making = tokio::spawn(async move { backing_up.make_backup("agent").await });
    let mut cuts = 0;
    while !making.is_finished() {
        if cuts < 5 && proxy.has_struck() {
            cuts += 1;
            proxy.fault_after(12 << 20, [Fault::Cut, Fault::Garbage][cuts % 2]);
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let made = making.await??;
    assert_eq!(made.state(), backup::State::Completed, "{made:?}");
    ensure!(
        proxy.connections() > 3,
        "{} connections",
        proxy.connections()
    );
    restores(&standalone, &mut user, &made.backup_id).await?;
    assert_no_secret(&standalone.log());
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_is_named_and_no_credential_shown() -> Result<()> {
    let homes = "/run/nora-homes/nora-key";
    let other_key = address("NORA_TEST_SSH_OTHER_HOST_KEY");
    let read_only = format!("{homes}/read-only");
    let full = format!("{homes}/full/{:08x}", rand::random::<u32>());
    for (account, variable, value, reason, words) in [
        (
            "nora-password",
            "NORA_BACKUP_SSH_PASSWORD",
            "not-the-password",
            "DESTINATION_DENIED",
            "does not let nora-password log in",
        ),
        (
            "nora-key",
            "NORA_BACKUP_SSH_HOST_KEY",
            &other_key,
            "DESTINATION_UNTRUSTED",
            "shows the host key ssh-ed25519 SHA256:",
        ),
        (
            "nora-key",
            "NORA_BACKUP_SSH_REMOTE_PATH",
            &read_only,
            "DESTINATION_DENIED",
            "mounted read-only",
        ),
        (
            "nora-key",
            "NORA_BACKUP_SSH_REMOTE_PATH",
            &full,
            "DESTINATION_FULL",
            "bytes are available",
        ),
    ] {
        let standalone = prepare("ssh-wrong", account)?.with_env(variable, value);
        let (mut standalone, mut user) = match launch(standalone, 12).await {
            Ok(launched) => launched,
            // Who looks at the destination at the start may refuse it then.
            Err(cause) => {
                let said = format!("{cause:#}");
                ensure!(said.contains(words), "{variable}: {said}");
                assert_no_secret(&said);
                continue;
            }
        };
        let failed = user.make_backup("agent").await?;
        assert_eq!(failed.state(), backup::State::Failed, "{variable}");
        let failure = failed.failure.context("a failure")?;
        println!("{}", failure.message);
        assert_eq!(failure.reason, reason, "{failure:?}");
        ensure!(failure.message.contains(words), "{failure:?}");
        assert_no_secret(&failure.message);
        assert_no_secret(&standalone.log());
        // Set right, the next one succeeds.
        standalone.stop()?;
        let right = prepare("ssh-right", account)?;
        for name in ["HOST_KEY", "REMOTE_PATH", "PASSWORD"] {
            let name = format!("NORA_BACKUP_SSH_{name}");
            if let Some(value) = right.env(&name) {
                standalone.set_env(&name, value);
            }
        }
        standalone.launch().await?;
        let mut user = standalone.user(OWNER).await?;
        let made = user.complete_backup("agent").await?;
        restores(&standalone, &mut user, &made.backup_id).await?;
    }
    Ok(())
}
