//! The binary `nora-backup-server`: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::program::main()
}
