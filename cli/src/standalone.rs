//! `standalone`: server and worker in one process, everything in one data
//! directory. Nothing to install.
//!
//! - [`data_dir`]: the files of a data directory, and who may use it
//! - [`service`]: server and worker put together and run
//! - [`welcome`]: where things are, and what to type next

pub mod data_dir;
pub mod service;
pub mod welcome;

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use catalog::{CatalogSettings, DatabaseUrl};
use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use data_dir::DataDir;
use process::signals::told_to_stop;
use server::ServerSettings;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use vault::{DestinationSettings, KeySettings, StoreError, VaultSettings};
use worker::WorkerSettings;

use crate::{
    error::{CliError, Result},
    exit::Exit,
    output::Output,
};

/// Stands for the data directory in defaults that are shown.
const DATABASE_DEFAULT: &str = "sqlite:DATA_DIR/catalog.db";

/// Arguments of `standalone`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nora-backup standalone\n  \
    nora-backup standalone --data-dir /srv/nora-backup --listen 127.0.0.1:7000 --source-root /srv/agents\n  \
    NORA_BACKUP_DIR=/mnt/backups nora-backup standalone\n\n\
    The first start makes an encryption key (DATA_DIR/key) and an administrator's token\n\
    (DATA_DIR/token). Keep a copy of the key elsewhere: without it no backup can be opened.")]
pub struct StandaloneArgs {
    /// Where everything is kept [default: $XDG_DATA_HOME/nora-backup, else ~/.local/share/nora-backup]
    #[arg(long, env = "NORA_BACKUP_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// A folder under which agents may lie, and restores go; may be repeated
    /// [default: your home folder]
    #[arg(long = "source-root", value_name = "FOLDER")]
    pub source_root: Vec<PathBuf>,
    /// The server's settings.
    #[command(flatten)]
    pub server: ServerSettings,
    /// The worker's settings.
    #[command(flatten)]
    pub worker: WorkerSettings,
    /// The catalog's settings.
    #[command(flatten)]
    pub catalog: CatalogSettings,
    /// Where vaults are kept.
    #[command(flatten)]
    pub destination: DestinationSettings,
    /// The keys.
    #[command(flatten)]
    pub keys: KeySettings,
    /// How much a vault may use.
    #[command(flatten)]
    pub vault: VaultSettings,
}

/// Gives the parts' settings the defaults of one data directory.
pub fn complete(command: clap::Command) -> clap::Command {
    command.mut_subcommand("standalone", |standalone| {
        standalone.mut_args(complete_setting)
    })
}

fn complete_setting(arg: clap::Arg) -> clap::Arg {
    let path = || OsStringValueParser::new().map(PathBuf::from);
    match arg.get_id().as_str() {
        "listen" => arg.visible_alias("listen"),
        "database_url" => arg
            .required(false)
            .default_value(DATABASE_DEFAULT)
            .value_parser(database_url)
            .help_heading("Catalog"),
        "database_connections" | "max_attempts" | "retry_base_ms" | "retry_max_ms" => {
            arg.help_heading("Catalog")
        }
        // An empty path is one that is not set.
        "tls_certificate" | "tls_key" | "tls_client_authority" => arg.value_parser(path()),
        "dir" => arg
            .value_parser(path())
            .help("Folder of the local destination (when not set: DATA_DIR)"),
        "encryption_key" => arg.help(
            "Key-encryption key that wraps new data keys: 64 hexadecimal digits (when not set: \
             the one in DATA_DIR/key, made at the first start)",
        ),
        "jwt_secret" => arg.help(
            "Secret that signs callers' tokens (HS256), at least 32 bytes (when not set: the one \
             in DATA_DIR/jwt-secret, made at the first start)",
        ),
        "source_roots" => arg.help(
            "Folders under which directory sources and restore targets may lie, absolute, \
             separated by ':' (when not set: your home folder)",
        ),
        "health_address" => arg.default_value("127.0.0.1"),
        _ => arg,
    }
}

/// The default stands for a file in the data directory; empty is not set.
fn database_url(text: &str) -> Result<DatabaseUrl, String> {
    let text = text.trim();
    if text.is_empty() {
        DATABASE_DEFAULT
    } else {
        text
    }
    .parse()
}

