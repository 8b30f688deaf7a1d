//! The S3 destination against a real S3 server (tests/services): the contract of
//! destinations, faults of the network and of single calls, and what is said when
//! something is wrong.

mod causes;
mod contract;
mod denied;
mod faults;
mod front;
#[path = "../../../tests/src/proxy.rs"]
#[allow(dead_code)]
mod proxy;
mod stalls;
mod support;
mod tls;
#[path = "../../../tests/src/tls.rs"]
mod tls_front;
