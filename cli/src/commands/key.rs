//! `key`: the key-encryption keys of the service. Calls `ListKeys`, `RotateKeys`,
//! `GetKeyRotation`, `WatchKeyRotation` at the administrators' listener; `key new` calls
//! nothing.

use std::{
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use proto::backup::v1::{
    GetKeyRotationRequest, Key, KeyRotation, ListKeysRequest, RotateKeysRequest, key, key_rotation,
};
use serde_json::json;
use uuid::Uuid;
use vault::KeyEncryptionKey;

use super::admin::AdminServer;
use crate::{
    args::Global,
    connect::{Session, call},
    error::{CliError, Result},
    exit::Exit,
    find::incomplete,
    output::{
        Output, human,
        json::Document as _,
        table::{Align, Table, fields},
    },
    show, watch,
};

/// Arguments of `key`.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// Where administrators call.
    #[command(flatten)]
    pub server: AdminServer,
    /// What to do.
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What can be done about keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the keys by their ids: which writes, who holds them, how many vaults they open
    #[command(after_help = "Examples:\n  nora-backup key list\n  nora-backup key list --json")]
    List,
    /// Bring every vault under the key that the service writes with
    #[command(
        after_help = "Examples:\n  nora-backup key rotate --watch\n  nora-backup key rotate --retire-previous --watch\n  \
                      nora-backup key status"
    )]
    Rotate(RotateArgs),
    /// Show a rotation: the last one, or the one that is named
    #[command(after_help = "Examples:\n  nora-backup key status\n  nora-backup key status --watch")]
    Status(StatusArgs),
    /// Make a fresh key, on this machine
    #[command(
        after_help = "Examples:\n  nora-backup key new\n  nora-backup key new --out /etc/nora-backup/key"
    )]
    New(NewArgs),
}

/// Arguments of `key rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Take the other keys' wraps away, so that those keys are not needed any more
    #[arg(long)]
    pub retire_previous: bool,
    /// Follow it to its end
    #[arg(long, short)]
    pub watch: bool,
    /// Makes the call once, however often it is sent [default: a new one]
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
}

/// Arguments of `key status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The rotation [default: the last one]
    pub rotation: Option<String>,
    /// Follow it to its end
    #[arg(long, short)]
    pub watch: bool,
}

/// Arguments of `key new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// File to write the key to, mode 0600, that is not there yet; the id is printed
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Runs one of them.
pub async fn run(global: &Global, args: KeyArgs, out: Output) -> Result<()> {
    let command = match args.command {
        KeyCommand::New(args) => return new(&args, out),
        command => command,
    };
    let server = args.server.of(global)?;
    let session = &Session::connect_to(server, global, out).await?;
    match command {
        KeyCommand::List => list(session).await,
        KeyCommand::Rotate(args) => rotate(session, args).await,
        KeyCommand::Status(args) => status(session, args).await,
        KeyCommand::New(_) => Ok(()),
    }
}

async fn list(session: &Session) -> Result<()> {
    let answer = session.admin().list_keys(call(ListKeysRequest {})).await?;
    let answer = answer.into_inner();
    let out = session.out;
    if out.json {
        return out.document(&answer.to_json());
    }
    if out.quiet {
        return answer.keys.iter().try_for_each(|key| out.line(&key.key_id));
    }
    let mut table = Table::new(&[
        ("KEY", Align::Left),
        ("ROLE HERE", Align::Left),
        ("VAULTS", Align::Right),
        ("ONLY THIS KEY", Align::Right),
        ("HELD BY", Align::Left),
    ]);
    for key in &answer.keys {
        table.row(vec![
            human::printable(&key.key_id),
            role(key).to_owned(),
            key.vaults.to_string(),
            key.vaults_only.to_string(),
            human::printable(&human::or_dash(&key.holders.join(", "))),
        ]);
    }
    table.lines().iter().try_for_each(|line| out.line(line))
}

fn role(key: &Key) -> &'static str {
    match key.role() {
        key::Role::Writing => "writing",
        key::Role::Previous => "previous",
        key::Role::Unknown | key::Role::Unspecified => "not here",
    }
}

async fn rotate(session: &Session, args: RotateArgs) -> Result<()> {
    let request = RotateKeysRequest {
        retire_previous: args.retire_previous,
        request_id: args
            .request_id
            .unwrap_or_else(|| Uuid::now_v7().to_string()),
    };
    let answer = session.admin().rotate_keys(call(request)).await?;
    let rotation = answer.into_inner().rotation.ok_or_else(incomplete)?;
    told(session, rotation, args.watch).await
}

