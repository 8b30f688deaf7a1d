//! Who did what: written in batches, shown newest first, kept for a time.

use std::collections::HashMap;

use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, QueryTrait as _, sea_query::OnConflict,
};

use crate::{
    Catalog, CatalogError, Page, PageRequest,
    entities::{audit, audit_resources},
    error::Doing as _,
    limits, pages, transitions,
};

/// An audited call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its id; made when it is written.
    pub audit_id: String,
    /// When the call was answered.
    pub time_ms: i64,
    /// Who called.
    pub caller_id: String,
    /// As what.
    pub role: String,
    /// What was called.
    pub method: String,
    /// What it was about: the fields that named it, with their ids.
    pub resources: Vec<(String, String)>,
    /// Where the call came from.
    pub peer: String,
    /// The caller's own name for the call.
    pub request_id: String,
    /// The listener it came in on.
    pub listener: String,
    /// How it was answered.
    pub code: String,
    /// Why so; empty when it was done.
    pub reason: String,
    /// What a stream carried.
    pub sent_bytes: u64,
}

/// Which audited calls to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only this caller's.
    pub caller_id: Option<String>,
    /// Only of this method.
    pub method: Option<String>,
    /// Only those about this.
    pub resource_id: Option<String>,
    /// Only those at this time or later.
    pub from_ms: Option<i64>,
    /// Only those before this time.
    pub before_ms: Option<i64>,
}

impl Catalog {
    /// Writes what was done, all of it in one transaction. At most
    /// [`limits::BATCH_ROWS_MAX`] calls: further ones are the caller's to bring again.
    pub async fn write_audit(&self, entries: &[AuditEntry]) -> Result<(), CatalogError> {
        let entries = &entries[..entries.len().min(limits::BATCH_ROWS_MAX as usize)];
        if entries.is_empty() {
            return Ok(());
        }
        let (mut rows, mut resources) = (Vec::new(), Vec::new());
        for entry in entries {
            let audit_id = transitions::new_id(entry.time_ms);
            for (field, resource_id) in &entry.resources {
                let row = audit_resources::Model {
                    audit_id: audit_id.clone(),
                    field: field.clone(),
                    resource_id: resource_id.clone(),
                };
                resources.push(audit_resources::ActiveModel::from(row).reset_all());
            }
            rows.push(audit::ActiveModel::from(row(entry, audit_id)).reset_all());
        }
        let tx = self.begin("write audit").await?;
        audit::Entity::insert_many(rows)
            .exec_without_returning(tx.db())
            .await
            .doing(tx.doing())?;
        for some in resources.chunks(limits::BATCH_ROWS_MAX as usize) {
            audit_resources::Entity::insert_many(some.to_vec())
                // A call may name the same thing twice.
                .on_conflict(
                    OnConflict::columns([
                        audit_resources::Column::AuditId,
                        audit_resources::Column::Field,
                        audit_resources::Column::ResourceId,
                    ])
                    .do_nothing()
                    .to_owned(),
                )
                .exec_without_returning(tx.db())
                .await
                .doing(tx.doing())?;
        }
        tx.commit().await
    }

    /// Audited calls, newest first.
    pub async fn list_audit(
        &self,
        filter: &AuditFilter,
        page: &PageRequest,
    ) -> Result<Page<AuditEntry>, CatalogError> {
        let id = audit::Column::AuditId;
        let mut query = audit::Entity::find()
            .order_by_desc(id)
            .limit(pages::limit(page) + 1);
        if let Some(caller_id) = &filter.caller_id {
            query = query.filter(audit::Column::CallerId.eq(caller_id));
        }
        if let Some(method) = &filter.method {
            query = query.filter(audit::Column::Method.eq(method));
        }
        if let Some(resource_id) = &filter.resource_id {
            let about = audit_resources::Entity::find()
                .select_only()
                .column(audit_resources::Column::AuditId)
                .filter(audit_resources::Column::ResourceId.eq(resource_id));
            query = query.filter(id.in_subquery(about.into_query()));
        }
        // Ids begin with their time.
        if let Some(from_ms) = filter.from_ms {
            query = query.filter(id.gte(transitions::first_id(from_ms)));
        }
        if let Some(before_ms) = filter.before_ms {
            query = query.filter(id.lt(transitions::first_id(before_ms)));
        }
        if let Some(after) = &page.after {
            query = query.filter(id.lt(after));
        }
        let rows = query.all(self.read()).await.doing("list audit")?;
        let mut resources = self.audit_resources(&rows).await?;
        let entries: Vec<AuditEntry> = rows
            .into_iter()
            .map(|row| {
                let resources = resources.remove(&row.audit_id).unwrap_or_default();
                entry(row, resources)
            })
            .collect();
        pages::page(page, entries, Ok, |entry| &entry.audit_id)
    }

    /// Forgets calls before this time; returns how many. At most `limit` of them.
    pub async fn expire_audit(&self, limit: u64, before_ms: i64) -> Result<u64, CatalogError> {
        let old: Vec<String> = audit::Entity::find()
            .select_only()
            .column(audit::Column::AuditId)
            .filter(audit::Column::AuditId.lt(transitions::first_id(before_ms)))
            .order_by_asc(audit::Column::AuditId)
            .limit(limit.clamp(1, limits::BATCH_ROWS_MAX))
            .into_tuple()
            .all(self.read())
            .await
            .doing("read old audit")?;
        if old.is_empty() {
            return Ok(0);
        }
        let tx = self.begin("expire audit").await?;
        audit_resources::Entity::delete_many()
            .filter(audit_resources::Column::AuditId.is_in(&old))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        let deleted = audit::Entity::delete_many()
            .filter(audit::Column::AuditId.is_in(old))
            .exec(tx.db())
            .await
            .doing(tx.doing())?;
        tx.commit().await?;
        Ok(deleted.rows_affected)
    }

    /// What these calls were about, by their ids.
    async fn audit_resources(&self, rows: &[audit::Model]) -> Result<ResourcesById, CatalogError> {
        let ids = rows.iter().map(|row| row.audit_id.as_str());
        let found = audit_resources::Entity::find()
            .filter(audit_resources::Column::AuditId.is_in(ids))
            .order_by_asc(audit_resources::Column::Field)
            .all(self.read())
            .await
            .doing("list audit")?;
        let mut by_id: ResourcesById = HashMap::new();
        for row in found {
            let of_call = by_id.entry(row.audit_id).or_default();
            of_call.push((row.field, row.resource_id));
        }
        Ok(by_id)
    }
}

type ResourcesById = HashMap<String, Vec<(String, String)>>;

fn row(entry: &AuditEntry, audit_id: String) -> audit::Model {
    let entry = entry.clone();
    audit::Model {
        audit_id,
        time_ms: entry.time_ms,
        caller_id: entry.caller_id,
        role: entry.role,
        method: entry.method,
        peer: entry.peer,
        request_id: entry.request_id,
        listener: entry.listener,
        code: entry.code,
        reason: entry.reason,
        sent_bytes: i64::try_from(entry.sent_bytes).unwrap_or(i64::MAX),
    }
}

fn entry(row: audit::Model, resources: Vec<(String, String)>) -> AuditEntry {
    AuditEntry {
        audit_id: row.audit_id,
        time_ms: row.time_ms,
        caller_id: row.caller_id,
        role: row.role,
        method: row.method,
        resources,
        peer: row.peer,
        request_id: row.request_id,
        listener: row.listener,
        code: row.code,
        reason: row.reason,
        sent_bytes: row.sent_bytes as u64,
    }
}
