//! Schedules, and what retention needs: protected backups, when an agent is
//! looked at next, and a record of what was removed by which rule.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, boolean, integer, integer_null, text, text_null},
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if !manager.has_column("backups", "protected").await? {
            let protected = boolean("protected").default(false).to_owned();
            add_column(manager, "backups", protected).await?;
        }
        if !manager.has_column("agents", "retention_due_ms").await? {
            // 0: every agent that there is gets looked at.
            let due = big_integer("retention_due_ms").default(0).to_owned();
            add_column(manager, "agents", due).await?;
        }
        for table in [schedules(), removals()] {
            manager.create_table(table).await?;
        }
        for index in [
            index(
                "agents",
                "agents_by_retention_due_ms",
                &["retention_due_ms"],
            ),
            index(
                "schedules",
                "schedules_by_owner_id_agent_id",
                &["owner_id", "agent_id"],
            ),
            // NULL, that is not enabled, never is less than now.
            index(
                "schedules",
                "schedules_by_next_run_time_ms",
                &["next_run_time_ms"],
            ),
            index(
                "removals",
                "removals_by_agent_id_removal_id",
                &["agent_id", "removal_id"],
            ),
            index(
                "removals",
                "removals_by_removal_time_ms",
                &["removal_time_ms"],
            ),
        ] {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["removals", "schedules"] {
            manager
                .drop_table(Table::drop().table(table).if_exists().to_owned())
                .await?;
        }
        manager
            .drop_index(
                Index::drop()
                    .name("agents_by_retention_due_ms")
                    .table("agents")
                    .if_exists()
                    .to_owned(),
            )
            .await?;
        for (table, column) in [("agents", "retention_due_ms"), ("backups", "protected")] {
            manager
                .alter_table(Table::alter().table(table).drop_column(column).to_owned())
                .await?;
        }
        Ok(())
    }
}

async fn add_column(
    manager: &SchemaManager<'_>,
    table: &'static str,
    column: ColumnDef,
) -> Result<(), DbErr> {
    manager
        .alter_table(Table::alter().table(table).add_column(column).to_owned())
        .await
}

fn index(
    table: &'static str,
    name: &'static str,
    columns: &[&'static str],
) -> IndexCreateStatement {
    let mut index = Index::create();
    index.name(name).table(table).if_not_exists();
    for column in columns {
        index.col(*column);
    }
    index
}

/// When agents are backed up by themselves: one an agent.
fn schedules() -> TableCreateStatement {
    Table::create()
        .table("schedules")
        .if_not_exists()
        .col(text("agent_id").primary_key())
        .col(text("owner_id"))
        .col(boolean("enabled"))
        .col(text("frequency"))
        .col(integer("retain"))
        // Minutes after midnight.
        .col(integer_null("time_of_day"))
        .col(text("time_zone"))
        .col(text("etag"))
        // What regular times are counted from.
        .col(big_integer("anchor_time_ms"))
        // NULL: not enabled.
        .col(big_integer_null("next_run_time_ms"))
        // What the last run was due at.
        .col(big_integer_null("last_due_time_ms"))
        .col(big_integer_null("last_run_time_ms"))
        .col(text_null("last_run_backup_id"))
        // What the last successful run was due at, and when it ended.
        .col(big_integer_null("last_success_due_ms"))
        .col(big_integer_null("last_success_time_ms"))
        .col(text_null("last_success_backup_id"))
        .col(integer("failures"))
        .col(big_integer_null("skip_due_time_ms"))
        .col(text_null("skip_reason"))
        .col(big_integer("create_time_ms"))
        .col(big_integer("update_time_ms"))
        .to_owned()
}

/// Which backups were removed, and why.
fn removals() -> TableCreateStatement {
    Table::create()
        .table("removals")
        .if_not_exists()
        .col(text("removal_id").primary_key())
        .col(text("backup_id"))
        .col(text("agent_id"))
        .col(text("name"))
        .col(text("rule"))
        .col(big_integer("create_time_ms"))
        .col(big_integer("removal_time_ms"))
        .to_owned()
}