/// Runs until it is told to stop.
pub async fn run(mut args: StandaloneArgs, out: Output) -> Result<()> {
    let dir = DataDir::open(data_dir::resolve(args.data_dir.take())?)?;
    let made_key = settle(&mut args, &dir).await?;
    let listener = listen(args.server.listen).await?;
    let address = listener
        .local_addr()
        .map_err(|error| CliError::io("find the address that is listened on", &error))?;
    let admin = listen_for_admins(args.server.admin_listen.0).await?;
    let admin_address = admin.as_ref().and_then(|admin| admin.local_addr().ok());
    let parts = service::Parts::open(args.parts()).await?;
    let parts = parts.with_admin(admin).with_ops().await?;
    let addresses = welcome::Addresses {
        public: address,
        admin: admin_address,
    };
    welcome::announce(&args, &dir, addresses, made_key, out)?;
    let stop = CancellationToken::new();
    tokio::select! {
        ended = parts.run(listener, stop.clone()) => ended,
        () = told_to_stop(stop.clone(), || {
            out.note("stopping: what runs is brought to a good point; once more stops at once");
        }) => Err(CliError::silent(Exit::Interrupted)),
    }
}

impl StandaloneArgs {
    fn parts(&self) -> service::Settings {
        service::Settings {
            server: self.server.clone(),
            worker: self.worker.clone(),
            catalog: self.catalog.clone(),
            destination: self.destination.clone(),
            keys: self.keys.clone(),
            vault: self.vault.clone(),
        }
    }
}

/// Fills in what was not set from the data directory; says whether a key was made.
async fn settle(args: &mut StandaloneArgs, dir: &DataDir) -> Result<bool> {
    if args.catalog.database_url.sqlite_path() == Some(Path::new("DATA_DIR/catalog.db")) {
        args.catalog.database_url = CatalogSettings::sqlite(dir.catalog()).database_url;
    }
    if args.destination.is_local() && args.destination.dir.as_os_str().is_empty() {
        args.destination.dir = dir.path().to_path_buf();
    }
    let made_key = settle_key(&mut args.keys, &args.destination, dir).await?;
    if args.server.jwt_secret.trim().is_empty() {
        args.server.jwt_secret = dir.jwt_secret()?;
    }
    let server = &args.server;
    dir.admin_token(
        server.jwt_secret.trim(),
        &server.jwt_audience,
        &server.jwt_issuer,
    )?;
    let mut roots = args.worker.source_roots.to_vec();
    for root in &args.source_root {
        roots.push(
            std::path::absolute(root)
                .map_err(|error| CliError::io(format!("find {}", root.display()), &error))?,
        );
    }
    if roots.is_empty() {
        let home = env::var_os("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute());
        roots.push(home.ok_or_else(|| {
            CliError::usage("HOME is not set: say with --source-root where agents may lie")
        })?);
    }
    args.worker.source_roots = roots.into();
    Ok(made_key)
}

/// The key that is set, or the one in the data directory. A key in the directory
/// goes on opening what it wrapped, beside one that is set.
async fn settle_key(
    keys: &mut KeySettings,
    to: &DestinationSettings,
    dir: &DataDir,
) -> Result<bool> {
    if !keys.is_set() {
        let (key, made) = if to.is_local() {
            dir.key(&to.dir)?
        } else if let Some(key) = dir.kept_key()? {
            (key, false)
        } else {
            (make_key(to, dir).await?, true)
        };
        keys.encryption_key = key;
        return Ok(made);
    }
    keys.kept_keys.extend(dir.kept_key()?);
    Ok(false)
}

/// A new key, but never where the destination holds vaults, which that key could
/// not open.
async fn make_key(to: &DestinationSettings, dir: &DataDir) -> Result<String> {
    let destination = to
        .destination()
        .map_err(|error| CliError::usage(error.to_string()))?;
    let place = vault::destination::place(&destination);
    let vaults = service::open_destination(to)?
        .list_folders("vaults/")
        .await
        .map_err(|error| not_looked(&place, &error))?;
    if vaults.is_empty() {
        return dir.make_key();
    }
    Err(dir.key_is_gone(&place))
}

/// It can't be told whether the destination holds vaults. The error names the cause; the key
/// has nothing to do with it.
fn not_looked(place: &str, error: &StoreError) -> CliError {
    let (exit, remedy) = if error.kind.is_retryable() {
        let again = "start it again once the destination can be reached";
        (Exit::Unavailable, again)
    } else {
        (Exit::Failed, "put right what the destination refuses")
    };
    let message = format!("look for backups at {place}: {error}");
    CliError::new(exit, message).hint(format!(
        "{remedy}: a first key is made only where it is seen that there are no backups yet"
    ))
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        CliError::io(format!("listen on {address}"), &error)
            .hint("--listen (NORA_BACKUP_LISTEN_ADDR) names another address")
    })
}

