//! Everyone's backups.

use catalog::{AllBackupsFilter, BackupState, PageRequest, Trigger};
use proto::backup::v1::{ListAllBackupsRequest, ListAllBackupsResponse, OwnedBackup, backup};

use super::{Admin, set, time_ms};
use crate::{
    convert,
    page::{self, Listing},
    services::Call,
    status::ApiError,
    validation::{Checks, PAGE_DEFAULT},
};

impl Admin {
    pub(super) async fn all_backups(
        &self,
        call: Call<ListAllBackupsRequest>,
    ) -> Result<ListAllBackupsResponse, ApiError> {
        let request = call.message;
        let mut checks = Checks::new();
        let limit = checks.page_size(request.page_size, PAGE_DEFAULT);
        checks.page_token(&request.page_token);
        checks.owner("owner_id", &request.owner_id);
        checks.optional_id("agent_id", &request.agent_id);
        checks.workspace("workspace_id", &request.workspace_id);
        let states = wanted_states(&mut checks, &request.states);
        let trigger = match backup::Trigger::try_from(request.trigger) {
            Ok(backup::Trigger::Unspecified) => None,
            Ok(backup::Trigger::Manual) => Some(Trigger::Manual),
            Ok(backup::Trigger::Schedule) => Some(Trigger::Schedule),
            Ok(backup::Trigger::Safety) => Some(Trigger::Safety),
            Err(_) => {
                checks.fault("trigger", "holds no trigger that there is");
                None
            }
        };
        let from_ms = time_ms(&mut checks, "created_from", request.created_from);
        let before_ms = time_ms(&mut checks, "created_before", request.created_before);
        checks.done()?;
        let listing = Listing::new(
            "all backups",
            [
                request.owner_id.as_bytes(),
                request.agent_id.as_bytes(),
                request.workspace_id.as_bytes(),
                format!("{states:?} {trigger:?} {from_ms:?} {before_ms:?}").as_bytes(),
            ],
        );
        let after = listing.open_text(&request.page_token)?;
        let filter = AllBackupsFilter {
            owner_id: set(request.owner_id),
            agent_id: set(request.agent_id),
            workspace_id: set(request.workspace_id),
            states,
            trigger,
            from_ms,
            before_ms,
        };
        let page = PageRequest { limit, after };
        let found = self.state.catalog.list_all_backups(&filter, &page).await?;
        let mut backups: Vec<OwnedBackup> = found.items.into_iter().map(owned).collect();
        let fitting = page::fitting(&backups);
        let next = if fitting < backups.len() {
            backups.truncate(fitting);
            let last = backups.last().and_then(|last| last.backup.as_ref());
            last.map(|backup| backup.backup_id.clone())
        } else {
            found.next
        };
        Ok(ListAllBackupsResponse {
            backups,
            next_page_token: next.map_or_else(String::new, |key| listing.token(key.as_bytes())),
        })
    }
}

fn wanted_states(checks: &mut Checks, wanted: &[i32]) -> Vec<BackupState> {
    let mut states = Vec::new();
    for state in wanted {
        match convert::wanted_state(*state) {
            Some(state) => states.push(state),
            None => checks.fault("states", "holds a state that there is not"),
        }
    }
    states
}

fn owned(backup: catalog::Backup) -> OwnedBackup {
    OwnedBackup {
        owner_id: backup.owner_id.clone(),
        job_id: backup.job_id.clone(),
        backup: Some(convert::backup(backup)),
    }
}
