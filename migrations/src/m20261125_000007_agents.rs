//! What is particular to an agent: commands around its backups, what is left out
//! of them, and when they are called large.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, blob, blob_null},
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
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
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column, _) in columns() {
            manager
                .alter_table(Table::alter().table(table).drop_column(column).to_owned())
                .await?;
        }
        Ok(())
    }
}

fn columns() -> [(&'static str, &'static str, ColumnDef); 3] {
    [
        (
            "agents",
            "patterns",
            blob("patterns").default(Vec::<u8>::new()).to_owned(),
        ),
        (
            "agents",
            "size_warning_bytes",
            big_integer("size_warning_bytes").default(0).to_owned(),
        ),
        // The command that a dead attempt has yet to have run, and where.
        ("jobs", "after_hook", blob_null("after_hook")),
    ]
}
