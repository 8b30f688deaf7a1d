//! The flags that describe a place, and the message that they make: alone for a new
//! destination, on top of what is known for one that is changed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use proto::backup::v1::{
    LocalDestination, R2Destination, S3Destination, SshDestination, destination::Kind,
    s3_destination::AddressingStyle,
};

use super::secrets::Secrets;
use crate::{
    commands::agent::absolute,
    connect::Session,
    error::{CliError, Result},
};

/// Says how a place is given.
const HOW: &str = "give --local PATH, or the flags of a bucket (--s3-bucket, --r2-bucket) or of an \
                   SSH server (--ssh-host)";

/// What a place is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct PlaceArgs {
    /// A folder on the machine of each server and worker (the same one, mounted)
    #[arg(long, value_name = "PATH", help_heading = "Local")]
    pub local: Option<PathBuf>,
    /// A bucket of an S3-compatible service.
    #[command(flatten)]
    pub s3: S3Args,
    /// A bucket of Cloudflare R2.
    #[command(flatten)]
    pub r2: R2Args,
    /// A folder reached over SSH.
    #[command(flatten)]
    pub ssh: SshArgs,
    /// Where the secrets come from.
    #[command(flatten)]
    pub secrets: Secrets,
}

/// A bucket of an S3-compatible service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "S3")]
pub struct S3Args {
    /// Bucket of an S3-compatible service; it must exist
    #[arg(id = "s3_bucket", long = "s3-bucket", value_name = "NAME")]
    pub bucket: Option<String>,
    /// Region of the bucket [default: us-east-1]
    #[arg(id = "s3_region", long = "s3-region", value_name = "REGION")]
    pub region: Option<String>,
    /// Address of the service, http:// or https:// [default: AWS's own of the region]
    #[arg(id = "s3_endpoint", long = "s3-endpoint", value_name = "URL")]
    pub endpoint: Option<String>,
    /// What object names begin with, for example nora/prod
    #[arg(id = "s3_prefix", long = "s3-prefix", value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// Access key id
    #[arg(id = "s3_access_key_id", long = "s3-access-key-id", value_name = "ID")]
    pub access_key_id: Option<String>,
    /// How the bucket is addressed [default: auto, by path when an endpoint is set, else by host
    /// name]
    #[arg(
        id = "s3_addressing_style",
        long = "s3-addressing-style",
        value_enum,
        value_name = "STYLE"
    )]
    pub addressing_style: Option<StyleArg>,
    /// Storage class of new objects, for example STANDARD_IA [default: the bucket's]
    #[arg(
        id = "s3_storage_class",
        long = "s3-storage-class",
        value_name = "CLASS"
    )]
    pub storage_class: Option<String>,
    /// Server-side encryption of new objects: AES256 or aws:kms [default: the bucket's]
    #[arg(
        id = "s3_server_side_encryption",
        long = "s3-server-side-encryption",
        value_name = "KIND"
    )]
    pub server_side_encryption: Option<String>,
    /// Key of aws:kms [default: the account's own]
    #[arg(id = "s3_kms_key_id", long = "s3-kms-key-id", value_name = "KEY")]
    pub kms_key_id: Option<String>,
}

/// A bucket of Cloudflare R2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "R2")]
pub struct R2Args {
    /// Bucket of Cloudflare R2; it must exist
    #[arg(id = "r2_bucket", long = "r2-bucket", value_name = "NAME")]
    pub bucket: Option<String>,
    /// Address of the account: `https://ACCOUNT_ID.r2.cloudflarestorage.com`
    #[arg(id = "r2_endpoint", long = "r2-endpoint", value_name = "URL")]
    pub endpoint: Option<String>,
    /// Region [default: auto, the only one]
    #[arg(id = "r2_region", long = "r2-region", value_name = "REGION")]
    pub region: Option<String>,
    /// What object names begin with, for example nora/prod
    #[arg(id = "r2_prefix", long = "r2-prefix", value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// Access key id of an API token
    #[arg(id = "r2_access_key_id", long = "r2-access-key-id", value_name = "ID")]
    pub access_key_id: Option<String>,
}

