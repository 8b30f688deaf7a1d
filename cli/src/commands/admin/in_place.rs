//! `admin restore-in-place`: RestoreInPlace.

use clap::Args;
use proto::backup::v1::RestoreInPlaceRequest;

use crate::{
    connect::{Session, call},
    error::Result,
    find::{self, Latest, incomplete},
    output::json::Document as _,
    watch,
};

/// Arguments of `admin restore-in-place`.
#[derive(Debug, Args)]
pub struct InPlaceArgs {
    /// The backup: its id, the beginning of it, or AGENT@latest
    pub backup: String,
    /// The id of the agent that is replaced, as a sign that this is meant
    #[arg(long, value_name = "AGENT")]
    pub confirm: String,
    /// Follow it until it ends
    #[arg(long, short)]
    pub watch: bool,
    /// Makes the call idempotent: the same id again returns the first answer
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
}

/// Runs it.
pub async fn run(session: &Session, args: InPlaceArgs) -> Result<()> {
    let backup = find::backup(session, &args.backup, Latest::Completed).await?;
    let request = RestoreInPlaceRequest {
        agent_id: backup.agent_id,
        backup_id: backup.backup_id,
        confirm_agent_id: args.confirm,
        request_id: args.request_id.unwrap_or_default(),
    };
    let answer = session.admin().restore_in_place(call(request)).await?;
    let restore = answer.into_inner().restore.ok_or_else(incomplete)?;
    let out = session.out;
    if args.watch {
        let ended = watch::restore(session, &restore.restore_id).await?;
        return watch::conclude_restore(session, &ended);
    }
    if out.json {
        return out.document(&restore.to_json());
    }
    if out.quiet {
        return out.line(&restore.restore_id);
    }
    out.line(format!("Restore {} is accepted", restore.restore_id))?;
    out.note(format!(
        "backup {} of the agent as it is now is made first; follow it with `nora-backup restore \
         watch {}`",
        restore.safety_backup_id, restore.restore_id
    ));
    Ok(())
}