async fn status(session: &Session, args: StatusArgs) -> Result<()> {
    let request = GetKeyRotationRequest {
        rotation_id: args.rotation.unwrap_or_default(),
    };
    let answer = session.admin().get_key_rotation(call(request)).await?;
    let rotation = answer.into_inner().rotation.ok_or_else(incomplete)?;
    told(session, rotation, args.watch).await
}

/// Shows a rotation, at its end when that is wanted.
async fn told(session: &Session, rotation: KeyRotation, wait: bool) -> Result<()> {
    let out = session.out;
    if !wait {
        return print(out, &rotation);
    }
    let rotation = watch::rotation(session, &rotation.rotation_id).await?;
    if !out.json {
        print(out, &rotation)?;
    }
    let at_all = rotation.destinations.iter().all(|at| at.failure.is_none());
    if rotation.state() == key_rotation::State::Completed && rotation.vaults_failed == 0 && at_all {
        return Ok(());
    }
    Err(CliError::silent(Exit::Failed))
}

fn print(out: Output, rotation: &KeyRotation) -> Result<()> {
    if out.json {
        return out.document(&rotation.to_json());
    }
    if out.quiet {
        return out.line(&rotation.rotation_id);
    }
    let state = rotation.state().as_str_name();
    let failure = rotation.failure.as_ref().map(show::failure);
    let shown = [
        ("rotation", human::printable(&rotation.rotation_id)),
        ("to key", human::printable(&rotation.writing_key_id)),
        (
            "other keys",
            if rotation.retire_previous {
                "retired".to_owned()
            } else {
                "kept".to_owned()
            },
        ),
        ("state", state.trim_start_matches("STATE_").to_lowercase()),
        (
            "vaults",
            format!(
                "{} of {}, {} rewritten, {} failed",
                rotation.vaults_done,
                rotation.vaults_total,
                rotation.vaults_changed,
                rotation.vaults_failed
            ),
        ),
        ("failure", failure.unwrap_or_default()),
        (
            "asked for",
            human::time_with_zone(rotation.create_time.as_ref()),
        ),
        ("ended", human::time_with_zone(rotation.end_time.as_ref())),
    ];
    fields(&shown).iter().try_for_each(|line| out.line(line))?;
    for at in &rotation.destinations {
        if let Some(failure) = &at.failure {
            out.line(format!(
                "  destination {}, {} of {} vaults: {}",
                human::printable(&at.destination_id),
                at.vaults_done,
                at.vaults_total,
                show::failure(failure)
            ))?;
        }
    }
    for problem in &rotation.problems {
        let why = problem.failure.as_ref().map(show::failure);
        out.line(format!(
            "  {} at destination {}: {}",
            human::printable(&problem.agent_id),
            human::printable(&problem.destination_id),
            why.unwrap_or_default()
        ))?;
    }
    Ok(())
}

fn new(args: &NewArgs, out: Output) -> Result<()> {
    let (key, digits) = KeyEncryptionKey::generate();
    let id = key.id();
    if let Some(path) = &args.out {
        write(path, &digits)?;
    }
    match (&args.out, out.json) {
        (Some(path), true) => {
            out.document(&json!({ "key_id": id, "file": path.display().to_string() }))
        }
        (Some(_), false) => out.line(&id),
        (None, true) => out.document(&json!({ "key_id": id, "key": *digits })),
        (None, false) => {
            out.line(&*digits)?;
            out.note(format!(
                "its id is {id}; keep it where only the service reads it, and a copy elsewhere: \
                 without it nothing that it wraps can be opened"
            ));
            Ok(())
        }
    }
}

/// Writes a key to a file of its own, for this user only, down to the disk.
fn write(path: &Path, digits: &str) -> Result<()> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(digits.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().map_err(|error| CliError::io(format!("write the key to {}", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_new_key_is_written_for_one_user_and_never_over_another() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key");
        let (key, digits) = KeyEncryptionKey::generate();
        write(&path, &digits).expect("write");
        let text = fs::read_to_string(&path).expect("read");
        let read = KeyEncryptionKey::from_hex(&text).expect("a key");
        assert_eq!(read.id(), key.id());
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        write(&path, &digits).expect_err("it is there already");
        let (other, _) = KeyEncryptionKey::generate();
        assert_ne!(other.id(), key.id());
    }
}
