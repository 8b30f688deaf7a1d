//! The SSH destination against a real SSH server (tests/services): the contract of
//! destinations on each kind of account, faults of the network, and what is said
//! when something is wrong.

mod causes;
mod contract;
mod faults;
#[path = "../../../tests/src/proxy.rs"]
#[allow(dead_code)]
mod proxy;
mod support;