/// A folder on a machine that is reached over SSH.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "SSH")]
pub struct SshArgs {
    /// Name or address of the SSH server
    #[arg(id = "ssh_host", long = "ssh-host", value_name = "HOST")]
    pub host: Option<String>,
    /// Port of the SSH server [default: 22]
    #[arg(id = "ssh_port", long = "ssh-port", value_name = "PORT",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// User to log in as
    #[arg(id = "ssh_username", long = "ssh-username", value_name = "USER")]
    pub username: Option<String>,
    /// Folder for the vaults, absolute or relative to where the login arrives
    #[arg(id = "ssh_remote_path", long = "ssh-remote-path", value_name = "PATH")]
    pub remote_path: Option<String>,
    /// Host key that the server must show, as `ssh-keyscan` prints it; may be repeated
    #[arg(id = "ssh_host_key", long = "ssh-host-key", value_name = "KEY")]
    pub host_keys: Vec<String>,
    /// Trust the host key that the first connection shows, and remember it (=false: no longer)
    #[arg(id = "ssh_trust_first_key", long = "ssh-trust-first-key", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub trust_first_key: Option<bool>,
}

/// How a bucket is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StyleArg {
    /// By path when an endpoint is set, else by host name.
    Auto,
    /// `https://endpoint/bucket/object`
    Path,
    /// `https://bucket.endpoint/object`
    VirtualHost,
}

/// The sort of a place, as its flags begin and as the API calls it.
pub fn sort(kind: &Kind) -> &'static str {
    match kind {
        Kind::Local(_) => "local",
        Kind::S3(_) => "s3",
        Kind::R2(_) => "r2",
        Kind::Ssh(_) => "ssh",
    }
}

impl PlaceArgs {
    /// The place of a new destination.
    pub fn place(&self, session: &Session) -> Result<Kind> {
        let empty = match self.sort()? {
            Some("local") => Kind::Local(LocalDestination::default()),
            Some("s3") => Kind::S3(S3Destination::default()),
            Some("r2") => Kind::R2(R2Destination::default()),
            Some(_) => Kind::Ssh(SshDestination::default()),
            None => return Err(CliError::usage("where is it?").hint(HOW)),
        };
        self.onto(session, empty)
    }

    /// A place that is known, with what the flags say otherwise; nothing without flags.
    pub fn change(&self, session: &Session, id: &str, known: Option<Kind>) -> Result<Option<Kind>> {
        let Some(wanted) = self.sort()? else {
            return Ok(None);
        };
        let Some(known) = known else {
            return Err(CliError::failed(format!(
                "destination {id} is of a kind that this program does not know: it is older than the \
                 service"
            )));
        };
        if sort(&known) != wanted {
            return Err(CliError::usage(format!(
                "destination {id} is of the kind {}, which can't be changed into {wanted}",
                sort(&known)
            ))
            .hint(format!(
                "add another one with `nora-backup destination add ID --{wanted}…`"
            )));
        }
        self.onto(session, known).map(Some)
    }

