//! The command line: global options and the list of commands.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use process::log::LogFormat;

use crate::{commands, demo, exit, standalone};

/// The address that `standalone` listens on when nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:50551";

/// Backs up AI agents, encrypted and deduplicated, and brings them back as new
/// agents.
#[derive(Debug, Parser)]
#[command(
    name = "nora-backup",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Try it:\n  nora-backup demo\n  nora-backup standalone          (then, in another terminal)\n  \
                  nora-backup agent register my-agent --directory ~/my-agent\n  \
                  nora-backup backup create my-agent --watch\n  nora-backup backup list",
    after_long_help = long_help()
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

fn long_help() -> String {
    format!(
        "Exit codes:\n{}\nTry it:\n  nora-backup demo\n  nora-backup standalone          (then, in another terminal)\n  \
         nora-backup agent register my-agent --directory ~/my-agent\n  \
         nora-backup backup create my-agent --watch\n  nora-backup backup list\n\n\
         Every option that has an environment variable names it. Errors go to standard error, results to\n\
         standard output.",
        exit::help()
    )
}

/// Options that every command takes.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Address of the service, as http(s)://HOST:PORT [default: http://127.0.0.1:50551, the
    /// standalone's]
    #[arg(long, global = true, env = "NORA_BACKUP_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Bearer token. Other people of this machine can see arguments: prefer --token-file
    #[arg(
        long,
        global = true,
        env = "NORA_BACKUP_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub token: Option<String>,
    /// File that holds the bearer token [default, for a service on this machine: the file
    /// `token` in the standalone's data directory]
    #[arg(
        long,
        global = true,
        env = "NORA_BACKUP_TOKEN_FILE",
        value_name = "FILE"
    )]
    pub token_file: Option<PathBuf>,
    /// Trust the certificate authorities in this PEM file for https, instead of the system's
    #[arg(long, global = true, env = "NORA_BACKUP_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Answer as JSON: one document, or one line an event for watches
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress and no remarks; lists and creates answer with ids only
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// How log lines look
    #[arg(
        long,
        global = true,
        env = "NORA_BACKUP_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Human,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// The commands, each in its own file.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell the service which agents exist
    #[command(subcommand, visible_alias = "agents")]
    Agent(commands::agent::AgentCommand),
    /// Make, show, read back and remove backups
    #[command(subcommand, visible_alias = "backups")]
    Backup(commands::backup::BackupCommand),
    /// Bring a backup back as a new agent
    #[command(subcommand, visible_alias = "restores")]
    Restore(commands::restore::RestoreCommand),
    /// Set when agents are backed up by themselves, and see what is kept
    #[command(subcommand, visible_alias = "schedules")]
    Schedule(commands::schedule::ScheduleCommand),
    /// Run the platform: what only administrators may, on their own listener
    Admin(commands::admin::AdminArgs),
    /// Show, make and rotate the keys that backups are sealed under
    #[command(visible_alias = "keys")]
    Key(commands::key::KeyArgs),
    /// Say where backups are kept: more places than one, and try them
    #[command(visible_alias = "destinations")]
    Destination(commands::destination::DestinationArgs),
    /// Run the whole service in one process: nothing to install
    Standalone(Box<standalone::StandaloneArgs>),
    /// Show a backup and a restore from end to end, on made-up data
    Demo(demo::DemoArgs),
    /// Read vaults without a service: list, verify, restore, export, and make a lost
    /// database again
    Recover(Box<commands::recover::RecoverArgs>),
    /// Make access tokens
    #[command(subcommand)]
    Token(commands::token::TokenCommand),
    /// Print a completion script for a shell
    Completions(commands::completions::CompletionsArgs),
    /// Print generated documentation
    #[command(subcommand, hide = true)]
    Docs(commands::docs::DocsCommand),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_the_exit_codes_are_in_the_help() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                let path = format!("{path} {}", sub.get_name());
                if sub.has_subcommands() {
                    check(sub, &path);
                } else {
                    let help = sub
                        .get_after_help()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    assert!(help.contains("Example"), "{path} has no examples");
                    assert!(help.contains("nora-backup "), "{path} has no examples");
                }
            }
        }
        check(&Cli::command(), "nora-backup");
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Exit codes:") && help.contains("130"));
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in [
            "--json backup list",
            "backup --json list",
            "backup list --json",
        ] {
            let arguments = std::iter::once("nora-backup").chain(line.split(' '));
            assert!(
                Cli::try_parse_from(arguments).expect(line).global.json,
                "{line}"
            );
        }
    }
}
