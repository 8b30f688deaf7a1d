//! A private SSH server with accounts of the tests' own; the accounts of this machine
//! stay as they are.
//!
//! | account | logs in by | what is particular |
//! | --- | --- | --- |
//! | `root` | the key `key` | writes to NORA_TEST_SSH_PATH |
//! | `nora-key` | each key of NORA_TEST_SSH_KEYS | home with `data`; `refused` is not its own; `read-only` and `full` are file systems that are what they say |
//! | `nora-password` | NORA_TEST_SSH_PASSWORD | home with `data` |
//! | `nora-chroot` | the keys | confined to a folder of root's, in which `data` is its own |
//! | `nora-plain` | the keys | none of OpenSSH's extensions of SFTP; home with `data` |
//! | `nora-talker` | the keys | answers to SFTP with a greeting |
//!
//! What the accounts `nora-*` see lies in the server's world alone, under [`HOMES`].
//! On NORA_TEST_SSH_OTHER_PORT the same accounts are behind another host key.

use std::{
    collections::BTreeMap, fmt::Write as _, fs, os::unix::fs::PermissionsExt as _, path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    life::{Plan, Service, Started, run, secret, text, write_private},
    packages, ports, wire,
    world::Launch,
};

/// The variable that carries its port; the others are made beside it.
const PORT: &str = "NORA_TEST_SSH_PORT";
/// Where the homes of the accounts are mounted.
const HOMES: &str = "/run/nora-homes";
/// Accounts, with a user id each that nobody else has.
const ACCOUNTS: &[(&str, u32)] = &[
    ("nora-key", 61_001),
    ("nora-password", 61_002),
    ("nora-chroot", 61_003),
    ("nora-plain", 61_004),
    ("nora-talker", 61_005),
];

/// In its world alone: the folders it must have, accounts that are not this
/// machine's, and homes.
const SETUP: &str = r#"
mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 755 /run/sshd /run/nora-homes || exit 1
for file in passwd shadow group; do
    ! test -e /etc/$file || mount --bind "$FOLDER/$file" /etc/$file || exit 1
done
install -m 644 "$FOLDER/authorized_keys" /run/authorized_keys || exit 1
for account in nora-key nora-password nora-chroot nora-plain nora-talker; do
    mkdir -m 755 /run/nora-homes/$account &&
    mount --bind "$FOLDER/homes/$account" /run/nora-homes/$account || exit 1
done
cd /run/nora-homes/nora-key &&
mount --bind read-only read-only && mount -o remount,bind,ro read-only &&
mount -t tmpfs -o size=6m,mode=777 tmpfs full || exit 1
cd /
"$SSHD" -e -f "$FOLDER/sshd_config" -p "$OTHER_PORT" -h "$FOLDER/other_host_key" || exit 1
"#;

pub(super) struct Sshd;

impl Service for Sshd {
    fn name(&self) -> &'static str {
        "sshd"
    }

    fn install(&self) -> Result<()> {
        packages::find_or_install("ssh-keygen", "openssh-client")?;
        packages::find_or_install("perl", "perl-base")?;
        packages::find_or_install("sshd", "openssh-server").map(|_| ())
    }

    fn prepare(&self, folder: &Path) -> Result<Plan> {
        let server = packages::find_or_install("sshd", "openssh-server")?;
        let own = |name: &str| text(&folder.join(name));
        let (port, other_port) = (ports::free()?, ports::free()?);
        let (password, passphrase) = (secret(), secret());
        make_keys(folder, &passphrase)?;
        make_accounts(folder, &password)?;
        fs::create_dir_all(folder.join("data")).context("make a folder to write to")?;
        // The commands that start both servers name their ports and host keys.
        let configuration = format!(
            "ListenAddress 127.0.0.1\n\
             AuthorizedKeysFile /run/authorized_keys\n\
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
             Subsystem sftp internal-sftp\n\
             Match User nora-password\n\
             PasswordAuthentication yes\n\
             PubkeyAuthentication no\n\
             Match User nora-chroot\n\
             ChrootDirectory {HOMES}/nora-chroot\n\
             ForceCommand internal-sftp\n\
             Match User nora-plain\n\
             ForceCommand internal-sftp -P posix-rename,statvfs,fsync,limits\n\
             Match User nora-talker\n\
             ForceCommand echo Welcome to this machine, have a good day\n",
        );
        fs::write(folder.join("sshd_config"), configuration).context("write sshd_config")?;

        let environment = BTreeMap::from([
            ("FOLDER".to_owned(), text(folder)?),
            ("SSHD".to_owned(), text(&server)?),
            ("OTHER_PORT".to_owned(), other_port.to_string()),
        ]);
        let launch = Launch {
            environment,
            setup: SETUP.into(),
            // It starts itself anew for each connection: by its whole path.
            ..Launch::new([
                text(&server)?,
                "-D".into(),
                "-e".into(),
                "-f".into(),
                own("sshd_config")?,
                "-p".into(),
                port.to_string(),
                "-h".into(),
                own("host_key")?,
            ])
        };
        let env = [
            ("NORA_TEST_SSH_HOST", "127.0.0.1".to_owned()),
            (PORT, port.to_string()),
            ("NORA_TEST_SSH_USERNAME", "root".to_owned()),
            ("NORA_TEST_SSH_KEY_FILE", own("key")?),
            ("NORA_TEST_SSH_HOST_KEY", public_key(folder, "host_key")?),
            ("NORA_TEST_SSH_PATH", own("data")?),
            ("NORA_TEST_SSH_KEYS", text(folder)?),
            ("NORA_TEST_SSH_PASSPHRASE", passphrase),
            ("NORA_TEST_SSH_PASSWORD", password),
            ("NORA_TEST_SSH_HOMES", own("homes")?),
            ("NORA_TEST_SSH_OTHER_PORT", other_port.to_string()),
            (
                "NORA_TEST_SSH_OTHER_HOST_KEY",
                public_key(folder, "other_host_key")?,
            ),
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
        [PORT, "NORA_TEST_SSH_OTHER_PORT"].iter().all(|port| {
            started
                .port(port)
                .and_then(|port| wire::first_bytes(port, b"", 4))
                .is_some_and(|answer| answer == b"SSH-")
        })
    }
}

