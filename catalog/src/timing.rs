//! When a schedule runs: a pure calculation, without a clock or a database.
//!
//! Regular times form a grid: the anchor and every frequency after it, counted on
//! the calendar of the schedule's time zone (hourly: in elapsed time). Each is
//! counted from the anchor, not from the one before, so a schedule of the 31st
//! that ran on the 28th of February runs on the 31st of March. A local time that
//! is left out when clocks go forward runs as much later, one that comes twice
//! runs the first time: no run is dropped or doubled.
//!
//! With a time of day, the grid stays. Without one, each success moves it to the
//! run that succeeded: the next run is a frequency after it.

use jiff::{
    SignedDuration, Span, Timestamp, ToSpan as _,
    civil::{DateTime, Time},
    tz::TimeZone,
};

use crate::Frequency;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// The least wait before a failed run is tried again.
pub const RETRY_MIN_MS: i64 = 5 * MINUTE_MS;
/// The longest such wait.
pub const RETRY_MAX_MS: i64 = 6 * HOUR_MS;
/// A run that nobody began this long after it was due counts as missed.
pub const MISSED_AFTER_MS: i64 = 10 * MINUTE_MS;
/// Missed runs are spread over this time at the most.
pub const SPREAD_MAX_MS: i64 = 30 * MINUTE_MS;

/// How often, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Rhythm {
    /// How often.
    pub frequency: Frequency,
    /// Minutes after midnight; hourly: only those after the hour count.
    pub time_of_day: Option<u16>,
    /// The zone of the calendar.
    pub zone: TimeZone,
}

impl Rhythm {
    /// When a schedule that never ran runs first: at the next preferred time, or
    /// at once. The answer is the anchor of its regular times.
    pub fn first(&self, now_ms: i64) -> i64 {
        let Some(minutes) = self.time_of_day else {
            return now_ms;
        };
        let now = self.local(now_ms);
        let (hour, minute) = (i64::from(minutes) / 60, i64::from(minutes) % 60);
        // From before now to after it, a day or hour at a time.
        if self.frequency == Frequency::Hourly {
            let into_hour = i64::from(now.minute()) * MINUTE_MS
                + i64::from(now.second()) * 1_000
                + i64::from(now.millisecond());
            let first = now_ms - into_hour + minute * MINUTE_MS;
            return if first > now_ms {
                first
            } else {
                first + HOUR_MS
            };
        }
        let time = Time::new(hour as i8, minute as i8, 0, 0).unwrap_or(Time::midnight());
        (-1..=2)
            .filter_map(|day: i64| now.date().checked_add(day.days()).ok())
            .map(|date| self.instant(date.to_datetime(time), now_ms))
            .find(|first| *first > now_ms)
            .unwrap_or(now_ms)
    }

    /// The first regular time after `after_ms`.
    pub fn next(&self, anchor_ms: i64, after_ms: i64) -> i64 {
        if self.frequency == Frequency::Hourly {
            let passed = (after_ms - anchor_ms).div_euclid(HOUR_MS) + 1;
            return anchor_ms + passed.max(0) * HOUR_MS;
        }
        if after_ms < anchor_ms {
            return anchor_ms;
        }
        let mut anchor = self.local(anchor_ms);
        if let Some(minutes) = self.time_of_day {
            let minutes = i64::from(minutes);
            let time = Time::new((minutes / 60) as i8, (minutes % 60) as i8, 0, 0);
            anchor = anchor.date().to_datetime(time.unwrap_or(Time::midnight()));
        }
        let after = self.local(after_ms);
        let days = (after.date() - anchor.date()).get_days();
        let passed = match self.frequency {
            Frequency::Hourly | Frequency::Daily => i64::from(days),
            Frequency::Weekly => i64::from(days) / 7,
            Frequency::Monthly => {
                (i64::from(after.year()) - i64::from(anchor.year())) * 12 + i64::from(after.month())
                    - i64::from(anchor.month())
            }
        };
        // A clock change or a shorter month moves it by one at the most.
        (passed - 1..=passed + 2)
            .filter(|count| *count >= 0)
            .filter_map(|count| anchor.checked_add(self.step(count)).ok())
            .map(|local| self.instant(local, after_ms))
            .find(|next| *next > after_ms)
            .unwrap_or(i64::MAX)
    }

    /// When a schedule runs that is made, changed or resumed, and its anchor.
    /// `succeeded_due_ms`: what its last successful run was due at.
    pub fn resume(&self, succeeded_due_ms: Option<i64>, now_ms: i64) -> (i64, i64) {
        match succeeded_due_ms {
            None => {
                let first = self.first(now_ms);
                (first, first)
            }
            Some(due_ms) if self.frequency == Frequency::Hourly && self.time_of_day.is_some() => {
                let anchor_ms = self.first(due_ms);
                (anchor_ms, self.next(anchor_ms, due_ms))
            }
            Some(due_ms) => (due_ms, self.next(due_ms, due_ms)),
        }
    }

    /// When it is tried again after the given number of failures in a row:
    /// later each time, at the latest with the next regular run.
    pub fn retry(&self, anchor_ms: i64, failures: u32, now_ms: i64) -> i64 {
        let doubled = failures.saturating_sub(1).min(16);
        let wait_ms = (RETRY_MIN_MS << doubled).min(RETRY_MAX_MS);
        Ord::min(now_ms + wait_ms, self.next(anchor_ms, now_ms))
    }

    /// How much later than now a missed run begins: different for each agent, the
    /// same for each replica.
    pub fn spread(&self, agent_id: &str) -> i64 {
        let window_ms = match self.frequency {
            Frequency::Hourly => SPREAD_MAX_MS / 2,
            _ => SPREAD_MAX_MS,
        };
        // FNV-1a: even, and the same in every version of this program.
        let hash = agent_id
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        ((hash >> 16) % window_ms as u64) as i64
    }

    fn step(&self, count: i64) -> Span {
        match self.frequency {
            Frequency::Hourly | Frequency::Daily => Span::new().days(count),
            Frequency::Weekly => Span::new().weeks(count),
            Frequency::Monthly => Span::new().months(count),
        }
    }

    fn local(&self, time_ms: i64) -> DateTime {
        let time = Timestamp::from_millisecond(time_ms).unwrap_or_default();
        time.to_zoned_datetime(self.zone.clone()).datetime()
    }

    /// A local time as an instant; see the top for gaps and folds.
    fn instant(&self, local: DateTime, otherwise_ms: i64) -> i64 {
        self.zone
            .to_ambiguous_zoned_datetime(local)
            .compatible()
            .map_or(otherwise_ms, |zoned| zoned.timestamp().as_millisecond())
    }
}

/// Reads the IANA name of a time zone.
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok()
}

/// How long a span of milliseconds is, for people.
pub fn words(span_ms: i64) -> String {
    format!("{:#}", SignedDuration::from_millis(span_ms))
}

#[cfg(test)]
mod tests;
