//! The default destination, from the environment.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, builder::TypedValueParser as _};
use proto::backup::v1::{Destination, LocalDestination, destination::Kind};

use super::{R2Settings, S3Settings, SettingsError, SshSettings, wrong};
use crate::{
    destination::{self, HostKeys},
    error::StoreError,
    store::Store,
};

const STORAGE: &str = "NORA_BACKUP_STORAGE";

/// Where vaults are kept, unless an agent names another destination.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Destination")]
pub struct DestinationSettings {
    /// Kind of destination: `local`, `s3`, `r2` or `ssh`.
    #[arg(
        long = "storage",
        env = STORAGE,
        default_value = "local",
        value_name = "KIND"
    )]
    pub storage: String,
    /// Folder of the local destination.
    #[arg(
        long = "dir",
        env = "NORA_BACKUP_DIR",
        default_value = "",
        hide_default_value = true,
        value_name = "PATH",
        value_parser = clap::builder::StringValueParser::new().map(PathBuf::from)
    )]
    pub dir: PathBuf,
    /// With `s3`.
    #[command(flatten)]
    pub s3: S3Settings,
    /// With `r2`.
    #[command(flatten)]
    pub r2: R2Settings,
    /// With `ssh`.
    #[command(flatten)]
    pub ssh: SshSettings,
}

impl DestinationSettings {
    /// A folder on this machine.
    pub fn local(dir: PathBuf) -> Self {
        Self {
            storage: "local".to_owned(),
            dir,
            ..Self::default()
        }
    }

    /// Whether it is a folder on this machine.
    pub fn is_local(&self) -> bool {
        matches!(self.storage.trim(), "" | "local")
    }

    /// The destination called "default", checked.
    pub fn destination(&self) -> Result<Destination, SettingsError> {
        let kind = match self.storage.trim() {
            "" | "local" => Kind::Local(LocalDestination {
                path: self.dir.to_string_lossy().into_owned(),
            }),
            "s3" => Kind::S3(self.s3.destination()?),
            "r2" => Kind::R2(self.r2.destination()),
            "ssh" => Kind::Ssh(self.ssh.destination()?),
            other => {
                return Err(wrong(
                    STORAGE,
                    format!("is {other:?}: set it to `local`, `s3`, `r2` or `ssh`"),
                ));
            }
        };
        let destination = Destination {
            destination_id: destination::DEFAULT.to_owned(),
            display_name: destination::DEFAULT.to_owned(),
            kind: Some(kind),
            ..Destination::default()
        };
        match destination::check(&destination).into_iter().next() {
            None => Ok(destination),
            Some(problem) => Err(SettingsError {
                variable: destination::variable(&problem.field).into(),
                what: problem.what,
            }),
        }
    }

    /// Opens it.
    pub fn open(&self, host_keys: &Arc<dyn HostKeys>) -> Result<Arc<dyn Store>, DestinationError> {
        Ok(destination::open(&self.destination()?, host_keys)?)
    }
}

/// Why a destination does not open.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The destination refuses.
    #[error("{STORAGE}: {0}")]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        destination: DestinationSettings,
    }

    fn parse(arguments: &[&str]) -> DestinationSettings {
        let line = [&["program"], arguments].concat();
        let matches = <Program as clap::CommandFactory>::command()
            .mut_args(|arg| arg.env(clap::builder::Resettable::Reset))
            .try_get_matches_from(line)
            .expect("parse");
        Program::from_arg_matches(&matches)
            .expect("parse")
            .destination
    }

    fn refused(arguments: &[&str]) -> String {
        parse(arguments)
            .destination()
            .expect_err("refused")
            .to_string()
    }

    const S3: &[&str] = &[
        "--storage=s3",
        "--s3-bucket=nora",
        "--s3-endpoint=https://s3.example.net:9000",
        "--s3-access-key-id=AKIDEXAMPLE",
        "--s3-secret-access-key=very-secret",
    ];

    #[test]
    fn a_wrong_setting_is_named_by_its_variable() {
        for (arguments, expected) in [
            (&["--storage=tape"][..], "NORA_BACKUP_STORAGE is \"tape\""),
            (&["--storage=local"], "NORA_BACKUP_DIR is not set"),
            (&["--dir=here"], "NORA_BACKUP_DIR is \"here\""),
            (&["--storage=s3"], "NORA_BACKUP_S3_BUCKET is not set"),
            (
                &["--storage=r2", "--r2-bucket=nora"],
                "NORA_BACKUP_R2_ENDPOINT is not set",
            ),
            (
                &[S3, &["--s3-addressing-style=dns"]].concat(),
                "NORA_BACKUP_S3_ADDRESSING_STYLE is \"dns\"",
            ),
            (
                &[S3, &["--s3-kms-key-id=1234"]].concat(),
                "NORA_BACKUP_S3_KMS_KEY_ID is set",
            ),
            (&["--storage=ssh"], "NORA_BACKUP_SSH_HOST is not set"),
            (
                &["--storage=ssh", "--ssh-port=0"],
                "NORA_BACKUP_SSH_PORT is \"0\"",
            ),
            (
                &["--storage=ssh", "--ssh-trust-first-key=maybe"],
                "NORA_BACKUP_SSH_TRUST_FIRST_KEY is \"maybe\"",
            ),
            (
                &["--storage=ssh", "--ssh-private-key=/not/there"],
                "NORA_BACKUP_SSH_PRIVATE_KEY names /not/there, which can't be read",
            ),
            (
                &[
                    "--storage=ssh",
                    "--ssh-host=h",
                    "--ssh-known-hosts=/dev/null",
                ],
                "NORA_BACKUP_SSH_KNOWN_HOSTS is /dev/null, which has no key of h",
            ),
            (
                &[
                    "--storage=ssh",
                    "--ssh-host=h",
                    "--ssh-username=u",
                    "--ssh-remote-path=p",
                ],
                "NORA_BACKUP_SSH_PRIVATE_KEY is not set, and the password neither",
            ),
            (
                &[
                    "--storage=ssh",
                    "--ssh-host=u@h:22",
                    "--ssh-username=u",
                    "--ssh-remote-path=p",
                    "--ssh-password=very-secret",
                ],
                "NORA_BACKUP_SSH_HOST is \"u@h:22\"",
            ),
        ] {
            let said = refused(arguments);
            assert!(said.starts_with(expected), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = parse(&[S3, &["--s3-session-token=also-secret"]].concat());
        let shown = format!("{settings:?} {:?}", settings.destination().expect("right"));
        assert!(shown.contains("s3.example.net"), "{shown}");
        for secret in ["very-secret", "also-secret"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
