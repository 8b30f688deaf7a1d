//! The catalog's database schema, one file a change, in the order of their
//! dates. SQLite and PostgreSQL run the same statements.
//!
//! Rules: expand, then contract. Old and new programs run side by side while a
//! fleet is updated, so a change adds what the new one needs with a default that
//! the old one can live with; what nobody reads any more goes in a later
//! release. A released file is never changed. Every statement can be run again
//! after a crash (`if_not_exists`): SQLite has no transaction around them.

pub use sea_orm_migration::MigratorTrait;
use sea_orm_migration::{MigrationTrait, async_trait};

mod m20261123_000001_first_tables;
mod m20261124_000002_fleet;
mod m20261124_000003_schedules;
mod m20261125_000005_keys;
mod m20261125_000006_audit;
mod m20261125_000007_agents;
mod m20261125_000008_administration;
mod m20261125_000009_lists;
mod m20261129_000010_destinations;

/// All changes, oldest first.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_first_tables::Migration),
            Box::new(m20261124_000002_fleet::Migration),
            Box::new(m20261124_000003_schedules::Migration),
            Box::new(m20261125_000005_keys::Migration),
            Box::new(m20261125_000006_audit::Migration),
            Box::new(m20261125_000007_agents::Migration),
            Box::new(m20261125_000008_administration::Migration),
            Box::new(m20261125_000009_lists::Migration),
            Box::new(m20261129_000010_destinations::Migration),
        ]
    }
}
