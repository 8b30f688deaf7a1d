//! The command line: a client, a whole service in one process, a demonstration.
//!
//! In reading order:
//!
//! - [`args`]: the command line; each command has a file under [`commands`]
//! - [`connect`]: address, certificates and token of the service
//! - [`find`]: what people may type to name a backup or a restore
//! - [`show`] and [`output`]: how answers look, for people and for programs
//! - [`progress`] and [`mod@watch`]: following a job to its end
//! - [`transfer`]: bringing bytes to a file, over broken connections
//! - [`error`] and [`exit`]: what is said when it does not work, and the exit code
//! - [`standalone`]: server and worker in one process, one data directory
//! - `logging`: how much of the log each command shows
//! - [`demo`]: a backup and a restore from end to end, on made-up data
//!
//! Client commands know the API and nothing else; only [`standalone`] and
//! [`commands::recover`] know that there are a server, a worker, a catalog and a vault
//! (and `key new` what a key is).

pub mod args;
pub mod commands;
pub mod connect;
pub mod demo;
pub mod error;
pub mod exit;
pub mod find;
mod logging;
pub mod output;
pub mod progress;
pub mod show;
pub mod standalone;
pub mod transfer;
pub mod watch;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::FromArgMatches as _;
use connect::Session;
use error::{CliError, Result};
use output::Output;

/// The command line as it is parsed: what the parts declare, with what only this
/// program knows put in.
pub fn command() -> clap::Command {
    commands::recover::complete(standalone::complete(
        <Cli as clap::CommandFactory>::command(),
    ))
}

/// The same for this process: a variable that is set but empty is not set.
fn command_here() -> clap::Command {
    process::arguments::forget_empty(command())
}

/// Parses the command line, runs the command and says how it ended.
pub fn main() -> ExitCode {
    let arguments = commands::recover::spelled_out(std::env::args_os());
    let cli = match Cli::from_arg_matches_mut(&mut command_here().get_matches_from(arguments)) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if matches!(cli.command, Command::Standalone(_)) {
        process::memory::start_small();
    }
    // Only tests build failpoints in; then FAILPOINTS says what they do.
    let _failpoints = fail::has_failpoints().then(fail::FailScenario::setup);
    let out = Output {
        json: cli.global.json,
        quiet: cli.global.quiet,
    };
    logging::start(cli.global.log_format, &cli.command);
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::io("start threads", &error))
        .and_then(|runtime| {
            let ended = runtime.block_on(run(cli, out));
            // A read of standard input that nobody waits for must not keep the process.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out.error(&error);
            error.exit.into()
        }
    }
}

async fn run(cli: Cli, out: Output) -> Result<()> {
    let session = || Session::connect(&cli.global, out);
    match cli.command {
        Command::Schedule(command) => commands::schedule::run(&session().await?, command).await,
        Command::Agent(command) => commands::agent::run(&session().await?, command).await,
        Command::Backup(command) => commands::backup::run(&session().await?, command).await,
        Command::Restore(command) => commands::restore::run(&session().await?, command).await,
        Command::Admin(args) => commands::admin::run(&cli.global, args, out).await,
        Command::Key(args) => commands::key::run(&cli.global, args, out).await,
        Command::Destination(args) => commands::destination::run(&cli.global, args, out).await,
        Command::Standalone(args) => standalone::run(*args, out).await,
        Command::Demo(args) => demo::run(args, out).await,
        Command::Recover(args) => commands::recover::run(*args, out).await,
        Command::Token(command) => commands::token::run(command, out),
        Command::Completions(args) => commands::completions::run(&args, out),
        Command::Docs(command) => commands::docs::run(&command, out),
    }
}
