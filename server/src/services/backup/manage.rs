//! Backups created, shown, canceled and deleted. All of it is the catalog's work.

use std::sync::Arc;

use catalog::{BackupFilter, NewBackup, PageRequest, Trigger};
use proto::{
    backup::v1::{
        Backup, CancelBackupRequest, CancelBackupResponse, CreateBackupRequest,
        CreateBackupResponse, DeleteBackupRequest, DeleteBackupResponse, GetBackupRequest,
        GetBackupResponse, GetStorageUsageRequest, GetStorageUsageResponse, ListBackupsRequest,
        ListBackupsResponse, UpdateBackupRequest, UpdateBackupResponse,
    },
    queue::v1::JobEvent,
};

use crate::{
    access,
    clock::{label, now_ms},
    convert, page,
    page::Listing,
    services::{Call, request_key},
    state::State,
    status::ApiError,
    validation::{Checks, PAGE_DEFAULT},
};

pub(super) async fn create(
    state: &Arc<State>,
    call: Call<CreateBackupRequest>,
) -> Result<CreateBackupResponse, ApiError> {
    access::may_use_backups(&call.caller)?;
    let mut request = call.message;
    let mut checks = Checks::new();
    checks.id("agent_id", &request.agent_id);
    checks.name("name", &request.name);
    checks.request_id(&request.request_id);
    checks.done()?;
    let agent = access::agent_for(state, &call.caller, &request.agent_id).await?;
    let request_id = std::mem::take(&mut request.request_id);
    let key = request_key(&call.caller, "CreateBackup", request_id, &request);
    let now = now_ms();
    let name = match request.name.trim() {
        "" => format!("{} {}", agent.agent_id, label(now)),
        name => name.to_owned(),
    };
    let backup = NewBackup {
        agent_id: agent.agent_id,
        owner_id: agent.owner_id,
        name,
        trigger: Trigger::Manual,
        request: key,
    };
    let backup = state.catalog.create_backup(backup, now).await?;
    tracing::info!(
        backup_id = backup.backup_id,
        agent_id = backup.agent_id,
        "backup accepted"
    );
    Ok(CreateBackupResponse {
        backup: Some(convert::backup(backup)),
    })
}

pub(super) async fn get(
    state: &Arc<State>,
    call: Call<GetBackupRequest>,
) -> Result<GetBackupResponse, ApiError> {
    let backup = the_backup(state, &call.caller, &call.message.backup_id).await?;
    Ok(GetBackupResponse {
        backup: Some(convert::backup(backup)),
    })
}

/// The backup that a request names, when the caller may see it.
pub(super) async fn the_backup(
    state: &State,
    caller: &crate::auth::Caller,
    backup_id: &str,
) -> Result<catalog::Backup, ApiError> {
    access::may_use_backups(caller)?;
    let mut checks = Checks::new();
    checks.id("backup_id", backup_id);
    checks.done()?;
    access::backup_for(state, caller, backup_id).await
}

pub(super) async fn list(
    state: &Arc<State>,
    call: Call<ListBackupsRequest>,
) -> Result<ListBackupsResponse, ApiError> {
    access::may_use_backups(&call.caller)?;
    let request = call.message;
    let mut checks = Checks::new();
    checks.optional_id("agent_id", &request.agent_id);
    let limit = checks.page_size(request.page_size, PAGE_DEFAULT);
    checks.page_token(&request.page_token);
    let mut states = Vec::new();
    for state in &request.states {
        match convert::wanted_state(*state) {
            Some(state) if states.contains(&state) => {}
            Some(state) => states.push(state),
            None => checks.fault("states", "must be values of Backup.State other than 0"),
        }
    }
    checks.done()?;
    // In which order states are wished makes no other list.
    let mut wished: Vec<u8> = states.iter().map(|state| *state as u8).collect();
    wished.sort_unstable();
    let listing = Listing::new("backups", [request.agent_id.as_bytes(), &wished]);
    let after = listing.open_text(&request.page_token)?;
    if !request.agent_id.is_empty() {
        access::agent_or_kept_for(state, &call.caller, &request.agent_id).await?;
    }
    let filter = BackupFilter {
        owner_id: access::owner_scope(&call.caller),
        agent_id: (!request.agent_id.is_empty()).then_some(request.agent_id),
        states,
    };
    let found = state
        .catalog
        .list_backups(&filter, &PageRequest { limit, after })
        .await?;
    let mut backups: Vec<Backup> = found.items.into_iter().map(convert::backup).collect();
    let fitting = page::fitting(&backups);
    let next = if fitting < backups.len() {
        backups.truncate(fitting);
        backups.last().map(|backup| backup.backup_id.clone())
    } else {
        found.next
    };
    Ok(ListBackupsResponse {
        backups,
        next_page_token: next.map_or_else(String::new, |key| listing.token(key.as_bytes())),
    })
}

