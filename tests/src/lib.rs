//! What the end-to-end tests stand on. In reading order:
//!
//! - [`services`]: starts real services (a private Docker Engine; more join it)
//!   and stops exactly what it started; the binary `services` is its front
//! - [`place`]: where the build puts things: the program under test, its folders
//! - [`standalone`]: starts, stops and kills a `nora-backup standalone`
//! - [`one_agent`]: one with an agent
//! - [`fleet`]: servers and workers as processes of their own
//! - [`api`]: talks to it over gRPC, with tokens for any user and role
//! - [`keys`]: key-encryption keys and their rotation
//! - [`cli`]: runs `nora-backup` commands and reads what they print
//! - [`tree`]: describes a folder so exactly that two can be compared
//! - [`containers`]: agents in containers of that engine
//! - [`fixture`]: makes folders with every kind of entry
//! - [`vaults`]: looks at what lies in a destination, from the outside
//! - [`chaos`]: kills, stops and cuts off parts of a fleet under load, and checks
//! - [`bench`]: what benchmarks are told, and how they tell their figures
//! - [`mount`]: small file systems that fill up
//! - [`proxy`]: does to connections what networks do
//! - [`tls`]: TLS in front of a server that has none
//!
//! It must not know how the program works inside: everything goes through the
//! binary, the API and the files that it leaves.

pub mod api;
pub mod bench;
pub mod chaos;
pub mod cli;
pub mod containers;
pub mod fixture;
pub mod fleet;
pub mod keys;
pub mod mount;
pub mod one_agent;
pub mod place;
pub mod proxy;
pub mod services;
pub mod standalone;
pub mod tls;
pub mod tree;
pub mod vaults;