    /// The one sort of which flags are given.
    fn sort(&self) -> Result<Option<&'static str>> {
        let given = [
            ("local", self.local.is_some()),
            ("s3", self.s3 != S3Args::default()),
            ("r2", self.r2 != R2Args::default()),
            ("ssh", self.ssh != SshArgs::default()),
        ];
        let given: Vec<&str> = given
            .into_iter()
            .filter(|(sort, given)| *given || self.secrets.any(&format!("{sort}-")))
            .map(|(sort, _)| sort)
            .collect();
        match given[..] {
            [] => Ok(None),
            [sort] => Ok(Some(sort)),
            [first, second, ..] => Err(CliError::usage(format!(
                "flags of {first} and of {second} are given, and a destination is of one kind"
            ))
            .hint(HOW)),
        }
    }

    fn onto(&self, session: &Session, place: Kind) -> Result<Kind> {
        let secret = |to: &mut String, name: &str| -> Result<()> {
            if let Some(text) = self.secrets.read(name)? {
                *to = text;
            }
            Ok(())
        };
        Ok(match place {
            Kind::Local(mut local) => {
                if let Some(path) = &self.local {
                    local.path = absolute(session, path)?;
                }
                Kind::Local(local)
            }
            Kind::S3(mut s3) => {
                self.s3.onto(&mut s3);
                secret(&mut s3.secret_access_key, "s3-secret-access-key")?;
                secret(&mut s3.session_token, "s3-session-token")?;
                Kind::S3(s3)
            }
            Kind::R2(mut r2) => {
                self.r2.onto(&mut r2);
                secret(&mut r2.secret_access_key, "r2-secret-access-key")?;
                secret(&mut r2.session_token, "r2-session-token")?;
                Kind::R2(r2)
            }
            Kind::Ssh(mut ssh) => {
                self.ssh.onto(&mut ssh);
                secret(&mut ssh.private_key, "ssh-private-key")?;
                secret(&mut ssh.passphrase, "ssh-passphrase")?;
                secret(&mut ssh.password, "ssh-password")?;
                Kind::Ssh(ssh)
            }
        })
    }
}

impl S3Args {
    fn onto(&self, s3: &mut S3Destination) {
        set(&mut s3.bucket, self.bucket.as_ref());
        set(&mut s3.region, self.region.as_ref());
        set(&mut s3.endpoint, self.endpoint.as_ref());
        set(&mut s3.prefix, self.prefix.as_ref());
        set(&mut s3.access_key_id, self.access_key_id.as_ref());
        set(&mut s3.storage_class, self.storage_class.as_ref());
        let encryption = self.server_side_encryption.as_ref();
        set(&mut s3.server_side_encryption, encryption);
        set(&mut s3.kms_key_id, self.kms_key_id.as_ref());
        if let Some(style) = self.addressing_style {
            s3.addressing_style = match style {
                StyleArg::Auto => AddressingStyle::Unspecified,
                StyleArg::Path => AddressingStyle::Path,
                StyleArg::VirtualHost => AddressingStyle::VirtualHost,
            }
            .into();
        }
    }
}

impl R2Args {
    fn onto(&self, r2: &mut R2Destination) {
        set(&mut r2.bucket, self.bucket.as_ref());
        set(&mut r2.endpoint, self.endpoint.as_ref());
        set(&mut r2.region, self.region.as_ref());
        set(&mut r2.prefix, self.prefix.as_ref());
        set(&mut r2.access_key_id, self.access_key_id.as_ref());
    }
}

impl SshArgs {
    fn onto(&self, ssh: &mut SshDestination) {
        set(&mut ssh.host, self.host.as_ref());
        set(&mut ssh.username, self.username.as_ref());
        set(&mut ssh.remote_path, self.remote_path.as_ref());
        if let Some(port) = self.port {
            ssh.port = port.into();
        }
        if !self.host_keys.is_empty() {
            self.host_keys
                .join("\n")
                .trim()
                .clone_into(&mut ssh.host_key);
        }
        if let Some(trust) = self.trust_first_key {
            ssh.trust_first_key = trust;
        }
    }
}

fn set(to: &mut String, given: Option<&String>) {
    if let Some(text) = given {
        text.trim().clone_into(to);
    }
}

/// An error that names fields of the API, naming the flags instead: for people. Programs get
/// the names of the API.
pub fn with_flags(session: &Session, mut error: CliError) -> CliError {
    if !session.out.json {
        for (field, _) in &mut error.fields {
            if let Some(flag) = flag(field) {
                *field = flag;
            }
        }
    }
    error
}

