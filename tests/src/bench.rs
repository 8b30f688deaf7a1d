//! What the benchmarks of a fleet have in common.

use serde_json::{Value, json};

/// The parts that are asked for on the command line; all of them when none is named.
pub fn parts(all: &[&str]) -> Vec<String> {
    let named: Vec<String> = std::env::args().skip(1).collect();
    if named.is_empty() {
        return all.iter().map(|&part| part.to_owned()).collect();
    }
    named
}

/// One figure, as `bench/rows.py` reads it.
pub fn row(measure: &str, value: f64, unit: &str, goal: &str, met: bool) -> Value {
    let value = (value * 1_000.0).round() / 1_000.0;
    json!({ "measure": measure, "value": value, "unit": unit, "goal": goal, "met": met })
}
