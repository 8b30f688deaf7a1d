//! Restores that replace the agent itself, with the backup that is made before; how
//! full the storage is; backups that outlive their agents.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, boolean, integer, text, text_null},
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if !manager.has_column("agents", "backups_kept").await? {
            let kept = boolean("backups_kept").default(false).to_owned();
            let mut table = Table::alter();
            table.table("agents").add_column(kept);
            manager.alter_table(table).await?;
        }
        for (column, definition) in columns() {
            if !manager.has_column("restores", column).await? {
                let mut table = Table::alter();
                table.table("restores").add_column(definition);
                manager.alter_table(table).await?;
            }
        }
        manager
            .create_table(
                Table::create()
                    .table("storage_levels")
                    .if_not_exists()
                    .col(text("name").primary_key())
                    .col(integer("percent"))
                    .col(big_integer("change_time_ms"))
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(
                Index::create()
                    .name("restores_by_safety_backup_id")
                    .table("restores")
                    .if_not_exists()
                    .col("safety_backup_id")
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_index(
                Index::drop()
                    .name("restores_by_safety_backup_id")
                    .table("restores")
                    .if_exists()
                    .to_owned(),
            )
            .await?;
        manager
            .drop_table(Table::drop().table("storage_levels").if_exists().to_owned())
            .await?;
        let mut table = Table::alter();
        table.table("agents").drop_column("backups_kept");
        manager.alter_table(table).await?;
        for (column, _) in columns() {
            let mut table = Table::alter();
            table.table("restores").drop_column(column);
            manager.alter_table(table).await?;
        }
        Ok(())
    }
}

fn columns() -> [(&'static str, ColumnDef); 2] {
    [
        ("in_place", boolean("in_place").default(false).to_owned()),
        ("safety_backup_id", text_null("safety_backup_id")),
    ]
}