/// The flag of a field of a destination.
fn flag(field: &str) -> Option<String> {
    let field = field.strip_prefix("destination.").unwrap_or(field);
    let (sort, name) = match field.split_once('.') {
        Some((sort @ ("s3" | "r2" | "ssh"), name)) => (sort, name),
        Some(("local", "path")) => return Some("--local".to_owned()),
        Some(_) => return None,
        None => {
            return match field {
                "destination_id" => Some("ID".to_owned()),
                "display_name" => Some("--name".to_owned()),
                "local" => Some("--local".to_owned()),
                "s3" | "r2" | "ssh" => Some(format!("--{field}-...")),
                "kind" => Some("--local, --s3-bucket, --r2-bucket or --ssh-host".to_owned()),
                _ => None,
            };
        }
    };
    let name = format!("{sort}-{}", name.replace('_', "-"));
    let end = if Secrets::is_one(&name) { "-file" } else { "" };
    Some(format!("--{name}{end}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::{args::Cli, output::json::POOL};

    #[test]
    fn every_field_of_a_place_has_a_flag() {
        let cli = Cli::command();
        let add = ["destination", "add"]
            .iter()
            .try_fold(&cli, |at, name| at.find_subcommand(name))
            .expect("destination add");
        let destination = POOL
            .get_message_by_name("nora.backup.v1.Destination")
            .expect("message");
        let sorts = destination.oneofs().next().expect("kind");
        let mut flags = 0;
        for sort in sorts.fields() {
            let message = sort.kind().as_message().cloned().expect("message");
            for field in message.fields() {
                let path = format!("destination.{}.{}", sort.name(), field.name());
                let flag = flag(&path).unwrap_or_default();
                let long = flag.trim_start_matches("--");
                assert!(
                    add.get_arguments().any(|arg| arg.get_long() == Some(long)),
                    "{path}: there is no flag {flag}"
                );
                flags += 1;
            }
        }
        assert!(flags > 20, "{flags}");
        assert_eq!(flag("destination_id").as_deref(), Some("ID"));
        assert_eq!(flag("destination.display_name").as_deref(), Some("--name"));
        assert_eq!(flag("destination.ssh").as_deref(), Some("--ssh-..."));
        assert_eq!(flag("page_size"), None);
    }

    #[test]
    fn a_place_is_of_one_sort() {
        let place = |local: bool, bucket: bool| PlaceArgs {
            local: local.then(|| "/srv".into()),
            r2: R2Args {
                bucket: bucket.then(|| "b".to_owned()),
                ..R2Args::default()
            },
            ..PlaceArgs::default()
        };
        assert_eq!(place(false, false).sort().expect("none"), None);
        assert_eq!(place(true, false).sort().expect("one"), Some("local"));
        assert_eq!(place(false, true).sort().expect("one"), Some("r2"));
        let error = place(true, true).sort().expect_err("two");
        assert!(error.message.contains("local and of r2"), "{error}");
    }

    #[test]
    fn only_what_is_given_is_changed() {
        let mut s3 = S3Destination {
            bucket: "nora".into(),
            region: "eu-central-1".into(),
            storage_class: "STANDARD_IA".into(),
            addressing_style: AddressingStyle::Path.into(),
            ..S3Destination::default()
        };
        let given = S3Args {
            region: Some(" eu-west-1 ".into()),
            storage_class: Some(String::new()),
            ..S3Args::default()
        };
        given.onto(&mut s3);
        assert_eq!(
            (s3.bucket.as_str(), s3.region.as_str()),
            ("nora", "eu-west-1")
        );
        assert_eq!(s3.storage_class, "");
        assert!(s3.addressing_style() == AddressingStyle::Path);
        let mut ssh = SshDestination {
            port: 2222,
            host_key: "ssh-ed25519 old".into(),
            trust_first_key: true,
            ..SshDestination::default()
        };
        SshArgs {
            host_keys: vec!["ssh-ed25519 new".into(), "ssh-rsa other".into()],
            trust_first_key: Some(false),
            ..SshArgs::default()
        }
        .onto(&mut ssh);
        assert_eq!(ssh.port, 2222);
        assert_eq!(ssh.host_key, "ssh-ed25519 new\nssh-rsa other");
        assert!(!ssh.trust_first_key);
    }
}
