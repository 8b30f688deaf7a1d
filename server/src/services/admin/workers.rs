//! Who is there to do the work.

use std::{collections::BTreeMap, time::Duration};

use proto::backup::v1::{ListWorkersRequest, ListWorkersResponse, Worker};

use super::Admin;
use crate::{
    clock::{now_ms, timestamp},
    services::Call,
    status::ApiError,
    validation::Checks,
};

/// Several signs of life of a worker that lives.
pub(super) const SEEN_WITHIN_DEFAULT: Duration = Duration::from_mins(2);
const SEEN_WITHIN_MAX: Duration = Duration::from_hours(24);

impl Admin {
    pub(super) async fn workers(
        &self,
        call: Call<ListWorkersRequest>,
    ) -> Result<ListWorkersResponse, ApiError> {
        let mut checks = Checks::new();
        let within = match call.message.seen_within.map(Duration::try_from) {
            None => SEEN_WITHIN_DEFAULT,
            Some(Ok(within)) => within.min(SEEN_WITHIN_MAX),
            Some(Err(_)) => {
                checks.fault("seen_within", "is no duration that is 0 or longer");
                SEEN_WITHIN_DEFAULT
            }
        };
        checks.done()?;
        let since_ms = now_ms().saturating_sub(within.as_millis() as i64);
        let seen = self.state.catalog.workers_since(since_ms).await?;
        Ok(ListWorkersResponse {
            workers: by_worker(seen),
        })
    }
}

/// The catalog knows a worker once for each of its pools, ordered by pool.
fn by_worker(seen: Vec<catalog::Worker>) -> Vec<Worker> {
    let mut workers: Vec<Worker> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for one in seen {
        if let Some(&place) = places.get(&one.worker) {
            workers[place].pools.push(one.pool);
            continue;
        }
        places.insert(one.worker.clone(), workers.len());
        workers.push(Worker {
            worker_id: one.worker,
            pools: vec![one.pool],
            concurrency: one.concurrency,
            version: one.version,
            start_time: Some(timestamp(one.start_time_ms)),
            seen_time: Some(timestamp(one.seen_time_ms)),
        });
    }
    workers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_shown_once_with_all_its_pools() {
        let seen = [("w2", "a"), ("w1", "b"), ("w2", "b")].map(|(worker, pool)| catalog::Worker {
            worker: worker.to_owned(),
            pool: pool.to_owned(),
            concurrency: 2,
            version: "1.0.0".to_owned(),
            start_time_ms: 1_000,
            seen_time_ms: 2_000,
        });
        let workers = by_worker(seen.into());
        let shown: Vec<_> = workers
            .iter()
            .map(|worker| (worker.worker_id.as_str(), worker.pools.join(",")))
            .collect();
        assert_eq!(shown, [("w2", "a,b".to_owned()), ("w1", "b".to_owned())]);
        assert_eq!(workers[0].concurrency, 2);
        assert_eq!(workers[0].seen_time, Some(timestamp(2_000)));
    }
}
