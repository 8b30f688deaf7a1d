//! A simulated year of schedules: several frequencies and zones, runs that fail and runs that
//! take long, times in which no server looks, and two servers that look at the same moment. Held
//! against a calculation of its own: regular times are found by looking at the wall clock all year
//! long, and what happens at each is followed by hand.

use std::collections::HashMap;

use catalog::{Catalog, Frequency, ScheduleSpec, SkipReason, timing};
use jiff::{Timestamp, civil::Date, tz::TimeZone};

use crate::fixture::{Fixture, result, unavailable};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Offsets of all zones here are whole quarters of an hour.
const QUARTER: i64 = 15 * MINUTE;
/// Times in which no server looks: from when (after the start), and for how long.
const PAUSES: &[(i64, i64)] = &[
    (20 * DAY + 7 * MINUTE, 3 * HOUR),
    (100 * DAY, 3 * DAY),
    (250 * DAY + 5 * HOUR, 8 * MINUTE),
];

struct Agent {
    id: String,
    frequency: Frequency,
    /// Regular times, one after another.
    grid: Vec<i64>,
    next_ms: i64,
    due_ms: i64,
    failures: u32,
    /// When the run that goes on ends, whether well, and its backup.
    running: Option<(i64, bool, String)>,
    begun: u32,
    succeeded: u64,
    failed: u32,
    skipped: u32,
    missed: u32,
}

impl Agent {
    fn regular_after(&self, after_ms: i64) -> i64 {
        let at = self.grid.partition_point(|time| *time <= after_ms);
        self.grid[at]
    }
}

/// Every so many milliseconds, the same in every run of the test.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn start_ms() -> i64 {
    let start: Timestamp = "2027-01-31T00:03:00Z".parse().unwrap();
    start.as_millisecond()
}

/// The wall clock: the date, and minutes after midnight.
fn wall(zone: &TimeZone, ms: i64) -> (Date, i64) {
    let local = Timestamp::from_millisecond(ms)
        .unwrap()
        .to_zoned_datetime(zone.clone());
    let minutes = i64::from(local.hour()) * 60 + i64::from(local.minute());
    (local.date(), minutes)
}

/// The regular times from `from_ms` to `until_ms`, found by looking at the clock.
fn grid(
    frequency: Frequency,
    wanted: i64,
    zone: &TimeZone,
    from_ms: i64,
    until_ms: i64,
) -> Vec<i64> {
    let mut found: Vec<i64> = Vec::new();
    let mut first: Option<Date> = None;
    let mut last: Option<Date> = None;
    let mut at = (from_ms / QUARTER) * QUARTER;
    let mut before = wall(zone, at - QUARTER);
    while at < until_ms {
        let (date, minutes) = wall(zone, at);
        let left_out = date == before.0 && before.1 < wanted && wanted < minutes;
        let hit = if frequency == Frequency::Hourly {
            (minutes % 60 == wanted % 60).then_some(at)
        } else if left_out {
            // Clocks went forward over it: it runs as much later.
            Some(at + (wanted - before.1) * MINUTE - QUARTER)
        } else {
            (minutes == wanted && last != Some(date)).then_some(at)
        };
        if let Some(hit) = hit.filter(|hit| *hit > from_ms) {
            last = Some(date);
            let began = *first.get_or_insert(date);
            let is_regular = match frequency {
                Frequency::Hourly => found.is_empty() || (hit - found[0]) % HOUR == 0,
                Frequency::Daily => true,
                Frequency::Weekly => (date - began).get_days() % 7 == 0,
                Frequency::Monthly => {
                    date.day() == began.day()
                        || (date == date.last_of_month() && date.day() < began.day())
                }
            };
            if is_regular {
                found.push(hit);
            }
        }
        before = (date, minutes);
        at += QUARTER;
    }
    found
}