pub(super) async fn cancel(
    state: &Arc<State>,
    call: Call<CancelBackupRequest>,
) -> Result<CancelBackupResponse, ApiError> {
    let backup = the_backup(state, &call.caller, &call.message.backup_id).await?;
    let backup = state
        .catalog
        .cancel_backup(&backup.backup_id, now_ms())
        .await?;
    let event = JobEvent {
        subject_id: backup.backup_id.clone(),
        job_id: backup.job_id.clone(),
        state_changed: true,
        cancel_requested: true,
        ..JobEvent::default()
    };
    state.announce(event).await;
    tracing::info!(backup_id = backup.backup_id, "backup to be canceled");
    Ok(CancelBackupResponse {
        backup: Some(convert::backup(backup)),
    })
}

pub(super) async fn delete(
    state: &Arc<State>,
    call: Call<DeleteBackupRequest>,
) -> Result<DeleteBackupResponse, ApiError> {
    let backup = the_backup(state, &call.caller, &call.message.backup_id).await?;
    let backup = state
        .catalog
        .delete_backup(&backup.backup_id, now_ms())
        .await?;
    let event = JobEvent {
        subject_id: backup.backup_id.clone(),
        job_id: backup.job_id.clone(),
        state_changed: true,
        ..JobEvent::default()
    };
    state.announce(event).await;
    tracing::info!(backup_id = backup.backup_id, "backup to be deleted");
    Ok(DeleteBackupResponse {
        backup: Some(convert::backup(backup)),
    })
}

pub(super) async fn update(
    state: &Arc<State>,
    call: Call<UpdateBackupRequest>,
) -> Result<UpdateBackupResponse, ApiError> {
    access::may_use_backups(&call.caller)?;
    let wanted = call.message.backup.unwrap_or_default();
    let mask = call.message.update_mask.unwrap_or_default();
    let mut checks = Checks::new();
    checks.id("backup.backup_id", &wanted.backup_id);
    checks.that(
        mask.paths == ["protected"],
        "update_mask",
        "must name protected, the only field that can be changed",
    );
    checks.done()?;
    let backup = access::backup_for(state, &call.caller, &wanted.backup_id).await?;
    let backup = state
        .catalog
        .protect_backup(&backup.backup_id, wanted.protected, now_ms())
        .await?;
    tracing::info!(
        backup_id = backup.backup_id,
        protected = backup.protected,
        "backup protection changed"
    );
    Ok(UpdateBackupResponse {
        backup: Some(convert::backup(backup)),
    })
}

pub(super) async fn usage(
    state: &Arc<State>,
    call: Call<GetStorageUsageRequest>,
) -> Result<GetStorageUsageResponse, ApiError> {
    access::may_use_backups(&call.caller)?;
    let agent_id = call.message.agent_id;
    let mut checks = Checks::new();
    checks.optional_id("agent_id", &agent_id);
    checks.done()?;
    if !agent_id.is_empty() {
        access::agent_or_kept_for(state, &call.caller, &agent_id).await?;
    }
    let owner_id = access::owner_scope(&call.caller);
    let usage = state
        .catalog
        .storage_usage(
            owner_id.as_deref(),
            (!agent_id.is_empty()).then_some(agent_id.as_str()),
        )
        .await?;
    Ok(GetStorageUsageResponse {
        backups: usage.backups,
        size_bytes: usage.size_bytes,
        stored_bytes: usage.stored_bytes,
        agents: usage.agents,
    })
}
