//! Tells watchers how far a running job is.

use std::time::Duration;

use proto::backup::v1::Progress;
use tokio::time::{MissedTickBehavior, interval};

use super::context::JobContext;

/// At most four times a second.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// Goes on until it is dropped.
pub(super) async fn report(context: &JobContext) {
    let mut ticks = interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Progress> = None;
    loop {
        ticks.tick().await;
        let progress = context.progress();
        if !told
            .as_ref()
            .is_some_and(|told| says_the_same(told, &progress))
        {
            context.announce(Some(progress.clone()), false).await;
            told = Some(progress);
        }
    }
}

/// Whether nothing but the time of measuring differs.
fn says_the_same(one: &Progress, other: &Progress) -> bool {
    Progress {
        update_time: other.update_time,
        ..one.clone()
    } == *other
}
