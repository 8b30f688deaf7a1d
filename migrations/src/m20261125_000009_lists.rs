//! Lists of backups by state: each page is read off an index, however rare the state.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const INDEXES: [(&str, &[&str]); 3] = [
    (
        "backups_by_owner_state",
        &["owner_id", "state", "backup_id"],
    ),
    (
        "backups_by_agent_state",
        &["agent_id", "state", "backup_id"],
    ),
    ("backups_by_state", &["state", "backup_id"]),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (name, columns) in INDEXES {
            let mut index = Index::create();
            index.name(name).table("backups").if_not_exists();
            for column in columns {
                index.col(*column);
            }
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (name, _) in INDEXES {
            let index = Index::drop()
                .name(name)
                .table("backups")
                .if_exists()
                .to_owned();
            manager.drop_index(index).await?;
        }
        Ok(())
    }
}
