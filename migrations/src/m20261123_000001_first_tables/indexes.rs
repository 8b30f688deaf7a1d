//! An index behind every query. Partial ones hold only the rows in question, so
//! that ended jobs, the great majority, cost the dispatcher and reaper nothing.

use sea_orm_migration::prelude::*;

/// A plain index, named after its table and columns.
fn on(table: &'static str, columns: &[&'static str]) -> IndexCreateStatement {
    let mut index = Index::create();
    index
        .name(format!("{table}_by_{}", columns.join("_")))
        .table(table)
        .if_not_exists();
    for column in columns {
        index.col(*column);
    }
    index
}

/// Rows in one state.
fn in_state(state: &'static str) -> Expr {
    Expr::col("state").eq(state)
}

pub(super) fn all() -> Vec<IndexCreateStatement> {
    vec![
        on("agents", &["owner_id", "agent_id"]),
        on("agents", &["workspace_id", "agent_id"]),
        on("backups", &["owner_id", "backup_id"]),
        on("backups", &["agent_id", "backup_id"]),
        on("backups", &["owner_id", "state"]),
        on("backups", &["agent_id", "state", "sequence"]),
        // One job at a time writes to a vault: the database itself says no.
        on("jobs", &["agent_id"])
            .name("jobs_one_running_exclusive")
            .unique()
            .and_where(in_state("running"))
            .and_where(Expr::col("exclusive").eq(true))
            .to_owned(),
        on("jobs", &["agent_id", "state"]),
        on("jobs", &["backup_id", "state"]),
        on("jobs", &["kind", "end_time_ms"]),
        // The outbox: both what is to be dispatched and what was.
        on("jobs", &["dispatch_time_ms", "due_time_ms"])
            .name("jobs_queued")
            .and_where(in_state("queued"))
            .to_owned(),
        on("jobs", &["lease_expire_time_ms"])
            .name("jobs_running")
            .and_where(in_state("running"))
            .to_owned(),
        on("jobs", &["pool"])
            .name("jobs_leftover")
            .and_where(Expr::col("leftover").eq(true))
            .to_owned(),
        on("restores", &["owner_id", "restore_id"]),
        on("restores", &["backup_id", "restore_id"]),
        on("restores", &["new_agent_id", "state"]),
        on("restores", &["expire_time_ms"])
            .name("restores_drafts")
            .and_where(in_state("draft"))
            .to_owned(),
        on("pins", &["backup_id", "expire_time_ms"]),
        on("pins", &["agent_id", "expire_time_ms"]),
        on("pins", &["expire_time_ms"]),
        on("requests", &["expire_time_ms"]),
    ]
}
