//! How this project's programs begin, log, listen to signals and end: what every
//! one of them does as a process, whatever it is for.
//!
//! - [`arguments`]: the command line, where empty means not set
//! - [`settings`]: their values as text
//! - [`memory`]: keeps a long-running process small
//! - [`log`]: log lines on standard error
//! - [`signals`]: told to stop once, and twice
//! - [`service`]: the life of a program that serves until it is told to stop
//!
//! It must not know what any program does.

pub mod arguments;
pub mod log;
pub mod memory;
pub mod service;
pub mod settings;
pub mod signals;
