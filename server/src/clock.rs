//! Times: milliseconds since 1970, and how the API and people see them.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// Now, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

/// As the API has it.
pub fn timestamp(ms: i64) -> Timestamp {
    Timestamp {
        seconds: ms.div_euclid(1_000),
        nanos: ms.rem_euclid(1_000) as i32 * 1_000_000,
    }
}

/// In a backup's name: "2026-11-23 14:05:09Z".
pub fn label(ms: i64) -> String {
    format_utc(ms, "%Y-%m-%d %H:%M:%SZ")
}

/// In a file's name: "2026-11-23T140509Z".
pub fn file_label(ms: i64) -> String {
    format_utc(ms, "%Y-%m-%dT%H%M%SZ")
}

fn format_utc(ms: i64, format: &str) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .unwrap_or_default()
        .strftime(format)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_expect() {
        let ms = 1_795_442_709_250;
        assert_eq!(label(ms), "2026-11-23 14:05:09Z");
        assert_eq!(file_label(ms), "2026-11-23T140509Z");
        assert_eq!(timestamp(-1).seconds, -1);
        assert_eq!(timestamp(-1).nanos, 999_000_000);
    }
}
