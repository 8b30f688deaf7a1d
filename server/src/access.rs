//! Who may see and do what: one function a resource, and nothing else checks.
//!
//! What a caller may not see is answered exactly as what does not exist: the same words, the same
//! details, after the same one query.

use catalog::{
    Agent, Backup, BackupCopy, CatalogError, CopyState, Job, JobKind, Restore, Schedule,
};
use proto::backup::v1::ErrorReason;

use crate::{
    auth::{Caller, Role},
    state::State,
    status::ApiError,
};

/// Whether the caller may see what this owner owns.
fn may_see(caller: &Caller, owner_id: &str) -> bool {
    match caller.role {
        Role::Admin => true,
        Role::User => caller.id == owner_id,
        Role::Service => false,
    }
}

fn not_allowed(caller: &Caller, what: &str) -> ApiError {
    let role = caller.role.name();
    ApiError::new(
        ErrorReason::RoleNotAllowed,
        format!("a token with the role {role} may not {what}"),
    )
}

/// Whether the caller may run the platform.
pub fn may_administer(caller: &Caller) -> Result<(), ApiError> {
    match caller.role {
        Role::Admin => Ok(()),
        Role::Service | Role::User => Err(not_allowed(
            caller,
            "run the platform: use one with the role admin",
        )),
    }
}

/// Whether the caller may say which agents exist.
pub fn may_register(caller: &Caller) -> Result<(), ApiError> {
    match caller.role {
        Role::Service | Role::Admin => Ok(()),
        Role::User => Err(not_allowed(
            caller,
            "register agents: use one with the role service",
        )),
    }
}

/// Whether the caller may ask whether a workspace may be made.
pub fn may_ask_for_admission(caller: &Caller) -> Result<(), ApiError> {
    match caller.role {
        Role::Service | Role::Admin => Ok(()),
        Role::User => Err(not_allowed(
            caller,
            "ask for the admission of workspaces: use one with the role service",
        )),
    }
}

/// Whether the caller may work with backups and restores at all.
pub fn may_use_backups(caller: &Caller) -> Result<(), ApiError> {
    match caller.role {
        Role::User | Role::Admin => Ok(()),
        Role::Service => Err(not_allowed(
            caller,
            "work with backups: use the owner's, with the role user",
        )),
    }
}

/// Whether the caller may give a new agent what reaches beyond its container.
pub fn may_keep_privileges(caller: &Caller) -> bool {
    caller.role == Role::Admin
}

/// Whose backups and restores the caller's lists show; `None`: everyone's.
pub fn owner_scope(caller: &Caller) -> Option<String> {
    (caller.role != Role::Admin).then(|| caller.id.clone())
}

/// Whose agents the caller's lists show, when it asks for `wanted` (empty: all it may see). A user
/// that asks for somebody else's sees none of them: `Err` with nothing to say.
pub fn agents_scope(caller: &Caller, wanted: &str) -> Result<Option<String>, NothingVisible> {
    let wanted = (!wanted.is_empty()).then(|| wanted.to_owned());
    match caller.role {
        Role::Service | Role::Admin => Ok(wanted),
        Role::User => match wanted {
            Some(wanted) if wanted != caller.id => Err(NothingVisible),
            _ => Ok(Some(caller.id.clone())),
        },
    }
}

/// The caller sees nothing of what it asks for; that is an empty list, not an error.
#[derive(Debug)]
pub struct NothingVisible;

/// An agent whose backups the caller may see and make.
pub async fn agent_for(state: &State, caller: &Caller, agent_id: &str) -> Result<Agent, ApiError> {
    let agent = state.catalog.get_agent(agent_id).await?;
    agent
        .filter(|agent| may_see(caller, &agent.owner_id))
        .ok_or_else(|| no_agent(agent_id))
}

