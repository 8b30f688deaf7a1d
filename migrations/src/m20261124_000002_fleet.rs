//! What several replicas need of each other: dispatchers that don't do each
//! other's work, workers that are seen, ends that are announced.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, blob, integer, text},
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if !manager.has_column("jobs", "dispatch_hold_ms").await? {
            // Until then the job is in the hands of one dispatcher.
            let hold = big_integer("dispatch_hold_ms").default(0).to_owned();
            manager
                .alter_table(Table::alter().table("jobs").add_column(hold).to_owned())
                .await?;
        }
        for table in [workers(), announcements()] {
            manager.create_table(table).await?;
        }
        manager
            .create_index(
                Index::create()
                    .name("workers_by_pool")
                    .table("workers")
                    .if_not_exists()
                    .col("pool")
                    .col("seen_time_ms")
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(
                Index::create()
                    .name("announcements_by_hold")
                    .table("announcements")
                    .if_not_exists()
                    .col("hold_ms")
                    .col("announcement_id")
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["announcements", "workers"] {
            manager
                .drop_table(Table::drop().table(table).if_exists().to_owned())
                .await?;
        }
        manager
            .alter_table(
                Table::alter()
                    .table("jobs")
                    .drop_column("dispatch_hold_ms")
                    .to_owned(),
            )
            .await
    }
}

/// Workers as last seen, one row for each pool that one serves.
fn workers() -> TableCreateStatement {
    Table::create()
        .table("workers")
        .if_not_exists()
        .col(text("worker"))
        .col(text("pool"))
        .col(integer("concurrency"))
        .col(text("version"))
        .col(big_integer("start_time_ms"))
        .col(big_integer("seen_time_ms"))
        .primary_key(Index::create().col("worker").col("pool"))
        .to_owned()
}

/// Ends of jobs that other services have not been told of yet.
fn announcements() -> TableCreateStatement {
    Table::create()
        .table("announcements")
        .if_not_exists()
        .col(text("announcement_id").primary_key())
        .col(text("kind"))
        // A JobEnded message.
        .col(blob("body"))
        // Until then it is in the hands of one server.
        .col(big_integer("hold_ms"))
        .col(big_integer("create_time_ms"))
        .to_owned()
}