async fn agents(fixture: &Fixture, until_ms: i64) -> Vec<Agent> {
    let zones = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
    ];
    let mut wishes = vec![(Frequency::Hourly, "Europe/Berlin", 15)];
    for zone in zones {
        wishes.push((Frequency::Daily, zone, 2 * 60 + 30));
        wishes.push((Frequency::Weekly, zone, 0));
        wishes.push((Frequency::Monthly, zone, 23 * 60 + 45));
    }
    let mut all = Vec::new();
    for (number, (frequency, zone, time)) in wishes.into_iter().enumerate() {
        let agent_id = format!("agent-{number:02}");
        fixture.agent(&agent_id).await;
        let spec = ScheduleSpec {
            enabled: true,
            frequency,
            retain: 7,
            time_of_day: Some(time as u16),
            time_zone: zone.to_owned(),
        };
        let set = fixture
            .catalog
            .set_schedule(&agent_id, spec, None, false, start_ms());
        let (set, _) = set.await.unwrap();
        let zone = TimeZone::get(zone).unwrap();
        let grid = grid(frequency, time, &zone, start_ms(), until_ms);
        assert_eq!(set.next_run_time_ms, Some(grid[0]), "{agent_id}");
        all.push(Agent {
            id: agent_id,
            frequency,
            next_ms: grid[0],
            grid,
            due_ms: 0,
            failures: 0,
            running: None,
            begun: 0,
            succeeded: 0,
            failed: 0,
            skipped: 0,
            missed: 0,
        });
    }
    all
}

/// When a server looks next, from a time on: every minute, save while none does.
fn next_look(at_ms: i64) -> i64 {
    let minute = start_ms() + (at_ms - start_ms() + MINUTE - 1).div_euclid(MINUTE) * MINUTE;
    let pause = PAUSES.iter().find(|(from, long)| {
        let from = start_ms() + from;
        (from..from + long).contains(&minute)
    });
    pause.map_or(minute, |(from, long)| next_look(start_ms() + from + long))
}

/// Both servers look at the same moment until neither finds anything.
async fn look(
    servers: &[Catalog; 2],
    now_ms: i64,
) -> (HashMap<String, Vec<String>>, Vec<String>, Vec<String>) {
    let mut begun: HashMap<String, Vec<String>> = HashMap::new();
    let (mut skipped, mut spread) = (Vec::new(), Vec::new());
    loop {
        let (one, other) = tokio::join!(
            servers[0].claim_due(3, now_ms),
            servers[1].claim_due(3, now_ms)
        );
        let rounds = [one.unwrap(), other.unwrap()];
        if rounds.iter().all(catalog::ScheduleRound::is_empty) {
            return (begun, skipped, spread);
        }
        for round in rounds {
            for (agent_id, backup_id) in round.begun {
                begun.entry(agent_id).or_default().push(backup_id);
            }
            skipped.extend(round.skipped);
            spread.extend(round.spread);
        }
    }
}

async fn end(fixture: &Fixture, agent: &mut Agent) {
    let (now_ms, is_well, backup_id) = agent.running.take().unwrap();
    let backup = fixture.get_backup(&backup_id).await;
    let fence = fixture.claim(&backup.job_id, now_ms).await.fence();
    let catalog = &fixture.catalog;
    if is_well {
        agent.succeeded += 1;
        agent.failures = 0;
        let result = result(agent.succeeded);
        catalog
            .complete_backup(&fence, result, now_ms)
            .await
            .unwrap();
        agent.next_ms = agent.regular_after(now_ms.max(agent.due_ms));
    } else {
        agent.failed += 1;
        agent.failures += 1;
        let failed = catalog.fail_job(&fence, unavailable(), false, now_ms);
        failed.await.unwrap();
        let wait = (5 * MINUTE * 2_i64.pow((agent.failures - 1).min(12))).min(6 * HOUR);
        agent.next_ms = (now_ms + wait).min(agent.regular_after(now_ms));
    }
}

