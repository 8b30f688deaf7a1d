//! When a failed attempt is tried again.

use crate::CatalogSettings;

/// The waits between attempts, and how many there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryPolicy {
    pub(crate) base_ms: u64,
    pub(crate) max_ms: u64,
    pub(crate) max_attempts: u32,
}

impl RetryPolicy {
    pub(crate) fn new(settings: &CatalogSettings) -> Self {
        Self {
            base_ms: settings.retry_base_ms,
            max_ms: settings.retry_max_ms,
            max_attempts: settings.max_attempts,
        }
    }

    /// The wait after the `tries`th try: doubled each time up to the maximum,
    /// less up to a quarter that the job's id decides, so that jobs which failed
    /// together do not all come back together.
    pub(crate) fn delay_ms(&self, job_id: &str, tries: u32) -> i64 {
        let doubled = 1_u64
            .checked_shl(tries.saturating_sub(1))
            .and_then(|factor| self.base_ms.checked_mul(factor))
            .unwrap_or(u64::MAX);
        let longest = doubled.min(self.max_ms);
        let share = u64::from(spread(job_id, tries) % 1_000);
        (longest - longest / 4_000 * share) as i64
    }
}

/// FNV-1a: the same for the same job and try, on every machine.
fn spread(job_id: &str, tries: u32) -> u32 {
    job_id
        .bytes()
        .chain(tries.to_le_bytes())
        .fold(0x811c_9dc5, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        base_ms: 2_000,
        max_ms: 60_000,
        max_attempts: 3,
    };

    #[test]
    fn waits_double_up_to_the_maximum() {
        for (tries, longest) in [
            (1, 2_000),
            (2, 4_000),
            (3, 8_000),
            (6, 60_000),
            (99, 60_000),
        ] {
            let delay = POLICY.delay_ms("0190b2d4-0000-7000-8000-000000000000", tries);
            assert!(
                delay <= longest && delay >= longest * 3 / 4,
                "after try {tries}: {delay}"
            );
        }
    }

    #[test]
    fn waits_differ_between_jobs_and_repeat_for_one() {
        let delays: std::collections::HashSet<i64> = (0..50)
            .map(|number| POLICY.delay_ms(&format!("job-{number}"), 6))
            .collect();
        assert!(delays.len() > 10);
        assert_eq!(POLICY.delay_ms("job", 2), POLICY.delay_ms("job", 2));
    }
}
