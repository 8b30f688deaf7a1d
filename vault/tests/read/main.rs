//! What was written is read back: contents, lists, the whole backup in order,
//! archives, verification; and what was damaged is found.

mod contents;
mod damage;
mod faults;
mod recover;
mod support;
mod tar;
mod verify;
mod walk;
