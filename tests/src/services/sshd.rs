//! A private SSH server: root logs in by a key of the tests' own, and the accounts
//! of this machine stay as they are.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{
    life::{Plan, Service, Started, run, text},
    packages, ports, wire,
    world::Launch,
};

/// The variable that carries its port; the others are made beside it.
const PORT: &str = "NORA_TEST_SSH_PORT";

/// In its world alone: the folder it must have, and no record of who is logged in;
/// an account of root that is not locked, whatever the machine's own is.
const SETUP: &str = r#"
mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 755 /run/sshd || exit 1
! test -e /etc/shadow || mount --bind "$SHADOW" /etc/shadow
"#;
const SHADOW: &str = "root:*:19000:0:99999:7:::\n";

pub(super) struct Sshd;

impl Service for Sshd {
    fn name(&self) -> &'static str {
        "sshd"
    }

    fn install(&self) -> Result<()> {
        packages::find_or_install("ssh-keygen", "openssh-client")?;
        packages::find_or_install("sshd", "openssh-server").map(|_| ())
    }

    fn prepare(&self, folder: &Path) -> Result<Plan> {
        let server = packages::find_or_install("sshd", "openssh-server")?;
        let own = |name: &str| text(&folder.join(name));
        let port = ports::free()?;
        for key in ["host_key", "key"] {
            make_key(&folder.join(key))?;
        }
        fs::copy(folder.join("key.pub"), folder.join("authorized_keys"))
            .context("let a key log in")?;
        fs::create_dir_all(folder.join("data")).context("make a folder to write to")?;
        fs::write(folder.join("shadow"), SHADOW).context("write an account")?;
        let configuration = format!(
            "ListenAddress 127.0.0.1:{port}\n\
             HostKey {}\n\
             AuthorizedKeysFile {}\n\
             PermitRootLogin prohibit-password\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n\
             UsePAM no\n\
             UseDNS no\n\
             StrictModes no\n\
             PermitUserRC no\n\
             PidFile none\n\
             MaxStartups 200\n\
             MaxSessions 100\n\
             Subsystem sftp internal-sftp\n",
            own("host_key")?,
            own("authorized_keys")?,
        );
        fs::write(folder.join("sshd_config"), configuration).context("write sshd_config")?;
        let host_key = fs::read_to_string(folder.join("host_key.pub")).context("read a key")?;
        let host_key: Vec<&str> = host_key.split_whitespace().take(2).collect();

        let launch = Launch {
            environment: BTreeMap::from([("SHADOW".to_owned(), own("shadow")?)]),
            setup: SETUP.into(),
            // It starts itself anew for each connection: by its whole path.
            ..Launch::new([
                text(&server)?,
                "-D".into(),
                "-e".into(),
                "-f".into(),
                own("sshd_config")?,
            ])
        };
        let env = [
            ("NORA_TEST_SSH_HOST", "127.0.0.1".to_owned()),
            (PORT, port.to_string()),
            ("NORA_TEST_SSH_USERNAME", "root".to_owned()),
            ("NORA_TEST_SSH_KEY_FILE", own("key")?),
            ("NORA_TEST_SSH_HOST_KEY", host_key.join(" ")),
            ("NORA_TEST_SSH_PATH", own("data")?),
        ];
        Ok(Plan {
            launch,
            env: env
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            run_dir: None,
        })
    }

    fn answers(&self, started: &Started) -> bool {
        started
            .port(PORT)
            .and_then(|port| wire::first_bytes(port, b"", 4))
            .is_some_and(|answer| answer == b"SSH-")
    }
}

/// A pair of keys, of which the secret one needs no passphrase.
fn make_key(path: &Path) -> Result<()> {
    run(Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "nora-test", "-f"])
        .arg(path))
}
