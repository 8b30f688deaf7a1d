//! Keys: rotations, what each vault is under, who holds which key, and data keys that
//! were destroyed and must not come back.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, blob, boolean, text},
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [rotations(), vault_keys(), holders(), erased()] {
            manager.create_table(table).await?;
        }
        for (name, table, columns) in [
            (
                "key_rotations_by_writing_key_id",
                "key_rotations",
                ["writing_key_id", "job_id"],
            ),
            ("vault_keys_by_key_id", "vault_keys", ["key_id", "agent_id"]),
            (
                "vault_keys_by_agent_id",
                "vault_keys",
                ["agent_id", "key_id"],
            ),
            (
                "key_holders_by_seen",
                "key_holders",
                ["seen_time_ms", "replica"],
            ),
        ] {
            let mut index = Index::create();
            index.name(name).table(table).if_not_exists();
            for column in columns {
                index.col(column);
            }
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["erased_keys", "key_holders", "vault_keys", "key_rotations"] {
            manager
                .drop_table(Table::drop().table(table).if_exists().to_owned())
                .await?;
        }
        Ok(())
    }
}

/// Rotations, each beside its job.
fn rotations() -> TableCreateStatement {
    Table::create()
        .table("key_rotations")
        .if_not_exists()
        .col(text("job_id").primary_key())
        .col(text("writing_key_id"))
        .col(boolean("retire_previous"))
        // The last vault that was seen to: an attempt goes on after it.
        .col(text("cursor"))
        .col(big_integer("vaults_done"))
        .col(big_integer("vaults_total"))
        .col(big_integer("vaults_changed"))
        .col(big_integer("vaults_failed"))
        // The first vaults that failed, and why.
        .col(blob("problems"))
        .to_owned()
}

/// The key-encryption keys that each vault is under, as last seen.
fn vault_keys() -> TableCreateStatement {
    Table::create()
        .table("vault_keys")
        .if_not_exists()
        .col(text("destination_id"))
        .col(text("agent_id"))
        .col(text("key_id"))
        .col(big_integer("update_time_ms"))
        .primary_key(
            Index::create()
                .col("destination_id")
                .col("agent_id")
                .col("key_id"),
        )
        .to_owned()
}

/// Processes that hold keys, as last seen.
fn holders() -> TableCreateStatement {
    Table::create()
        .table("key_holders")
        .if_not_exists()
        .col(text("replica").primary_key())
        // worker, server
        .col(text("kind"))
        // Separated by spaces, the writing one first.
        .col(text("key_ids"))
        .col(big_integer("seen_time_ms"))
        .to_owned()
}

/// Data keys that were destroyed.
fn erased() -> TableCreateStatement {
    Table::create()
        .table("erased_keys")
        .if_not_exists()
        .col(text("data_key_id").primary_key())
        .col(text("agent_id"))
        .col(big_integer("erase_time_ms"))
        .to_owned()
}
