//! How far a job is: a bar on a terminal, plain lines elsewhere, nothing with
//! `--quiet`, and JSON lines (written by the watch itself) with `--json`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::backup::v1::{Phase, Progress};

use crate::output::{Output, human};

/// How often plain lines come at the most.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the bar moves by itself.
const TICK: Duration = Duration::from_millis(120);

/// Shows progress until it is dropped.
#[derive(Debug)]
pub enum Meter {
    /// A person looks at it.
    Bar(ProgressBar),
    /// A log, a pipe.
    Lines(Lines),
    /// Nobody, or a program.
    Silent,
}

impl Meter {
    /// The right meter for where standard error goes.
    pub fn new(out: Output, what: &str) -> Self {
        if out.json || out.quiet {
            Self::Silent
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_prefix(what.to_string());
            bar.set_style(spinner());
            bar.enable_steady_tick(TICK);
            Self::Bar(bar)
        } else {
            Self::Lines(Lines {
                what: what.to_string(),
                last: None,
            })
        }
    }

    /// Shows where a job stands.
    pub fn show(&mut self, progress: &Progress) {
        match self {
            Self::Bar(bar) => {
                if progress.bytes_total > 0 {
                    if bar.length() != Some(progress.bytes_total) {
                        bar.set_length(progress.bytes_total);
                        bar.set_style(gauge());
                    }
                    bar.set_position(progress.bytes_done.min(progress.bytes_total));
                }
                bar.set_message(text(progress));
            }
            Self::Lines(lines) => {
                if lines.is_due(progress.phase(), &progress.waiting_reason, Instant::now()) {
                    line(&format!("{}: {}", lines.what, text(progress)));
                }
            }
            Self::Silent => {}
        }
    }

    /// Shows how many bytes have come, of an unknown number.
    pub fn show_bytes(&mut self, bytes: u64) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(bytes);
                let rate = human::bytes(bar.per_sec() as u64);
                bar.set_message(format!("{}, {rate}/s", human::bytes(bytes)));
            }
            Self::Lines(lines) => {
                // What is there within a second needs no line.
                let is_first = lines.last.is_none();
                if lines.is_due(Phase::Transferring, "", Instant::now()) && !is_first {
                    line(&format!("{}: {}", lines.what, human::bytes(bytes)));
                }
            }
            Self::Silent => {}
        }
    }

    /// Shows a remark beside the progress.
    pub fn remark(&self, text: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| line(text)),
            Self::Lines(_) => line(text),
            Self::Silent => {}
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// A closed standard error must not end the work, so that this is no `eprintln!`.
fn line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// When the last line was written, and of what.
#[derive(Debug)]
pub struct Lines {
    what: String,
    last: Option<(Instant, Phase, String)>,
}

impl Lines {
    /// A line is due when something new begins, or a second after the last.
    fn is_due(&mut self, phase: Phase, waiting: &str, now: Instant) -> bool {
        let due = self
            .last
            .as_ref()
            .is_none_or(|(at, last_phase, last_waiting)| {
                *last_phase != phase
                    || last_waiting != waiting
                    || (phase == Phase::Transferring && now.duration_since(*at) >= LINE_INTERVAL)
            });
        if due {
            self.last = Some((now, phase, waiting.to_string()));
        }
        due
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {prefix}: {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn gauge() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {prefix} [{bar:24}] {percent:>3}% {wide_msg}")
        .map_or_else(
            |_| ProgressStyle::default_bar(),
            |style| style.progress_chars("=> "),
        )
}

/// Where a job stands, on one line.
pub fn text(progress: &Progress) -> String {
    let mut parts = vec![phase(progress.phase()).to_string()];
    if progress.attempt > 1 {
        parts.push(format!("attempt {}", progress.attempt));
    }
    if !progress.waiting_reason.is_empty() {
        parts.push(human::printable(&progress.waiting_reason));
    }
    if progress.bytes_total > 0 {
        parts.push(format!(
            "{} of {}",
            human::bytes(progress.bytes_done),
            human::bytes(progress.bytes_total)
        ));
    } else if progress.bytes_done > 0 {
        parts.push(human::bytes(progress.bytes_done));
    }
    if progress.entries_done > 0 {
        parts.push(human::plural(progress.entries_done, "entry", "entries"));
    }
    if progress.new_bytes > 0 {
        parts.push(format!("{} new", human::bytes(progress.new_bytes)));
    }
    if progress.phase() == Phase::Transferring && progress.rate_bytes_per_second > 0 {
        parts.push(format!(
            "{}/s",
            human::bytes(progress.rate_bytes_per_second)
        ));
    }
    if let Some(eta) = progress.eta.as_ref().map(human::proto_duration)
        && progress.phase() == Phase::Transferring
        && eta >= Duration::from_secs(1)
    {
        parts.push(format!(
            "{} to go",
            human::duration(Duration::from_secs(eta.as_secs()))
        ));
    }
    parts.join(", ")
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified => "waiting",
        Phase::Queued => "queued",
        Phase::Preparing => "preparing",
        Phase::Transferring => "transferring",
        Phase::Committing => "committing",
        Phase::Ended => "ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_it_all() {
        let progress = Progress {
            phase: Phase::Transferring.into(),
            attempt: 2,
            entries_done: 1234,
            bytes_done: 10 << 20,
            bytes_total: 40 << 20,
            new_bytes: 1 << 20,
            rate_bytes_per_second: 5 << 20,
            eta: Some(prost_types::Duration {
                seconds: 6,
                nanos: 0,
            }),
            ..Progress::default()
        };
        assert_eq!(
            text(&progress),
            "transferring, attempt 2, 10.0 MiB of 40.0 MiB, 1,234 entries, 1.0 MiB new, \
             5.0 MiB/s, 6.0 s to go"
        );
        let waiting = Progress {
            phase: Phase::Queued.into(),
            waiting_reason: "another job of the agent runs".into(),
            ..Progress::default()
        };
        assert_eq!(text(&waiting), "queued, another job of the agent runs");
    }

    #[test]
    fn plain_lines_come_once_a_second_and_on_changes() {
        let mut lines = Lines {
            what: "x".into(),
            last: None,
        };
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        assert!(lines.is_due(Phase::Queued, "", start));
        assert!(!lines.is_due(Phase::Queued, "", after(5000)));
        assert!(lines.is_due(Phase::Queued, "waits", after(5001)));
        assert!(lines.is_due(Phase::Transferring, "", after(5002)));
        assert!(!lines.is_due(Phase::Transferring, "", after(5900)));
        assert!(lines.is_due(Phase::Transferring, "", after(6100)));
    }
}