/// What a look at schedules that are due has to make of each.
async fn follow(
    fixture: &Fixture,
    servers: &[Catalog; 2],
    all: &mut [Agent],
    now_ms: i64,
    dice: &mut Dice,
) {
    let (begun, skipped, spread) = look(servers, now_ms).await;
    for agent in all.iter_mut() {
        let id = &agent.id;
        let times = |list: &[String]| list.iter().filter(|it| *it == id).count();
        let made = begun.get(id).map_or(0, Vec::len);
        let what = (made, times(&skipped), times(&spread));
        if agent.next_ms > now_ms {
            assert_eq!(what, (0, 0, 0), "{id} is not due at {now_ms}");
            continue;
        }
        let schedule = fixture.catalog.get_schedule(id).await.unwrap().unwrap();
        if agent.running.is_some() {
            assert_eq!(what, (0, 1, 0), "{id} still runs at {now_ms}");
            assert_eq!(
                schedule.skip,
                Some((agent.next_ms, SkipReason::StillRunning))
            );
            agent.skipped += 1;
            agent.next_ms = agent.regular_after(now_ms);
        } else if now_ms - agent.next_ms > 10 * MINUTE {
            assert_eq!(what, (0, 0, 1), "{id} was missed at {now_ms}");
            assert_eq!(schedule.skip, Some((agent.next_ms, SkipReason::Missed)));
            agent.missed += 1;
            let window = match agent.frequency {
                Frequency::Hourly => 15 * MINUTE,
                _ => 30 * MINUTE,
            };
            agent.next_ms = schedule.next_run_time_ms.unwrap();
            assert!((now_ms..now_ms + window).contains(&agent.next_ms), "{id}");
        } else {
            assert_eq!(what, (1, 0, 0), "{id} is due at {now_ms}");
            agent.begun += 1;
            agent.due_ms = agent.next_ms;
            agent.next_ms = agent.regular_after(now_ms.max(agent.due_ms));
            // Some take longer than an hour, a few longer than a day; some fail.
            let long = match dice.below(50) {
                0 => 26 * HOUR,
                1..=3 => 90 * MINUTE,
                _ => MINUTE,
            };
            let ends_ms = now_ms + long + dice.below(9 * MINUTE as u64) as i64;
            let backup_id = begun[id][0].clone();
            agent.running = Some((ends_ms, dice.below(8) > 0, backup_id));
        }
        assert_eq!(
            schedule.next_run_time_ms,
            Some(agent.next_ms),
            "{id} at {now_ms}"
        );
    }
}

#[tokio::test]
async fn a_year_of_schedules_goes_as_calculated() {
    let fixture = Fixture::in_memory().await;
    let servers = [
        fixture.catalog.clone(),
        Catalog::connect(&fixture.settings).await.unwrap(),
    ];
    let until_ms = start_ms() + 366 * DAY;
    let mut all = agents(&fixture, until_ms + 40 * DAY).await;
    let mut dice = Dice(0x2027_0131);
    loop {
        let ends = all
            .iter()
            .filter_map(|it| it.running.as_ref())
            .map(|it| it.0)
            .min();
        let due = all.iter().map(|it| next_look(it.next_ms)).min().unwrap();
        let now_ms = ends.map_or(due, |ends| ends.min(due));
        if now_ms >= until_ms {
            break;
        }
        if ends == Some(now_ms) {
            for agent in &mut all {
                if agent.running.as_ref().is_some_and(|it| it.0 == now_ms) {
                    end(&fixture, agent).await;
                    let schedule = fixture.catalog.get_schedule(&agent.id).await;
                    let next = schedule.unwrap().unwrap().next_run_time_ms;
                    assert_eq!(next, Some(agent.next_ms), "{} at {now_ms}", agent.id);
                }
            }
        } else {
            follow(&fixture, &servers, &mut all, now_ms, &mut dice).await;
        }
    }
    let sum = |of: fn(&Agent) -> u32| all.iter().map(of).sum::<u32>();
    let (begun, failed) = (sum(|it| it.begun), sum(|it| it.failed));
    let (skipped, missed) = (sum(|it| it.skipped), sum(|it| it.missed));
    println!("{begun} runs, {failed} failed, {skipped} skipped, {missed} missed");
    // All of it did happen.
    assert!(begun > 8_000 && failed > 500 && skipped > 50 && missed > 5);
    assert_eq!(timing::MISSED_AFTER_MS, 10 * MINUTE);
}
