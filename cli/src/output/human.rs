//! Figures, times and names as people read them.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

/// "12.3 MiB": 1,024 to the step, never more than four digits.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// "12,345".
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "1 entry", "2,000 entries".
pub fn plural(number: u64, one: &str, many: &str) -> String {
    if number == 1 {
        format!("1 {one}")
    } else {
        format!("{} {many}", count(number))
    }
}

/// "340 ms", "2.3 s", "4 min 5 s", "2 h 3 min", "5 d 1 h".
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..10 => format!("{:.1} s", span.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// A span as the API has it; negative ones count as none.
pub fn proto_duration(span: &prost_types::Duration) -> Duration {
    Duration::try_from(*span).unwrap_or_default()
}

/// "2026-11-23 14:05:09", in the zone of this machine; "-" when absent.
pub fn time(time: Option<&prost_types::Timestamp>) -> String {
    zoned(time, "%Y-%m-%d %H:%M:%S")
}

/// The same with the zone, for single resources.
pub fn time_with_zone(time: Option<&prost_types::Timestamp>) -> String {
    zoned(time, "%Y-%m-%d %H:%M:%S %Z")
}

fn zoned(time: Option<&prost_types::Timestamp>, format: &str) -> String {
    time.and_then(|t| Timestamp::new(t.seconds, t.nanos).ok())
        .map_or_else(
            || "-".into(),
            |t| {
                t.to_zoned_datetime(TimeZone::system())
                    .strftime(format)
                    .to_string()
            },
        )
}

/// The time between two moments, when both are known.
pub fn between(
    from: Option<&prost_types::Timestamp>,
    to: Option<&prost_types::Timestamp>,
) -> Option<Duration> {
    let (from, to) = (from?, to?);
    let nanos = i128::from(to.seconds - from.seconds) * 1_000_000_000 + i128::from(to.nanos)
        - i128::from(from.nanos);
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// Text from elsewhere, safe for a terminal: control characters are shown as
/// escapes, so that a file name can't move the cursor.
pub fn printable(text: &str) -> String {
    if !text.chars().any(is_unsafe) {
        return text.to_string();
    }
    text.chars()
        .map(|c| {
            if is_unsafe(c) {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

/// Control characters, and those that turn the direction of what follows.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Empty text as "-".
pub fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".into()
    } else {
        printable(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (12_900_000, "12.3 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn counts() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(plural(1, "entry", "entries"), "1 entry");
        assert_eq!(plural(1000, "entry", "entries"), "1,000 entries");
    }

    #[test]
    fn spans() {
        assert_eq!(duration(Duration::from_millis(340)), "340 ms");
        assert_eq!(duration(Duration::from_millis(2340)), "2.3 s");
        assert_eq!(duration(Duration::from_secs(245)), "4 min 5 s");
        assert_eq!(duration(Duration::from_mins(123)), "2 h 3 min");
        assert_eq!(duration(Duration::from_hours(25)), "1 d 1 h");
        let at = |seconds, nanos| prost_types::Timestamp { seconds, nanos };
        let span = between(Some(&at(1, 900_000_000)), Some(&at(3, 100_000_000)));
        assert_eq!(span, Some(Duration::from_millis(1200)));
        assert_eq!(between(Some(&at(3, 0)), Some(&at(1, 0))), None);
        assert_eq!(between(None, Some(&at(1, 0))), None);
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(printable("plain ü"), "plain ü");
        assert_eq!(
            printable("a\u{1b}[31mb\n\u{202e}"),
            "a\\u{1b}[31mb\\n\\u{202e}"
        );
    }
}
