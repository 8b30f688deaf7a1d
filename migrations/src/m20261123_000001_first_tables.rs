//! Agents, backups, jobs, restores, pins, requests.
//!
//! Times are milliseconds since 1970. States and kinds are words. Blobs are
//! protobuf messages. There are no foreign keys: a job outlives its agent, a
//! restore its backup; the transactions of the catalog keep the rest together.

use sea_orm_migration::{
    prelude::*,
    schema::{
        big_integer, big_integer_null, blob, blob_null, boolean, integer, integer_null, text,
        text_null,
    },
};

mod indexes;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [agents(), backups(), jobs(), restores(), pins(), requests()] {
            manager.create_table(table).await?;
        }
        for index in indexes::all() {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["requests", "pins", "restores", "jobs", "backups", "agents"] {
            manager
                .drop_table(Table::drop().table(table).if_exists().to_owned())
                .await?;
        }
        Ok(())
    }
}

/// What is backed up.
fn agents() -> TableCreateStatement {
    Table::create()
        .table("agents")
        .if_not_exists()
        .col(text("agent_id").primary_key())
        .col(text("display_name"))
        .col(text("owner_id"))
        .col(text("workspace_id"))
        .col(blob("source"))
        .col(blob("integrations"))
        .col(text("pool"))
        .col(text("etag"))
        .col(text_null("restore_id"))
        .col(big_integer("vault_bytes"))
        .col(big_integer("create_time_ms"))
        .col(big_integer("update_time_ms"))
        // Set: hidden, and gone with its last backup.
        .col(big_integer_null("deregister_time_ms"))
        .to_owned()
}

/// Points in time of agents.
fn backups() -> TableCreateStatement {
    Table::create()
        .table("backups")
        .if_not_exists()
        .col(text("backup_id").primary_key())
        .col(text("agent_id"))
        .col(text("owner_id"))
        .col(text("name"))
        .col(text("state"))
        .col(text("trigger_kind"))
        .col(text("job_id"))
        .col(integer_null("manifest_attempt"))
        .col(blob_null("manifest_digest"))
        .col(big_integer_null("sequence"))
        .col(big_integer("size_bytes"))
        .col(big_integer("stored_bytes"))
        .col(big_integer("new_bytes"))
        .col(big_integer("entries"))
        .col(blob("warnings"))
        .col(big_integer("warnings_total"))
        .col(big_integer_null("verify_time_ms"))
        .col(text_null("verify_failure_reason"))
        .col(text_null("verify_failure_message"))
        .col(text_null("failure_reason"))
        .col(text_null("failure_message"))
        .col(big_integer("create_time_ms"))
        .col(big_integer_null("start_time_ms"))
        .col(big_integer_null("end_time_ms"))
        .to_owned()
}

/// Queued work.
fn jobs() -> TableCreateStatement {
    Table::create()
        .table("jobs")
        .if_not_exists()
        .col(text("job_id").primary_key())
        .col(text("kind"))
        .col(text("state"))
        .col(text("agent_id"))
        .col(text("owner_id"))
        .col(text_null("backup_id"))
        .col(text_null("restore_id"))
        .col(text_null("depth"))
        .col(text("pool"))
        .col(text("urgency"))
        // Writes to the vault: one of these runs at a time for an agent.
        .col(boolean("exclusive"))
        // The fence: only ever grows.
        .col(integer("attempt"))
        // Attempts that count against max_attempts.
        .col(integer("tries"))
        .col(integer("max_attempts"))
        .col(big_integer("due_time_ms"))
        // NULL while QUEUED: the queue is to be told.
        .col(big_integer_null("dispatch_time_ms"))
        .col(big_integer("dispatch_version"))
        // Found its agent busy: woken when the other job ends.
        .col(boolean("waiting"))
        .col(text_null("lease_owner"))
        .col(big_integer_null("lease_expire_time_ms"))
        .col(boolean("cancel_requested"))
        .col(text_null("paused_container"))
        // A dead attempt may have left something to clean up.
        .col(boolean("leftover"))
        .col(text_null("failure_reason"))
        .col(text_null("failure_message"))
        .col(blob("progress"))
        .col(big_integer("create_time_ms"))
        .col(big_integer_null("start_time_ms"))
        .col(big_integer_null("end_time_ms"))
        .to_owned()
}

/// Backups brought back as new agents.
fn restores() -> TableCreateStatement {
    Table::create()
        .table("restores")
        .if_not_exists()
        .col(text("restore_id").primary_key())
        .col(text("backup_id"))
        .col(text("agent_id"))
        .col(text("owner_id"))
        .col(text("state"))
        .col(blob("plan"))
        // The plan's agent_id, to be found by.
        .col(text("new_agent_id"))
        .col(blob("decisions"))
        .col(blob("warnings"))
        .col(text_null("job_id"))
        .col(text_null("failure_reason"))
        .col(text_null("failure_message"))
        .col(big_integer("create_time_ms"))
        .col(big_integer_null("start_time_ms"))
        .col(big_integer_null("end_time_ms"))
        .col(big_integer_null("expire_time_ms"))
        .to_owned()
}

/// What keeps backups while they are read.
fn pins() -> TableCreateStatement {
    Table::create()
        .table("pins")
        .if_not_exists()
        .col(text("pin_id").primary_key())
        .col(text("backup_id"))
        .col(text("agent_id"))
        .col(text("holder"))
        .col(big_integer("create_time_ms"))
        .col(big_integer("expire_time_ms"))
        .to_owned()
}

/// Which call made what, so that a repeated call makes nothing more.
fn requests() -> TableCreateStatement {
    Table::create()
        .table("requests")
        .if_not_exists()
        .col(text("caller"))
        .col(text("request_id"))
        .col(blob("fingerprint"))
        .col(text("resource_id"))
        .col(big_integer("expire_time_ms"))
        .primary_key(Index::create().col("caller").col("request_id"))
        .to_owned()
}
