//! The binary `nora-backup`: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    nora_backup_cli::main()
}
