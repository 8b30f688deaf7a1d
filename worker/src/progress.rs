//! Turns counters into progress: with a rate over the last few seconds, the time to go, and
//! figures that never go back.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use proto::backup::v1::{Phase, Progress};
use vault::Meter;

use crate::clock::timestamp;

/// The rate is that of this much time.
const RATE_OVER: Duration = Duration::from_secs(5);
/// A time to go that is longer than this is no knowledge.
const ETA_SECONDS_MAX: u64 = 30 * 24 * 3600;

/// Reads a meter again and again.
#[derive(Debug)]
pub struct Gauge {
    attempt: u32,
    last: Progress,
    /// When how many bytes had been done, the oldest first.
    samples: VecDeque<(Instant, u64)>,
}

impl Gauge {
    /// For one attempt.
    pub fn new(attempt: u32) -> Self {
        Self {
            attempt,
            last: Progress {
                attempt,
                phase: Phase::Preparing.into(),
                ..Progress::default()
            },
            samples: VecDeque::new(),
        }
    }

    /// How far it is now.
    pub fn read(&mut self, meter: &Meter, now: Instant, now_ms: i64) -> Progress {
        let grown = |counter: &AtomicU64, last: u64| counter.load(Relaxed).max(last);
        let last = &self.last;
        let entries_done = grown(&meter.entries_done, last.entries_done);
        let bytes_done = grown(&meter.bytes_done, last.bytes_done);
        // A total that is known is at least what is done.
        let total = |total: u64, done: u64| if total == 0 { 0 } else { total.max(done) };
        let entries_total = total(
            grown(&meter.entries_total, last.entries_total),
            entries_done,
        );
        let bytes_total = total(grown(&meter.bytes_total, last.bytes_total), bytes_done);
        let rate = self.rate(now, bytes_done);
        let phase = match meter.phase() {
            vault::Phase::Preparing => Phase::Preparing,
            vault::Phase::Transferring => Phase::Transferring,
            vault::Phase::Committing => Phase::Committing,
        };
        let eta = (bytes_total > 0 && phase == Phase::Transferring)
            .then(|| (bytes_total - bytes_done).checked_div(rate))
            .flatten()
            .filter(|seconds| *seconds <= ETA_SECONDS_MAX);
        self.last = Progress {
            phase: phase.into(),
            attempt: self.attempt,
            entries_done,
            entries_total,
            bytes_done,
            bytes_total,
            new_bytes: grown(&meter.new_bytes, self.last.new_bytes),
            stored_bytes: grown(&meter.stored_bytes, self.last.stored_bytes),
            rate_bytes_per_second: rate,
            eta: eta.map(|seconds| prost_types::Duration {
                seconds: seconds as i64,
                nanos: 0,
            }),
            update_time: Some(timestamp(now_ms)),
            waiting_reason: String::new(),
        };
        self.last.clone()
    }

    fn rate(&mut self, now: Instant, bytes: u64) -> u64 {
        self.samples.push_back((now, bytes));
        while self.samples.len() > 2
            && self
                .samples
                .get(1)
                .is_some_and(|(at, _)| now.duration_since(*at) >= RATE_OVER)
        {
            self.samples.pop_front();
        }
        let Some((since, before)) = self.samples.front().copied() else {
            return 0;
        };
        let elapsed = now.duration_since(since).as_secs_f64();
        if elapsed < 0.1 {
            return self.last.rate_bytes_per_second;
        }
        ((bytes - before) as f64 / elapsed) as u64
    }
}

/// The figures after a successful end: everything is done.
pub(crate) fn ended(mut progress: Progress) -> Progress {
    progress.phase = Phase::Ended.into();
    progress.eta = None;
    progress.entries_total = progress.entries_done;
    progress.bytes_total = progress.bytes_done;
    progress
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_to_go_follow_the_last_seconds() {
        let meter = Meter::default();
        let mut gauge = Gauge::new(2);
        let start = Instant::now();
        meter.set_phase(vault::Phase::Transferring);
        meter.bytes_total.store(100_000, Relaxed);
        for second in 0..20 {
            // Slow at first, fast in the end.
            meter.add_bytes(if second < 10 { 100 } else { 1000 });
            gauge.read(&meter, start + Duration::from_secs(second), 0);
        }
        let progress = gauge.read(&meter, start + Duration::from_secs(20), 1500);
        assert!(
            (800..=1000).contains(&progress.rate_bytes_per_second),
            "{progress:?}"
        );
        assert_eq!(progress.attempt, 2);
        let eta = progress.eta.unwrap().seconds as u64;
        assert_eq!(eta, (100_000 - 11_000) / progress.rate_bytes_per_second);
        assert_eq!(progress.update_time.unwrap().nanos, 500_000_000);
    }

    #[test]
    fn figures_never_go_back_and_totals_are_never_too_small() {
        let meter = Meter::default();
        let mut gauge = Gauge::new(1);
        let now = Instant::now();
        assert_eq!(gauge.read(&meter, now, 0).bytes_total, 0);
        meter.bytes_total.store(10, Relaxed);
        meter.add_bytes(50);
        let progress = gauge.read(&meter, now, 0);
        assert_eq!((progress.bytes_done, progress.bytes_total), (50, 50));
        meter.bytes_total.store(5, Relaxed);
        meter.bytes_done.store(1, Relaxed);
        let progress = gauge.read(&meter, now, 0);
        assert_eq!((progress.bytes_done, progress.bytes_total), (50, 50));
    }
}
