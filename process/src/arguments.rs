//! The command line and its environment variables.

use clap::{Command, builder::Resettable};

/// The same command, for this process: a variable that is set but empty is not set.
pub fn forget_empty(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let empty = arg
                .get_env()
                .and_then(std::env::var_os)
                .is_some_and(|value| value.is_empty());
            if empty {
                arg.env(Resettable::Reset)
            } else {
                arg
            }
        })
        .mut_subcommands(forget_empty)
}
