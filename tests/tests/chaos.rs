//! A short run of faults under load; `make chaos` makes long ones.

use anyhow::Result;
use services::chaos::{self, Options};

/// Each kind of fault comes once at the least.
const FAULTS: usize = 25;
const SEED: u64 = 20_261_124;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_stuck_or_wrong_whatever_is_killed() -> Result<()> {
    let report = chaos::run(Options::new(FAULTS, SEED)).await?;
    println!("{report}");
    assert!(report.is_good(), "seed {SEED}: {report}");
    Ok(())
}
