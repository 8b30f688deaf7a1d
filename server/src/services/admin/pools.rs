//! What waits for whom.

use std::collections::BTreeMap;

use proto::backup::v1::{ListPoolsResponse, Pool};

use super::{Admin, workers::SEEN_WITHIN_DEFAULT};
use crate::{
    clock::now_ms,
    pools::{self, Depths},
    status::ApiError,
};

impl Admin {
    pub(super) async fn pools(&self) -> Result<ListPoolsResponse, ApiError> {
        let depths = pools::depths(&self.state).await?;
        let since_ms = now_ms().saturating_sub(SEEN_WITHIN_DEFAULT.as_millis() as i64);
        let seen = self.state.catalog.workers_since(since_ms).await?;
        Ok(ListPoolsResponse {
            pools: with_workers(depths, &seen),
        })
    }
}

fn with_workers(depths: Depths, seen: &[catalog::Worker]) -> Vec<Pool> {
    let mut served: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for worker in seen {
        let (workers, concurrency) = served.entry(&worker.pool).or_default();
        *workers += 1;
        *concurrency = concurrency.saturating_add(worker.concurrency);
    }
    depths
        .into_iter()
        .map(|(pool, depth)| {
            let (workers, concurrency) = served.get(&*pool).copied().unwrap_or_default();
            Pool {
                pool,
                workers,
                concurrency,
                manual_messages: depth.manual,
                scheduled_messages: depth.scheduled,
                dead_letters: depth.dead_letters,
            }
        })
        .collect()
}
