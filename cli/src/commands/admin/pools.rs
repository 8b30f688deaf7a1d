//! `admin pools`: ListPools.

use clap::Args;
use proto::backup::v1::{ListPoolsRequest, Pool};

use crate::{
    connect::{Session, call},
    error::Result,
    output::{
        human,
        json::Document as _,
        table::{Align, Table},
    },
};

/// Arguments of `admin pools`.
#[derive(Debug, Args)]
pub struct PoolsArgs {}

/// Runs it.
pub async fn run(session: &Session, PoolsArgs {}: PoolsArgs) -> Result<()> {
    let request = call(ListPoolsRequest {});
    let answer = session.admin().list_pools(request).await?.into_inner();
    let out = session.out;
    if out.json {
        return out.document(&answer.to_json());
    }
    if out.quiet {
        let mut pools = answer.pools.iter();
        return pools.try_for_each(|pool| out.line(&pool.pool));
    }
    if answer.pools.is_empty() {
        out.note("no worker has served any pool within 24 hours; jobs wait until one does");
        return Ok(());
    }
    let lines = table(&answer.pools);
    lines.iter().try_for_each(|line| out.line(line))?;
    if answer.pools.iter().any(|pool| pool.dead_letters > 0) {
        out.note(
            "dead letters are messages that no worker could use: the workers' logs say what is \
             wrong with each",
        );
    }
    Ok(())
}

fn table(pools: &[Pool]) -> Vec<String> {
    let mut table = Table::new(&[
        ("POOL", Align::Left),
        ("WORKERS", Align::Right),
        ("JOBS AT ONCE", Align::Right),
        ("MANUAL", Align::Right),
        ("SCHEDULED", Align::Right),
        ("DEAD LETTERS", Align::Right),
    ]);
    for pool in pools {
        table.row(vec![
            human::printable(&pool.pool),
            pool.workers.to_string(),
            pool.concurrency.to_string(),
            pool.manual_messages.to_string(),
            pool.scheduled_messages.to_string(),
            pool.dead_letters.to_string(),
        ]);
    }
    table.lines()
}