/// The same, also for one that is gone and whose backups were kept.
pub async fn agent_or_kept_for(
    state: &State,
    caller: &Caller,
    agent_id: &str,
) -> Result<Agent, ApiError> {
    let agent = state.catalog.get_agent_or_kept(agent_id).await?;
    agent
        .filter(|agent| may_see(caller, &agent.owner_id))
        .ok_or_else(|| no_agent(agent_id))
}

/// An agent whose registration the caller may see: its owner, and those who register.
pub async fn registration_for(
    state: &State,
    caller: &Caller,
    agent_id: &str,
) -> Result<Agent, ApiError> {
    let agent = state.catalog.get_agent(agent_id).await?;
    agent
        .filter(|agent| caller.role == Role::Service || may_see(caller, &agent.owner_id))
        .ok_or_else(|| no_agent(agent_id))
}

/// A backup that the caller may see, and do everything with that its owner may.
pub async fn backup_for(
    state: &State,
    caller: &Caller,
    backup_id: &str,
) -> Result<Backup, ApiError> {
    let backup = state.catalog.get_backup(backup_id).await?;
    backup
        .filter(|backup| may_see(caller, &backup.owner_id))
        .ok_or_else(|| no_backup(backup_id))
}

/// Whether a backup can be read at a destination: where it lies (or empty), or where a copy of
/// it is complete. Others are not told from those that there are not.
pub fn check_copy(backup: &Backup, destination_id: &str) -> Result<(), ApiError> {
    let is_complete = |copy: &BackupCopy| {
        copy.destination_id == destination_id && copy.state == CopyState::Completed
    };
    if destination_id.is_empty()
        || destination_id == backup.destination_id
        || backup.copies.iter().any(is_complete)
    {
        return Ok(());
    }
    Err(CatalogError::CopyNotCompleted {
        backup_id: backup.backup_id.clone(),
        destination_id: destination_id.to_owned(),
    }
    .into())
}

/// The schedule of an agent that the caller may see.
pub async fn schedule_for(
    state: &State,
    caller: &Caller,
    agent_id: &str,
) -> Result<Schedule, ApiError> {
    agent_for(state, caller, agent_id).await?;
    let schedule = state.catalog.get_schedule(agent_id).await?;
    schedule.ok_or_else(|| {
        let agent_id = agent_id.to_owned();
        CatalogError::ScheduleNotFound { agent_id }.into()
    })
}

/// A restore that the caller may see, and do everything with that its owner may.
pub async fn restore_for(
    state: &State,
    caller: &Caller,
    restore_id: &str,
) -> Result<Restore, ApiError> {
    let restore = state.catalog.get_restore(restore_id).await?;
    restore
        .filter(|restore| may_see(caller, &restore.owner_id))
        .ok_or_else(|| no_restore(restore_id))
}

/// A verification of a backup that the caller may see. Both are asked for, whatever the first
/// answer, so that nothing shows in the time it takes.
pub async fn verification_for(
    state: &State,
    caller: &Caller,
    backup_id: &str,
    verification_id: &str,
) -> Result<(Job, Backup), ApiError> {
    let backup = state.catalog.get_backup(backup_id).await?;
    let job = state.catalog.get_job(verification_id).await?;
    let backup = backup.filter(|backup| may_see(caller, &backup.owner_id));
    let job = job
        .filter(|job| job.kind == JobKind::Verify && job.backup_id.as_deref() == Some(backup_id));
    job.zip(backup).ok_or_else(|| no_backup(backup_id))
}

fn no_agent(agent_id: &str) -> ApiError {
    let agent_id = agent_id.to_owned();
    CatalogError::AgentNotFound { agent_id }.into()
}

/// No such backup, or not the caller's.
pub fn no_backup(backup_id: &str) -> ApiError {
    let backup_id = backup_id.to_owned();
    CatalogError::BackupNotFound { backup_id }.into()
}

/// No such restore, or not the caller's.
pub fn no_restore(restore_id: &str) -> ApiError {
    let restore_id = restore_id.to_owned();
    CatalogError::RestoreNotFound { restore_id }.into()
}
