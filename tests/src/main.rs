//! `services`: starts and stops the real services of the end-to-end tests.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use services::services::Services;

/// Start, or stop, the real services that the end-to-end tests need: private
/// instances under target/services, apart from whatever else this machine runs.
#[derive(Parser)]
#[command(name = "services")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start what does not run yet, installing what is missing, and wait until it answers
    Up,
    /// Stop what `up` started, also what an earlier run that crashed has left
    Down,
    /// Print the addresses, as lines for a shell: eval "$(services env)"
    Env,
    /// Say which services run; exit code 1 when one does not
    Status,
    /// Start what does not run yet, run a command with the addresses in its
    /// environment, and stop again what this call started
    Run {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let services = Services::here()?;
    match arguments.action {
        Action::Up => {
            services.up()?;
            print!("{}", services.env_text()?);
        }
        Action::Down => services.down()?,
        Action::Env => print!("{}", services.env_text()?),
        Action::Status => {
            let status = services.status()?;
            for (name, running) in &status {
                println!("{name}: {}", if *running { "runs" } else { "stopped" });
            }
            if status.iter().any(|(_, running)| !running) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Action::Run { command } => return services.run(&command),
    }
    Ok(ExitCode::SUCCESS)
}
