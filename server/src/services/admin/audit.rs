//! Who did what.

use catalog::{AuditFilter, PageRequest};
use proto::backup::v1::{AuditEntry, AuditResource, GetAuditLogRequest, GetAuditLogResponse};

use super::{Admin, set, time_ms};
use crate::{
    clock::timestamp,
    page::{self, Listing},
    services::Call,
    status::ApiError,
    validation::{Checks, PAGE_DEFAULT},
};

/// Ids and names of methods are no longer.
const TEXT_CHARS_MAX: usize = 128;

impl Admin {
    pub(super) async fn audit_log(
        &self,
        call: Call<GetAuditLogRequest>,
    ) -> Result<GetAuditLogResponse, ApiError> {
        let request = call.message;
        let mut checks = Checks::new();
        let limit = checks.page_size(request.page_size, PAGE_DEFAULT);
        checks.page_token(&request.page_token);
        checks.text("caller_id", &request.caller_id, TEXT_CHARS_MAX);
        checks.text("method", &request.method, TEXT_CHARS_MAX);
        checks.text("resource_id", &request.resource_id, TEXT_CHARS_MAX);
        let from_ms = time_ms(&mut checks, "from_time", request.from_time);
        let before_ms = time_ms(&mut checks, "before_time", request.before_time);
        checks.done()?;
        let listing = Listing::new(
            "audit",
            [
                request.caller_id.as_bytes(),
                request.method.as_bytes(),
                request.resource_id.as_bytes(),
                format!("{from_ms:?} {before_ms:?}").as_bytes(),
            ],
        );
        let after = listing.open_text(&request.page_token)?;
        let filter = AuditFilter {
            caller_id: set(request.caller_id),
            method: set(request.method),
            resource_id: set(request.resource_id),
            from_ms,
            before_ms,
        };
        let page = PageRequest { limit, after };
        let found = self.state.catalog.list_audit(&filter, &page).await?;
        let mut entries: Vec<AuditEntry> = found.items.into_iter().map(shown).collect();
        let fitting = page::fitting(&entries);
        let next = if fitting < entries.len() {
            entries.truncate(fitting);
            entries.last().map(|entry| entry.audit_id.clone())
        } else {
            found.next
        };
        Ok(GetAuditLogResponse {
            entries,
            next_page_token: next.map_or_else(String::new, |key| listing.token(key.as_bytes())),
        })
    }
}

fn shown(entry: catalog::AuditEntry) -> AuditEntry {
    let resources = entry.resources.into_iter();
    AuditEntry {
        audit_id: entry.audit_id,
        time: Some(timestamp(entry.time_ms)),
        caller_id: entry.caller_id,
        role: entry.role,
        method: entry.method,
        resources: resources
            .map(|(field, id)| AuditResource { field, id })
            .collect(),
        peer: entry.peer,
        request_id: entry.request_id,
        listener: entry.listener,
        code: entry.code,
        reason: entry.reason,
        sent_bytes: entry.sent_bytes,
    }
}
