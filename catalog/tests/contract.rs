//! What the catalog promises, on a fresh SQLite file each; `contract_postgres`
//! is the same on PostgreSQL.

#[path = "contract/fixture.rs"]
pub(crate) mod fixture;

#[path = "contract/admin.rs"]
mod admin;
#[path = "contract/agents.rs"]
mod agents;
#[path = "contract/backups.rs"]
mod backups;
#[path = "contract/claims.rs"]
mod claims;
#[path = "contract/deletion.rs"]
mod deletion;
#[path = "contract/destinations.rs"]
mod destinations;
#[path = "contract/durability.rs"]
mod durability;
#[path = "contract/endings.rs"]
mod endings;
#[path = "contract/fleet.rs"]
mod fleet;
#[path = "contract/in_place.rs"]
mod in_place;
#[path = "contract/model.rs"]
mod model;
#[path = "contract/outbox.rs"]
mod outbox;
#[path = "contract/pages.rs"]
mod pages;
#[path = "contract/reaper.rs"]
mod reaper;
#[path = "contract/recovered.rs"]
mod recovered;
#[path = "contract/restores.rs"]
mod restores;
#[path = "contract/schedules.rs"]
mod schedules;
#[path = "contract/storage.rs"]
mod storage;
#[path = "contract/verification.rs"]
mod verification;
#[path = "contract/year.rs"]
mod year;
