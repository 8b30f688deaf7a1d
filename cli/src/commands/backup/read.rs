//! `backup download` and `backup get`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::Args;
use proto::backup::v1::{BackupEntry, DownloadBackupRequest, DownloadEntryRequest};
use serde_json::json;

use super::entries::path_bytes;
use crate::{
    connect::Session,
    error::{CliError, Result},
    find::{self, Latest},
    output::json::Document as _,
    progress::Meter,
    transfer::{self, Goal, Received, Transfer},
};

/// Arguments of `backup download`.
#[derive(Debug, Args)]
pub struct DownloadArgs {
    /// The backup: its id, the beginning of it, or AGENT@latest (the newest completed one)
    pub backup: String,
    /// Where to: a file, a folder, or - for standard output [default: the service's name for it]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The destination where it is read, of one of its copies [default: where it lies]
    #[arg(long, value_name = "DESTINATION")]
    pub from: Option<String>,
    /// Go on with FILE.part that an earlier run left behind
    #[arg(long)]
    pub resume: bool,
    /// Replace the file when it exists
    #[arg(long, short)]
    pub force: bool,
}

/// Arguments of `backup get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The backup: its id, the beginning of it, or AGENT@latest (the newest completed one)
    pub backup: String,
    /// The file's path in the backup
    pub path: String,
    /// Where to: a file, a folder, or - for standard output [default: the file's own name]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The destination where it is read, of one of its copies [default: where it lies]
    #[arg(long, value_name = "DESTINATION")]
    pub from: Option<String>,
    /// Replace the file when it exists
    #[arg(long, short)]
    pub force: bool,
}

fn goal(output: Option<PathBuf>) -> Goal {
    match output {
        None => Goal::Default,
        Some(path) if path == Path::new("-") => Goal::Stdout,
        Some(path) => Goal::File(path),
    }
}

fn check(session: &Session, goal: &Goal) -> Result<()> {
    if session.out.json && *goal == Goal::Stdout {
        return Err(CliError::usage(
            "standard output can't take both the bytes and --json",
        ));
    }
    Ok(())
}

pub(super) async fn download(session: &Session, args: DownloadArgs) -> Result<()> {
    let goal = goal(args.output);
    check(session, &goal)?;
    if args.resume && goal == Goal::Stdout {
        return Err(CliError::usage(
            "--resume needs a file, not standard output",
        ));
    }
    let backup_id = find::backup_id(session, &args.backup, Latest::Completed).await?;
    let from = args.from.unwrap_or_default();
    let meter = Meter::new(session.out, "download");
    let transfer = Transfer {
        goal,
        force: args.force,
        resume: args.resume,
        meter,
    };
    let received = transfer::receive(transfer, |offset, etag| {
        let mut client = session.backups();
        let request = DownloadBackupRequest {
            backup_id: backup_id.clone(),
            offset,
            etag,
            destination_id: from.clone(),
        };
        async move { client.download_backup(request).await }
    })
    .await?;
    conclude(session, &backup_id, &received)
}

pub(super) async fn get(session: &Session, args: GetArgs) -> Result<()> {
    let path = path_bytes(&args.path);
    let name = args
        .path
        .rsplit('/')
        .find(|part| !part.is_empty())
        .unwrap_or_default();
    let goal = match goal(args.output) {
        Goal::Default => Goal::File(PathBuf::from(name)),
        Goal::File(path) if path.is_dir() => Goal::File(path.join(name)),
        other => other,
    };
    check(session, &goal)?;
    let backup_id = find::backup_id(session, &args.backup, Latest::Completed).await?;
    let from = args.from.unwrap_or_default();
    let meter = Meter::new(session.out, "get");
    let transfer = Transfer {
        goal,
        force: args.force,
        resume: false,
        meter,
    };
    let received = transfer::receive(transfer, |offset, _| {
        let mut client = session.backups();
        let request = DownloadEntryRequest {
            backup_id: backup_id.clone(),
            path: path.clone(),
            offset,
            destination_id: from.clone(),
        };
        async move { client.download_entry(request).await }
    })
    .await?;
    if let (Some(path), Some(entry)) = (&received.path, &received.entry) {
        dress(path, entry)
            .map_err(|error| CliError::io(format!("set the mode of {}", path.display()), &error))?;
    }
    conclude(session, &backup_id, &received)
}

/// Gives a file the permissions and the time it had (never set-user-id: that is
/// for a restore to give back).
fn dress(path: &Path, entry: &BackupEntry) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(entry.mode & 0o777))?;
    let Some(time) = &entry.modify_time else {
        return Ok(());
    };
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    match whole.and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanos.max(0) as u64)))
    {
        Some(time) => fs::File::open(path)?.set_modified(time),
        None => Ok(()),
    }
}

fn conclude(session: &Session, backup_id: &str, received: &Received) -> Result<()> {
    let out = session.out;
    let Some(path) = &received.path else {
        return Ok(());
    };
    if out.json {
        return out.document(&json!({
            "backup_id": backup_id,
            "file": path.to_string_lossy(),
            "size_bytes": received.bytes,
            "resumed_bytes": received.resumed_bytes,
            "etag": received.etag,
            "entry": received.entry.as_ref().map(BackupEntry::to_json),
        }));
    }
    if out.quiet {
        return out.line(path.to_string_lossy());
    }
    out.line(format!("{}: {received}", path.display()))
}