/// Host keys, and keys that may log in, of the kinds and forms that there are.
fn make_keys(folder: &Path, passphrase: &str) -> Result<()> {
    let mut authorized = String::new();
    for (name, form, passphrase) in [
        ("host_key", &["-t", "ed25519"][..], ""),
        ("other_host_key", &["-t", "ed25519"], ""),
        ("key", &["-t", "ed25519"], ""),
        ("key_passphrase", &["-t", "ed25519"], passphrase),
        ("key_rsa_pem", &["-t", "rsa", "-b", "3072", "-m", "PEM"], ""),
        ("key_rsa", &["-t", "rsa", "-b", "3072"], passphrase),
        ("key_ecdsa_pkcs8", &["-t", "ecdsa", "-m", "PKCS8"], ""),
        ("key_stranger", &["-t", "ed25519"], ""),
    ] {
        run(Command::new("ssh-keygen")
            .arg("-q")
            .args(form)
            .args(["-N", passphrase, "-C", "nora-test", "-f"])
            .arg(folder.join(name)))?;
        if name.starts_with("key") && name != "key_stranger" {
            authorized.push_str(&fs::read_to_string(folder.join(format!("{name}.pub")))?);
        }
    }
    fs::write(folder.join("authorized_keys"), authorized).context("let keys log in")
}

/// The accounts of its world, and their homes.
fn make_accounts(folder: &Path, password: &str) -> Result<()> {
    let mut passwd = fs::read_to_string("/etc/passwd").context("read this machine's accounts")?;
    let mut group = fs::read_to_string("/etc/group").unwrap_or_default();
    // An account of root that is not locked, whatever the machine's own is.
    let mut shadow = "root:*:19000:0:99999:7:::\n".to_owned();
    for (name, id) in ACCOUNTS {
        let hash = match *name {
            "nora-password" => hash(password)?,
            _ => "*".to_owned(),
        };
        writeln!(passwd, "{name}:x:{id}:{id}::{HOMES}/{name}:/bin/sh")?;
        writeln!(group, "{name}:x:{id}:")?;
        writeln!(shadow, "{name}:{hash}:19000:0:99999:7:::")?;
        let home = folder.join("homes").join(name);
        for (inside, owner, mode) in [
            ("data", *id, 0o700),
            ("refused", 0, 0o755),
            ("read-only", *id, 0o700),
            ("full", *id, 0o700),
        ] {
            let inside = home.join(inside);
            fs::create_dir_all(&inside).context("make a home")?;
            fs::set_permissions(&inside, fs::Permissions::from_mode(mode))?;
            std::os::unix::fs::chown(&inside, Some(owner), Some(owner))?;
        }
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(folder.join("passwd"), passwd).context("write accounts")?;
    fs::write(folder.join("group"), group).context("write accounts")?;
    write_private(&folder.join("shadow"), shadow.as_bytes())
}

/// A password as an account keeps it.
fn hash(password: &str) -> Result<String> {
    let program = r#"print crypt($ENV{SECRET}, "\$6\$" . $ENV{SALT} . "\$")"#;
    let output = Command::new("perl")
        .args(["-e", program])
        .env("SECRET", password)
        .env("SALT", &secret()[..16])
        .output()
        .context("run perl")?;
    let hash = String::from_utf8(output.stdout).context("a hash")?;
    anyhow::ensure!(hash.starts_with("$6$"), "perl hashes no password");
    Ok(hash)
}

/// A public key without its comment.
fn public_key(folder: &Path, name: &str) -> Result<String> {
    let key = fs::read_to_string(folder.join(format!("{name}.pub"))).context("read a key")?;
    let fields: Vec<&str> = key.split_whitespace().take(2).collect();
    Ok(fields.join(" "))
}
