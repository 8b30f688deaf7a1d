//! What the catalog promises, on a fresh PostgreSQL database each: the server is
//! the one that NORA_TEST_POSTGRES_URL names (a user who may create databases).

#[path = "contract.rs"]
mod contract;

use contract::fixture;
