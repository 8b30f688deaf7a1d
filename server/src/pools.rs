//! What waits in the queues of each pool, and what nobody could use: for metrics, health, the log
//! and administrators.
//!
//! Looked at are the pools that a worker has served lately. Dead letters come from workers, so no
//! others have any.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use queue::PoolDepth;
use serde::Serialize;
use tracing::warn;

use crate::{clock::now_ms, state::State, status::ApiError};

/// How long a pool is looked at after its last worker was seen.
pub const SERVED_WITHIN: Duration = Duration::from_hours(24);
/// Pools asked for at the same time.
const AT_ONCE: usize = 8;

/// How much each pool holds.
pub type Depths = BTreeMap<String, PoolDepth>;

/// Asks the queue.
pub async fn depths(state: &State) -> Result<Depths, ApiError> {
    let since_ms = now_ms().saturating_sub(SERVED_WITHIN.as_millis() as i64);
    let pools = state.catalog.pools_since(since_ms).await?;
    stream::iter(pools)
        .map(|pool| async move {
            let depth = state.queue.depth(&pool).await?;
            Ok((pool, depth))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// A pool, as `/health` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Manual messages that wait.
    pub manual: u64,
    /// Scheduled messages that wait.
    pub scheduled: u64,
    /// Messages that nobody could use.
    pub dead_letters: u64,
}

impl From<PoolDepth> for Shown {
    fn from(depth: PoolDepth) -> Self {
        Self {
            manual: depth.manual,
            scheduled: depth.scheduled,
            dead_letters: depth.dead_letters,
        }
    }
}

/// Looks at the pools again and again, and tells what is new once.
pub struct Look {
    state: Arc<State>,
    latest: BTreeMap<String, Shown>,
}

impl Look {
    /// Has seen nothing yet.
    pub fn new(state: Arc<State>) -> Self {
        Self {
            state,
            latest: BTreeMap::new(),
        }
    }

    /// How it is now; an error leaves what was seen before.
    pub async fn again(&mut self) -> Result<(), ApiError> {
        let depths = depths(&self.state).await?;
        self.take(depths);
        Ok(())
    }

    fn take(&mut self, depths: Depths) {
        let now: BTreeMap<String, Shown> = depths
            .into_iter()
            .map(|(pool, depth)| (pool, Shown::from(depth)))
            .collect();
        for (pool, shown) in &now {
            let before = self.latest.get(pool).copied().unwrap_or_default();
            if shown.dead_letters > before.dead_letters {
                warn!(
                    pool,
                    dead_letters = shown.dead_letters,
                    new = shown.dead_letters - before.dead_letters,
                    "messages of the queue that nobody could use are kept aside"
                );
            }
        }
        // A pool that is no longer looked at holds nothing, as far as is known.
        let gone = self.latest.keys().filter(|pool| !now.contains_key(*pool));
        for (pool, shown) in now
            .iter()
            .map(|(pool, shown)| (pool, *shown))
            .chain(gone.map(|pool| (pool, Shown::default())))
        {
            let set = |urgency, messages: u64| {
                metrics::gauge!("nora_backup_queue_messages", "pool" => pool.clone(), "urgency" => urgency)
                    .set(messages as f64);
            };
            set("manual", shown.manual);
            set("scheduled", shown.scheduled);
            metrics::gauge!("nora_backup_queue_dead_letters", "pool" => pool.clone())
                .set(shown.dead_letters as f64);
        }
        self.latest = now;
    }

    /// What was seen last.
    pub fn latest(&self) -> &BTreeMap<String, Shown> {
        &self.latest
    }

    /// What somebody should look at, in words.
    pub fn notes(&self) -> Vec<String> {
        let dead = self
            .latest
            .iter()
            .filter(|(_, shown)| shown.dead_letters > 0);
        dead.map(|(pool, shown)| {
            format!(
                "pool {pool} has {} dead letter{}, messages that no worker could use: the workers' logs \
                 say what is wrong with each; look at them and purge the queue (docs/rabbitmq.md)",
                shown.dead_letters,
                if shown.dead_letters == 1 { "" } else { "s" }
            )
        })
        .collect()
    }
}
