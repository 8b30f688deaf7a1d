//! The life of a program that serves until it is told to stop.

use std::{fmt, process::ExitCode};

use tokio_util::sync::CancellationToken;

use crate::{
    log::{self, LogFormat},
    memory, signals,
};

/// How a service's run ends without success. The numbers never change their
/// meaning; they are those of the command line's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something went wrong on the way.
    Failed = 1,
    /// A setting is wrong or missing: it will not get better by itself.
    Usage = 2,
    /// The database or RabbitMQ cannot be reached: starting again later may help.
    Unavailable = 5,
    /// Told to stop twice: it did not wait for what was running.
    Interrupted = 130,
}

/// For `--help`.
pub const EXIT_CODES: &str = "Exit codes:\n  0    stopped when it was told to\n  \
    1    something went wrong on the way\n  \
    2    a setting is wrong or missing; the message names it\n  \
    5    the database or RabbitMQ cannot be reached; starting again later may help\n  \
    130  told to stop twice: it did not wait for what was running";

/// Why a service ends: one line that names the variable and the cause.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub exit: Exit,
    /// Why.
    pub message: String,
}

impl Ended {
    /// With its reason.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
        }
    }
}

/// Runs `serve` until it ends, or was told to stop twice.
pub fn run<F>(name: &str, format: LogFormat, serve: impl FnOnce(CancellationToken) -> F) -> ExitCode
where
    F: Future<Output = Result<(), Ended>>,
{
    memory::start_small();
    // Only tests build failpoints in; then FAILPOINTS says what they do.
    let _failpoints = fail::has_failpoints().then(fail::FailScenario::setup);
    log::start(format, log::SERVICE);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: start threads: {error}");
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let stop = CancellationToken::new();
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = serve(stop.clone()) => ended,
            () = signals::told_to_stop(stop.clone(), || ()) => {
                Err(Ended::new(Exit::Interrupted, "told to stop twice: what was running is cut off"))
            }
        }
    });
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => {
            eprintln!("{name}: {}", ended.message);
            ExitCode::from(ended.exit as u8)
        }
    }
}
