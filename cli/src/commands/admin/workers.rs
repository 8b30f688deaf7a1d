//! `admin workers`: ListWorkers.

use std::time::Duration;

use clap::Args;
use proto::backup::v1::{ListWorkersRequest, Worker};

use crate::{
    commands::token::span,
    connect::{Session, call},
    error::Result,
    output::{
        human,
        json::Document as _,
        table::{Align, Table},
    },
};

/// Arguments of `admin workers`.
#[derive(Debug, Args)]
pub struct WorkersArgs {
    /// How far back a worker's last sign of life may lie, for example 10m or 1h [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub within: Option<Duration>,
}

/// Runs it.
pub async fn run(session: &Session, args: WorkersArgs) -> Result<()> {
    let request = ListWorkersRequest {
        seen_within: args.within.map(|within| prost_types::Duration {
            seconds: within.as_secs() as i64,
            nanos: 0,
        }),
    };
    let answer = session.admin().list_workers(call(request)).await?;
    let answer = answer.into_inner();
    let out = session.out;
    if out.json {
        return out.document(&answer.to_json());
    }
    if out.quiet {
        let mut workers = answer.workers.iter();
        return workers.try_for_each(|worker| out.line(&worker.worker_id));
    }
    if answer.workers.is_empty() {
        out.note("no worker gave a sign of life; jobs wait until one does");
        return Ok(());
    }
    table(&answer.workers)
        .iter()
        .try_for_each(|line| out.line(line))
}

fn table(workers: &[Worker]) -> Vec<String> {
    let mut table = Table::new(&[
        ("WORKER", Align::Left),
        ("POOLS", Align::Left),
        ("JOBS AT ONCE", Align::Right),
        ("VERSION", Align::Left),
        ("STARTED", Align::Left),
        ("SEEN", Align::Left),
    ]);
    for worker in workers {
        table.row(vec![
            human::printable(&worker.worker_id),
            human::printable(&worker.pools.join(", ")),
            worker.concurrency.to_string(),
            human::printable(&worker.version),
            human::time(worker.start_time.as_ref()),
            human::time(worker.seen_time.as_ref()),
        ]);
    }
    table.lines()
}
