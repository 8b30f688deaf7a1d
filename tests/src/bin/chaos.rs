//! Faults by hand: `make chaos KILLS=200 SEED=1`. Prints a table; its rows go to
//! the file of figures, or with `--json` to standard output.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use services::{
    chaos::{self, Options},
    place,
};

/// Kills, freezes and cuts off parts of a fleet under load, and checks what is left.
#[derive(Parser)]
struct Arguments {
    /// How many faults.
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// Where the faults come from; another one each time when not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the figures as JSON, and write no file.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = arguments
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let report = chaos::run(Options::new(arguments.kills, seed)).await?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report.rows())?);
        eprintln!("{report}");
    } else {
        report.merge_into(&place::target_dir()?.join("bench/latest.json"))?;
        println!("{report}");
    }
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
