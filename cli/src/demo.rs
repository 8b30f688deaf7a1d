//! `demo`: from nothing to a restored agent, on made-up data, with figures.
//!
//! - `made_up`: the agent, and what an hour of work does to it
//! - `steps`: back up, change, back up again, restore: over the real gRPC port
//! - `compare`: two folders, compared to the last byte
//! - `container`: the same with a container on a Docker Engine

mod chance;
mod compare;
mod container;
mod folder;
mod made_up;
mod steps;
mod tarball;

use std::path::PathBuf;

use clap::Args;
use tokio::signal;

use crate::{
    error::{CliError, Result},
    exit::Exit,
    output::Output,
};

/// Arguments of `demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nora-backup demo\n  nora-backup demo --keep --dir ~/nora-demo\n  \
    nora-backup demo --docker\n  nora-backup demo --docker --image debian:stable-slim\n\n\
    It ends with 0 only when the restored agent is the same to the last byte."
)]
pub struct DemoArgs {
    /// With a container on a Docker Engine (DOCKER_HOST), instead of a folder
    #[arg(long)]
    pub docker: bool,
    /// Image of the container; it needs sh and sleep [default: made from /bin/busybox]
    #[arg(long, requires = "docker", value_name = "IMAGE")]
    pub image: Option<String>,
    /// Docker Engine to use [default: DOCKER_HOST, else the usual socket]
    #[arg(
        long,
        requires = "docker",
        env = "NORA_BACKUP_DOCKER_HOST",
        value_name = "URL"
    )]
    pub docker_host: Option<String>,
    /// Keep everything, to go on by hand
    #[arg(long)]
    pub keep: bool,
    /// Where to work: a folder that is empty or not there [default: a temporary one]
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
}

/// Runs it.
pub async fn run(args: DemoArgs, out: Output) -> Result<()> {
    let keep = args.keep;
    steps::run(args, out)
        .await
        .map_err(|error| match error.exit {
            Exit::Interrupted if keep => CliError::new(Exit::Interrupted, "interrupted"),
            Exit::Interrupted => {
                CliError::new(Exit::Interrupted, "interrupted; what was made is removed")
            }
            _ => error,
        })
}

/// Ends some work at Ctrl-C; what comes after it cleans up.
async fn interruptible<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        ended = work => ended,
        _ = signal::ctrl_c() => Err(CliError::new(Exit::Interrupted, "interrupted")),
    }
}
