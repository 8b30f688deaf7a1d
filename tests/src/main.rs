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
    Up {
        /// Only these (docker, postgresql, rabbitmq, sshd, seaweedfs)
        names: Vec<String>,
    },
    /// Stop what `up` started, also what an earlier run that crashed has left
    Down {
        /// Only these
        names: Vec<String>,
    },
    /// Print the addresses, as lines for a shell: eval "$(services env)"
    Env,
    /// Say which services run; exit code 1 when one does not
    Status,
    /// Kill one at once, with everything it started; its data stays
    Crash {
        /// Which one
        name: String,
    },
    /// Start one again with the data and the address it had; it is killed first when it runs
    Restart {
        /// Which one
        name: String,
    },
    /// Stop all processes of one where they are (SIGSTOP)
    Pause {
        /// Which one
        name: String,
    },
    /// Let a paused one go on (SIGCONT)
    Resume {
        /// Which one
        name: String,
    },
    /// Start what does not run yet, run a command with the addresses in its
    /// environment, and stop again what this call started
    Run {
        /// Only these services, separated by commas
        #[arg(long, value_delimiter = ',', value_name = "NAMES")]
        only: Vec<String>,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let services = Services::here()?;
    match arguments.action {
        Action::Up { names } => {
            services.up_only(&names)?;
            print!("{}", services.env_text()?);
        }
        Action::Down { names } => services.down_only(&names)?,
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
        Action::Crash { name } => services.kill(&name)?,
        Action::Restart { name } => services.restart(&name)?,
        Action::Pause { name } => services.pause(&name)?,
        Action::Resume { name } => services.resume(&name)?,
        Action::Run { only, command } => return services.run_only(&only, &command),
    }
    Ok(ExitCode::SUCCESS)
}
