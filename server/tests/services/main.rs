//! The services over a real listener, with a real SQLite catalog and a local destination in a
//! temporary folder. There is no worker: the tests do what one would, through the catalog and the
//! vault.

mod admin;
mod authentication;
mod encryption;
mod harness;
mod isolation;
mod limits;
mod lists;
mod matrix;
mod operations;
mod raw;
mod reading;
mod restoring;
mod stopping;
mod watching;
