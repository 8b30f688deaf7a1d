//! The outcome: a table for people, rows for programs.

use std::{collections::BTreeMap, fmt, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{check::SETTLE_MAX, faults::Fault};

/// What all rows' names begin with.
const PREFIX: &str = "chaos: ";

/// What a run found.
pub struct Report {
    /// The seed that repeats it.
    pub seed: u64,
    faults: BTreeMap<String, usize>,
    counts: Vec<(&'static str, u64)>,
    wrong: Vec<(&'static str, u64)>,
    settle: Duration,
    whole: Duration,
    /// What was not as it should be, in words.
    pub troubles: Vec<String>,
}

impl Report {
    pub(super) fn new(seed: u64, faults: &[Fault]) -> Self {
        let mut kinds = BTreeMap::new();
        for fault in faults {
            *kinds.entry(fault.to_string()).or_default() += 1;
        }
        Self {
            seed,
            faults: kinds,
            counts: Vec::new(),
            wrong: Vec::new(),
            settle: Duration::ZERO,
            whole: Duration::ZERO,
            troubles: Vec::new(),
        }
    }

    /// Something that was counted.
    pub(super) fn count(&mut self, what: &'static str, number: u64) {
        self.counts.push((what, number));
    }

    /// Something of which there should be none.
    pub(super) fn wrong(&mut self, what: &'static str, number: u64) {
        self.wrong.push((what, number));
    }

    pub(super) fn settled(&mut self, settle: Duration, whole: Duration) {
        self.settle = settle;
        self.whole = whole;
    }

    /// Whether all is as it should be.
    pub fn is_good(&self) -> bool {
        self.troubles.is_empty()
            && self.wrong.iter().all(|(_, number)| *number == 0)
            && self.settle < SETTLE_MAX
    }

    /// One row a figure: `{measure, value, unit, goal, met}`.
    pub fn rows(&self) -> Vec<Value> {
        let faults: usize = self.faults.values().sum();
        let mut rows: Vec<Value> = self
            .wrong
            .iter()
            .map(|(what, number)| {
                json!({
                    "measure": format!("{PREFIX}{what}"), "value": number,
                    "unit": format!("after {faults} faults"), "goal": "= 0", "met": *number == 0,
                })
            })
            .collect();
        let seconds = (self.settle.as_secs_f64() * 10.0).round() / 10.0;
        rows.push(json!({
            "measure": format!("{PREFIX}all ends seen after everything was healed"),
            "value": seconds, "unit": "s", "goal": format!("< {}", SETTLE_MAX.as_secs()),
            "met": self.settle < SETTLE_MAX,
        }));
        rows
    }

    /// Puts the rows into a file of such rows, in place of those of an earlier run.
    pub fn merge_into(&self, path: &Path) -> Result<()> {
        let mut rows: Vec<Value> = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("read the rows of {}", path.display()))?,
            Err(_) => Vec::new(),
        };
        let own = |row: &Value| {
            let measure = row["measure"].as_str();
            measure.is_some_and(|measure| measure.starts_with(PREFIX))
        };
        rows.retain(|row| !own(row));
        rows.extend(self.rows());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "\n  {:<44} {:>7}", "fault", "times")?;
        for (fault, times) in &self.faults {
            writeln!(f, "  {fault:<44} {times:>7}")?;
        }
        let faults: usize = self.faults.values().sum();
        writeln!(f, "  {:<44} {faults:>7}", "all")?;
        writeln!(f, "\n  {:<44} {:>7}", "load", "number")?;
        for (what, number) in &self.counts {
            writeln!(f, "  {what:<44} {number:>7}")?;
        }
        writeln!(f, "\n  {:<44} {:>7}  goal", "wrong", "number")?;
        for (what, number) in &self.wrong {
            let mark = if *number == 0 { "" } else { "  NOT MET" };
            writeln!(f, "  {what:<44} {number:>7}  0{mark}")?;
        }
        let seconds = self.settle.as_secs_f32();
        let goal = SETTLE_MAX.as_secs();
        let what = "seconds to the last end after healing";
        writeln!(f, "  {what:<44} {seconds:>7.1}  < {goal}")?;
        writeln!(f, "\n  {:.0} s in all", self.whole.as_secs_f32())?;
        for trouble in &self.troubles {
            writeln!(f, "  ! {trouble}")?;
        }
        Ok(())
    }
}
