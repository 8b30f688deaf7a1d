//! Chaos: a fleet under load while its parts are killed, frozen and cut off; then
//! everything that was promised is checked. In reading order:
//!
//! - `site`: services and a fleet of their own, and agents with changing folders
//! - `ledger`: what was accepted, and what was seen of it
//! - `caller`: calls that are repeated through any server until they are answered
//! - `load`: creates, cancels, deletes, restores and watches
//! - `faults`: what goes wrong, drawn from a seed
//! - `check`: what must hold when all is healed
//! - `report`: the outcome as a table and as rows
//!
//! The faults of a seed are always the same ones in the same order; what the
//! fleet happens to do meanwhile is not.

mod caller;
mod check;
mod faults;
mod ledger;
mod load;
mod report;
mod site;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

pub use report::Report;

use self::{ledger::Ledger, site::Site};
use crate::place;

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Faults.
    pub faults: usize,
    /// Where the faults come from.
    pub seed: u64,
    /// Agents, each with a client that makes its backups.
    pub agents: usize,
}

impl Options {
    /// This many faults of this seed.
    pub fn new(faults: usize, seed: u64) -> Self {
        let agents = 8;
        Self {
            faults,
            seed,
            agents,
        }
    }

    /// Where the logs of a run that went wrong are kept.
    pub fn logs(&self) -> Result<PathBuf> {
        Ok(place::target_dir()?
            .join("chaos")
            .join(self.seed.to_string()))
    }
}

/// Load, faults, and the check. An error means that it could not be carried out;
/// what the check found is in the report.
pub async fn run(options: Options) -> Result<Report> {
    let begun = Instant::now();
    eprintln!("chaos: seed {}, {} faults", options.seed, options.faults);
    let mut site = Site::start(&options).await?;
    let outcome = run_on(&mut site, options, begun).await;
    let good = outcome.as_ref().is_ok_and(Report::is_good);
    if !good {
        let folder = options.logs()?;
        site.keep_logs(&folder)?;
        eprintln!(
            "chaos: seed {} went wrong: see {}; again with `make chaos KILLS={} SEED={}`",
            options.seed,
            folder.display(),
            options.faults,
            options.seed
        );
    }
    site.stop().await?;
    outcome
}

async fn run_on(site: &mut Site, options: Options, begun: Instant) -> Result<Report> {
    let ledger = Arc::new(Ledger::default());
    let load = load::Load::start(site, &ledger, options.seed);
    let injected = faults::inject(site, &ledger, options).await;
    let healed = faults::heal(site).await;
    let heal_time = Instant::now();
    load.stop();
    let done = injected.context("inject faults")?;
    healed.context("heal what was broken")?;
    load.wait_for_end(&ledger, check::SETTLE_MAX).await;
    let settle = heal_time.elapsed();
    eprintln!(
        "chaos: {} s after all was healed, clients have ended",
        settle.as_secs()
    );
    let mut report = Report::new(options.seed, &done);
    check::check(site, &ledger, &mut report).await?;
    report.settled(settle, begun.elapsed());
    report.troubles = ledger.troubles();
    Ok(report)
}

/// How often something is looked at that cannot be waited for.
const LOOK: Duration = Duration::from_millis(50);
