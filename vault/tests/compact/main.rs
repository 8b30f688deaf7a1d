//! What no backup needs goes, and nothing else, whatever fails when and whoever
//! else is at work; and what every destination must keep to.

mod compaction;
mod crashes;
mod faults;
mod model;
mod rollback;
mod stores;
mod support;
mod zombies;
