//! `backup verify`.

use clap::{Args, ValueEnum};
use proto::backup::v1::{VerifyBackupRequest, verify_backup_request::Depth};
use uuid::Uuid;

use crate::{
    connect::{Session, call},
    error::Result,
    find::{self, Latest},
    output::{human, json::Document as _},
    watch,
};

/// Arguments of `backup verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The backup: its id, the beginning of it, or AGENT@latest (the newest completed one)
    pub backup: String,
    /// How much is read
    #[arg(long, value_enum, default_value_t = DepthArg::Full, value_name = "DEPTH")]
    pub depth: DepthArg,
    /// Check the copy at this destination [default: the backup where it lies]
    #[arg(long, value_name = "DESTINATION", conflicts_with = "verification")]
    pub at: Option<String>,
    /// Return at once, with the verification's id
    #[arg(long, conflicts_with = "watch")]
    pub no_wait: bool,
    /// Follow it until it ends: the default
    #[arg(long, short)]
    pub watch: bool,
    /// Follow a verification that was started before, instead of starting one
    #[arg(long, value_name = "ID", conflicts_with_all = ["no_wait", "depth"])]
    pub verification: Option<String>,
}

/// How much a verification reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DepthArg {
    /// What describes the backup, and that all its objects are there.
    Structure,
    /// Every byte.
    Full,
}

pub(super) async fn verify(session: &Session, args: VerifyArgs) -> Result<()> {
    let out = session.out;
    let backup_id = find::backup_id(session, &args.backup, Latest::Completed).await?;
    let verification_id = if let Some(id) = args.verification {
        id
    } else {
        let depth = match args.depth {
            DepthArg::Structure => Depth::Structure,
            DepthArg::Full => Depth::Full,
        };
        let request = VerifyBackupRequest {
            backup_id: backup_id.clone(),
            depth: depth.into(),
            request_id: Uuid::now_v7().to_string(),
            destination_id: args.at.clone().unwrap_or_default(),
        };
        let answer = match session.backups().verify_backup(call(request)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Err(find::copy_error(&args.backup, status)),
        };
        if args.no_wait {
            if out.json {
                return out.document(&answer.to_json());
            }
            out.line(&answer.verification_id)?;
            out.note(format!(
                "follow it with `nora-backup backup verify {backup_id} --verification {}`",
                answer.verification_id
            ));
            return Ok(());
        }
        answer.verification_id
    };
    let end = watch::verification(session, &backup_id, &verification_id).await?;
    let what = match &args.at {
        Some(destination) => format!("{backup_id} at {}", human::printable(destination)),
        None => backup_id,
    };
    watch::conclude_verification(session, &what, &end)
}
