//! The audit log, and the indexes behind what administrators list.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, text},
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [audit(), audit_resources()] {
            manager.create_table(table).await?;
        }
        for index in indexes() {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["audit_resources", "audit"] {
            manager
                .drop_table(Table::drop().table(table).if_exists().to_owned())
                .await?;
        }
        for (table, name) in [
            ("backups", "backups_by_state_backup_id"),
            ("backups", "backups_by_trigger_kind_backup_id"),
            ("jobs", "jobs_by_owner_id_state"),
            ("jobs", "jobs_failed"),
        ] {
            manager
                .drop_index(Index::drop().name(name).table(table).if_exists().to_owned())
                .await?;
        }
        Ok(())
    }
}

/// Who did what: one row a call. Ids sort by time.
fn audit() -> TableCreateStatement {
    Table::create()
        .table("audit")
        .if_not_exists()
        .col(text("audit_id").primary_key())
        .col(big_integer("time_ms"))
        .col(text("caller_id"))
        .col(text("role"))
        .col(text("method"))
        .col(text("peer"))
        .col(text("request_id"))
        .col(text("listener"))
        .col(text("code"))
        .col(text("reason"))
        .col(big_integer("sent_bytes"))
        .to_owned()
}

/// What a call was about: to be shown with it, and to find it by.
fn audit_resources() -> TableCreateStatement {
    Table::create()
        .table("audit_resources")
        .if_not_exists()
        .col(text("audit_id"))
        .col(text("field"))
        .col(text("resource_id"))
        .primary_key(
            Index::create()
                .col("audit_id")
                .col("field")
                .col("resource_id"),
        )
        .to_owned()
}

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

fn indexes() -> Vec<IndexCreateStatement> {
    vec![
        on("audit", &["caller_id", "audit_id"]),
        on("audit", &["method", "audit_id"]),
        on("audit_resources", &["resource_id", "audit_id"]),
        on("backups", &["state", "backup_id"]),
        on("backups", &["trigger_kind", "backup_id"]),
        // How much of an owner's is under way.
        on("jobs", &["owner_id", "state"]),
        on("jobs", &["job_id"])
            .name("jobs_failed")
            .and_where(Expr::col("state").eq("failed"))
            .to_owned(),
    ]
}