/// The administrators' listener. Somebody else on the default port (a second standalone on this
/// machine) is no reason not to back up; on a port that was asked for it is.
async fn listen_for_admins(wanted: Option<SocketAddr>) -> Result<Option<TcpListener>> {
    let Some(address) = wanted else {
        return Ok(None);
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if wanted == ServerSettings::default().admin_listen.0 => {
            warn!(
                %address,
                %error,
                "the administrators' port is taken (NORA_BACKUP_ADMIN_ADDR): going on without it"
            );
            Ok(None)
        }
        Err(error) => Err(CliError::io(format!("listen on {address}"), &error)
            .hint("--admin-addr (NORA_BACKUP_ADMIN_ADDR) names another address, or off")),
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(arguments: &[&str]) -> StandaloneArgs {
        let line = [&["nora-backup", "standalone"], arguments].concat();
        let matches = crate::command().try_get_matches_from(line).expect("parse");
        match Cli::from_arg_matches(&matches).expect("parse").command {
            Command::Standalone(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_destination_that_cannot_be_looked_at_is_no_matter_of_the_key() {
        use vault::StoreErrorKind::{Denied, Misconfigured, Refused, Timeout, Unavailable};
        for (kind, exit, hint) in [
            (
                Unavailable,
                Exit::Unavailable,
                "once the destination can be reached",
            ),
            (
                Timeout,
                Exit::Unavailable,
                "once the destination can be reached",
            ),
            (Denied, Exit::Failed, "what the destination refuses"),
            (Refused, Exit::Failed, "what the destination refuses"),
            (Misconfigured, Exit::Failed, "what the destination refuses"),
        ] {
            let cause = StoreError {
                action: "list",
                object: "vaults/".to_owned(),
                kind,
                detail: "the cause".to_owned(),
            };
            let error = not_looked("s3://bucket", &cause);
            assert_eq!(error.exit, exit);
            let words = error.to_string();
            assert!(
                words.contains("the cause") && words.contains(hint),
                "{words}"
            );
            assert!(!words.contains("NORA_BACKUP_ENCRYPTION_KEY"), "{words}");
        }
    }

    #[tokio::test]
    async fn what_is_not_set_comes_from_the_data_directory() {
        let scratch = tempfile::tempdir().expect("folder");
        let dir = DataDir::open(scratch.path().into()).expect("open");
        let root = scratch.path().to_str().expect("UTF-8");
        let mut args = parse(&["--listen", "127.0.0.1:0", "--source-root", root]);
        assert!(settle(&mut args, &dir).await.expect("settle"));
        assert_eq!(args.server.listen.port(), 0);
        assert_eq!(
            args.catalog.database_url.sqlite_path(),
            Some(dir.catalog().as_path())
        );
        assert_eq!(args.destination.dir, scratch.path());
        assert_eq!(args.worker.source_roots.as_ref(), [scratch.path()]);
        assert_eq!(args.worker.health_address.to_string(), "127.0.0.1");
        assert_eq!(args.server.jwt_secret.len(), 64);
        args.keys.keyring().expect("a key that can be used");
        let mut again = parse(&["--database-url="]);
        assert!(!settle(&mut again, &dir).await.expect("settle"));
        assert_eq!(again.keys.encryption_key, args.keys.encryption_key);
        assert_eq!(
            again.catalog.database_url.sqlite_path(),
            Some(dir.catalog().as_path())
        );
    }

    #[tokio::test]
    async fn a_key_that_is_set_wins_and_the_kept_one_still_opens() {
        let scratch = tempfile::tempdir().expect("folder");
        let dir = DataDir::open(scratch.path().into()).expect("open");
        let mut first = parse(&[]);
        settle(&mut first, &dir).await.expect("settle");
        let key = "11".repeat(32);
        let mut second = parse(&["--encryption-key", &key]);
        assert!(!settle(&mut second, &dir).await.expect("settle"));
        assert_eq!(second.keys.encryption_key, key);
        assert_eq!(second.keys.kept_keys, [first.keys.encryption_key]);
        second.keys.keyring().expect("keys that can be used");
    }
}
