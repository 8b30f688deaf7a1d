//! What no backup needs goes, and nothing else, whatever fails when and whoever
//! else is at work; copies at a second destination are whole and stand alone; and what
//! every destination must keep to.

mod compaction;
mod copies;
mod copy_faults;
mod copy_keys;
mod crashes;
mod faults;
mod model;
mod rollback;
mod stores;
mod support;
mod zombies;
