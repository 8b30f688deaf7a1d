//! `admin room`: CheckWorkspaceCreation.

use proto::backup::v1::CheckWorkspaceCreationRequest;

use crate::{
    connect::{Session, call},
    error::{CliError, Result},
    output::{human, json::Document as _},
};

/// Runs it.
pub async fn run(session: &Session) -> Result<()> {
    let request = CheckWorkspaceCreationRequest::default();
    let answer = session
        .admin()
        .check_workspace_creation(call(request))
        .await?;
    let answer = answer.into_inner();
    let out = session.out;
    if out.json {
        out.document(&answer.to_json())?;
    } else if answer.limit_bytes == 0 {
        out.line(format!(
            "There is room: {} stored, without a limit",
            human::bytes(answer.stored_bytes)
        ))?;
    } else if answer.allowed {
        out.line(format!(
            "There is room: {} of {} stored ({} %)",
            human::bytes(answer.stored_bytes),
            human::bytes(answer.limit_bytes),
            answer.used_percent
        ))?;
    }
    if answer.allowed {
        Ok(())
    } else {
        Err(CliError::failed(answer.message))
    }
}
