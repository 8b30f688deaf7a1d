//! Named cases, and a simulated year against an independent calculation.

use super::*;

const DAY_MS: i64 = 24 * HOUR_MS;

fn rhythm(frequency: Frequency, time: Option<(u16, u16)>, name: &str) -> Rhythm {
    Rhythm {
        frequency,
        time_of_day: time.map(|(hour, minute)| hour * 60 + minute),
        zone: zone(name).unwrap(),
    }
}

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_millisecond()
}

fn show(time_ms: i64) -> String {
    Timestamp::from_millisecond(time_ms).unwrap().to_string()
}

fn times(rhythm: &Rhythm, from: &str, count: usize) -> Vec<String> {
    let anchor_ms = rhythm.first(at(from));
    let mut next_ms = anchor_ms;
    let mut times = vec![show(anchor_ms)];
    while times.len() < count {
        next_ms = rhythm.next(anchor_ms, next_ms);
        times.push(show(next_ms));
    }
    times
}

#[test]
fn the_first_run_is_at_the_next_preferred_time_or_at_once() {
    let now_ms = at("2026-11-24T10:15:30Z");
    assert_eq!(rhythm(Frequency::Weekly, None, "UTC").first(now_ms), now_ms);
    let daily = rhythm(Frequency::Daily, Some((3, 0)), "Europe/Berlin");
    assert_eq!(show(daily.first(now_ms)), "2026-11-25T02:00:00Z");
    assert_eq!(
        show(daily.first(at("2026-11-25T01:59:59Z"))),
        "2026-11-25T02:00:00Z"
    );
    let hourly = rhythm(Frequency::Hourly, Some((0, 20)), "Asia/Kolkata");
    assert_eq!(show(hourly.first(now_ms)), "2026-11-24T10:50:00Z");
}

#[test]
fn the_31st_becomes_the_last_day_and_comes_back() {
    let monthly = rhythm(Frequency::Monthly, Some((12, 0)), "UTC");
    assert_eq!(
        times(&monthly, "2027-01-31T00:00:00Z", 5),
        [
            "2027-01-31T12:00:00Z",
            "2027-02-28T12:00:00Z",
            "2027-03-31T12:00:00Z",
            "2027-04-30T12:00:00Z",
            "2027-05-31T12:00:00Z"
        ]
    );
}

#[test]
fn clocks_put_forward_or_back_neither_drop_nor_double_a_run() {
    let daily = rhythm(Frequency::Daily, Some((2, 30)), "Europe/Berlin");
    assert_eq!(
        times(&daily, "2027-03-26T12:00:00Z", 3),
        [
            "2027-03-27T01:30:00Z",
            "2027-03-28T01:30:00Z",
            "2027-03-29T00:30:00Z"
        ]
    );
    assert_eq!(
        times(&daily, "2026-10-23T12:00:00Z", 3),
        [
            "2026-10-24T00:30:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-26T01:30:00Z"
        ]
    );
}

#[test]
fn a_failed_run_is_tried_again_later_each_time_but_not_after_the_next_regular_one() {
    let daily = rhythm(Frequency::Daily, None, "UTC");
    let now_ms = HOUR_MS;
    let waits: Vec<i64> = (1..=8)
        .map(|failures| (daily.retry(0, failures, now_ms) - now_ms) / MINUTE_MS)
        .collect();
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 360]);
    let late_ms = DAY_MS - 2 * HOUR_MS;
    assert_eq!(daily.retry(0, 8, late_ms), DAY_MS);
}

#[test]
fn missed_runs_are_spread_by_agent() {
    let daily = rhythm(Frequency::Daily, None, "UTC");
    let spread: std::collections::BTreeSet<i64> = (0..1_000)
        .map(|agent| daily.spread(&format!("agent-{agent}")))
        .collect();
    assert!(spread.len() > 900 && spread.last().unwrap() < &SPREAD_MAX_MS);
}

/// The regular times of a year as someone would list them by hand: every minute
/// of the year is looked at on the wall clock. Only the first of a repeated
/// minute counts; a day whose minute never came has its run as much later.
fn listed(rhythm: &Rhythm, first_ms: i64, until_ms: i64) -> Vec<i64> {
    let wanted = rhythm.time_of_day.unwrap();
    let wall = |ms: i64| {
        let local = Timestamp::from_millisecond(ms)
            .unwrap()
            .to_zoned_datetime(rhythm.zone.clone());
        let minutes = local.hour() as u16 * 60 + local.minute() as u16;
        (local.date(), minutes)
    };
    let (first_date, _) = wall(first_ms);
    let mut found = vec![];
    let mut last_date = None;
    let mut before = wall(first_ms - MINUTE_MS);
    let mut ms = first_ms;
    while ms < until_ms {
        let (date, minutes) = wall(ms);
        let gap = (minutes > before.1 + 1 && date == before.0).then(|| minutes - before.1 - 1);
        let skipped = gap.is_some_and(|_| before.1 < wanted && wanted < minutes);
        // Gaps of an hour or half an hour: the run is that much after the wish.
        let hit_ms = match gap {
            Some(gap) if skipped => Some(ms + i64::from(wanted + gap - minutes) * MINUTE_MS),
            _ => (minutes == wanted).then_some(ms),
        };
        if let Some(hit_ms) = hit_ms.filter(|_| last_date != Some(date)) {
            let days = i64::from((date - first_date).get_days());
            let wished = match rhythm.frequency {
                Frequency::Daily => true,
                Frequency::Weekly => days % 7 == 0,
                Frequency::Monthly => {
                    date.day() == first_date.day()
                        || (date == date.last_of_month() && date.day() < first_date.day())
                }
                Frequency::Hourly => unreachable!(),
            };
            last_date = Some(date);
            if wished {
                found.push(hit_ms);
            }
        }
        before = (date, minutes);
        ms += MINUTE_MS;
    }
    found
}

#[test]
fn a_year_in_several_zones_is_what_the_calendar_says() {
    let start_ms = at("2027-01-31T00:00:00Z");
    let until_ms = start_ms + 366 * DAY_MS;
    for name in [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
    ] {
        for time in [(0, 0), (2, 30), (23, 59)] {
            for frequency in [Frequency::Daily, Frequency::Weekly, Frequency::Monthly] {
                let rhythm = rhythm(frequency, Some(time), name);
                let anchor_ms = rhythm.first(start_ms);
                let mut computed = vec![anchor_ms];
                loop {
                    let next_ms = rhythm.next(anchor_ms, *computed.last().unwrap());
                    if next_ms >= until_ms {
                        break;
                    }
                    computed.push(next_ms);
                }
                let expected = listed(&rhythm, anchor_ms, until_ms);
                let show = |times: &[i64]| times.iter().map(|t| show(*t)).collect::<Vec<_>>();
                assert_eq!(
                    show(&computed),
                    show(&expected),
                    "{name} {time:?} {frequency:?}"
                );
            }
        }
    }
}
