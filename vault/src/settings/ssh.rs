//! The settings of `NORA_BACKUP_STORAGE=ssh`.

use std::{fs, path::Path};

use clap::Args;
use proto::backup::v1::SshDestination;
use zeroize::Zeroizing;

use super::{
    SettingsError,
    secret::{self, Secret},
    wrong,
};
use crate::store::known_hosts_keys;

/// A folder on a machine that is reached over SSH.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Destination: SSH")]
pub struct SshSettings {
    /// Name or address of the SSH server (with NORA_BACKUP_STORAGE=ssh).
    #[arg(
        id = "ssh_host",
        long = "ssh-host",
        env = "NORA_BACKUP_SSH_HOST",
        default_value = "",
        hide_default_value = true,
        value_name = "HOST"
    )]
    pub host: String,
    /// Port of the SSH server (when not set: 22).
    #[arg(
        id = "ssh_port",
        long = "ssh-port",
        env = "NORA_BACKUP_SSH_PORT",
        default_value = "",
        hide_default_value = true,
        value_name = "PORT"
    )]
    pub port: String,
    /// User to log in as.
    #[arg(
        id = "ssh_username",
        long = "ssh-username",
        env = "NORA_BACKUP_SSH_USERNAME",
        default_value = "",
        hide_default_value = true,
        value_name = "USER"
    )]
    pub username: String,
    /// Folder for the vaults, absolute or relative to where the login arrives; made when it is not
    /// there.
    #[arg(
        id = "ssh_remote_path",
        long = "ssh-remote-path",
        env = "NORA_BACKUP_SSH_REMOTE_PATH",
        default_value = "",
        hide_default_value = true,
        value_name = "PATH"
    )]
    pub remote_path: String,
    /// Private key: its text (OpenSSH or PEM; line ends may be written \\n), or the path of its file.
    #[arg(id = "ssh_private_key", long = "ssh-private-key", env = "NORA_BACKUP_SSH_PRIVATE_KEY",
          default_value = "", hide_default_value = true, hide_env_values = true,
          value_name = "KEY", value_parser = secret::parser())]
    pub private_key: Secret,
    /// Passphrase of the private key.
    #[arg(id = "ssh_passphrase", long = "ssh-passphrase", env = "NORA_BACKUP_SSH_PASSPHRASE",
          default_value = "", hide_default_value = true, hide_env_values = true,
          value_name = "TEXT", value_parser = secret::parser())]
    pub passphrase: Secret,
    /// Password, when there is no key, or in addition to it.
    #[arg(id = "ssh_password", long = "ssh-password", env = "NORA_BACKUP_SSH_PASSWORD",
          default_value = "", hide_default_value = true, hide_env_values = true,
          value_name = "PASSWORD", value_parser = secret::parser())]
    pub password: Secret,
    /// Host key that the server must show, as `ssh-keyscan` prints it; several, one a line.
    #[arg(
        id = "ssh_host_key",
        long = "ssh-host-key",
        env = "NORA_BACKUP_SSH_HOST_KEY",
        default_value = "",
        hide_default_value = true,
        value_name = "KEY"
    )]
    pub host_key: String,
    /// File of known_hosts in which the host key stands, when it is not given as text.
    #[arg(
        id = "ssh_known_hosts",
        long = "ssh-known-hosts",
        env = "NORA_BACKUP_SSH_KNOWN_HOSTS",
        default_value = "",
        hide_default_value = true,
        value_name = "PATH"
    )]
    pub known_hosts: String,
    /// `true`: trust the host key that is shown at the first connection, and remember it.
    #[arg(
        id = "ssh_trust_first_key",
        long = "ssh-trust-first-key",
        env = "NORA_BACKUP_SSH_TRUST_FIRST_KEY",
        default_value = "",
        hide_default_value = true,
        value_name = "BOOL"
    )]
    pub trust_first_key: String,
}

impl SshSettings {
    pub(super) fn destination(&self) -> Result<SshDestination, SettingsError> {
        let port = self.port()?;
        let host = self.host.trim();
        let mut host_key = self.host_key.trim().replace("\\n", "\n");
        let known_hosts = self.known_hosts.trim();
        if host_key.is_empty() && !known_hosts.is_empty() && !host.is_empty() {
            const KNOWN_HOSTS: &str = "NORA_BACKUP_SSH_KNOWN_HOSTS";
            let text = read(KNOWN_HOSTS, known_hosts)?;
            let port = u16::try_from(port).ok().filter(|port| *port != 0);
            host_key = known_hosts_keys(&text, host, port.unwrap_or(22))
                .map_err(|what| wrong(KNOWN_HOSTS, format!("is {known_hosts}, which {what}")))?;
        }
        Ok(SshDestination {
            host: host.to_owned(),
            port,
            username: self.username.trim().to_owned(),
            remote_path: self.remote_path.trim().to_owned(),
            private_key: self.private_key()?.to_string(),
            passphrase: self.passphrase.expose().to_owned(),
            password: self.password.expose().to_owned(),
            host_key,
            trust_first_key: self.trust_first_key()?,
        })
    }

    fn port(&self) -> Result<u32, SettingsError> {
        match self.port.trim() {
            "" => Ok(0),
            text => match text.parse::<u16>() {
                Ok(port @ 1..) => Ok(port.into()),
                _ => Err(wrong(
                    "NORA_BACKUP_SSH_PORT",
                    format!("is {text:?}: set it to 1 to 65535"),
                )),
            },
        }
    }

    fn trust_first_key(&self) -> Result<bool, SettingsError> {
        match self.trust_first_key.trim() {
            "" | "false" => Ok(false),
            "true" => Ok(true),
            other => Err(wrong(
                "NORA_BACKUP_SSH_TRUST_FIRST_KEY",
                format!("is {other:?}: set it to `true` or `false`"),
            )),
        }
    }

    /// The key's text, also where only its file is named.
    fn private_key(&self) -> Result<Zeroizing<String>, SettingsError> {
        let text = self.private_key.expose().trim();
        if text.starts_with('/') && !text.contains('\n') {
            return read("NORA_BACKUP_SSH_PRIVATE_KEY", text);
        }
        Ok(Zeroizing::new(text.to_owned()))
    }
}

fn read(variable: &'static str, path: &str) -> Result<Zeroizing<String>, SettingsError> {
    fs::read_to_string(Path::new(path))
        .map(Zeroizing::new)
        .map_err(|e| wrong(variable, format!("names {path}, which can't be read: {e}")))
}
