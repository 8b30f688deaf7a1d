//! Destinations that were added at run time, the place that the environment gives, host
//! keys that were trusted at first sight, where each backup lies, and its copies.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, blob, integer, text, text_null},
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [destinations(), host_keys(), copies()] {
            manager.create_table(table).await?;
        }
        for (table, column, definition) in columns() {
            if !manager.has_column(table, column).await? {
                manager
                    .alter_table(
                        Table::alter()
                            .table(table)
                            .add_column(definition)
                            .to_owned(),
                    )
                    .await?;
            }
        }
        for (name, table, columns) in INDEXES {
            let mut index = Index::create();
            index.name(name).table(table).if_not_exists();
            for column in columns {
                index.col(*column);
            }
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (name, table, _) in INDEXES {
            let index = Index::drop().name(name).table(table).if_exists().to_owned();
            manager.drop_index(index).await?;
        }
        for (table, column, _) in columns() {
            manager
                .alter_table(Table::alter().table(table).drop_column(column).to_owned())
                .await?;
        }
        for table in ["backup_copies", "host_keys", "destinations"] {
            manager
                .drop_table(Table::drop().table(table).if_exists().to_owned())
                .await?;
        }
        Ok(())
    }
}

const INDEXES: [(&str, &str, &[&str]); 4] = [
    (
        "backups_by_destination",
        "backups",
        &["destination_id", "agent_id"],
    ),
    (
        "backup_copies_by_destination",
        "backup_copies",
        &["destination_id", "backup_id"],
    ),
    (
        "backup_copies_by_agent",
        "backup_copies",
        &["agent_id", "destination_id"],
    ),
    ("destinations_by_place", "destinations", &["place"]),
];

/// Places for vaults.
fn destinations() -> TableCreateStatement {
    Table::create()
        .table("destinations")
        .if_not_exists()
        .col(text("destination_id").primary_key())
        .col(text("display_name"))
        // Where it is, without secrets: no two destinations that are added are one place.
        .col(text("place"))
        // The description, sealed under key-encryption keys.
        .col(blob("sealed"))
        .col(text("etag"))
        .col(big_integer("create_time_ms"))
        .col(big_integer("update_time_ms"))
        .to_owned()
}

/// Keys of hosts that were trusted at the first connection.
fn host_keys() -> TableCreateStatement {
    Table::create()
        .table("host_keys")
        .if_not_exists()
        .col(text("host"))
        .col(integer("port"))
        .col(text("host_key"))
        .col(big_integer("first_seen_ms"))
        .primary_key(Index::create().col("host").col("port"))
        .to_owned()
}

/// Copies of backups at other destinations.
fn copies() -> TableCreateStatement {
    Table::create()
        .table("backup_copies")
        .if_not_exists()
        .col(text("backup_id"))
        .col(text("destination_id"))
        .col(text("agent_id"))
        // pending, completed, failed
        .col(text("state"))
        .col(text_null("failure_reason"))
        .col(text_null("failure_message"))
        .col(big_integer("update_time_ms"))
        .primary_key(Index::create().col("backup_id").col("destination_id"))
        .to_owned()
}

fn columns() -> [(&'static str, &'static str, ColumnDef); 5] {
    let column = |name: &'static str, value: &'static str| text(name).default(value).to_owned();
    [
        // Empty: the default one.
        ("agents", "destination_id", column("destination_id", "")),
        // Empty: none.
        (
            "agents",
            "second_destination_id",
            column("second_destination_id", ""),
        ),
        // Whatever a program wrote that knew of one destination only lies at that.
        (
            "backups",
            "destination_id",
            column("destination_id", "default"),
        ),
        // Empty: where the backup lies.
        ("restores", "destination_id", column("destination_id", "")),
        ("jobs", "destination_id", column("destination_id", "")),
    ]
}
