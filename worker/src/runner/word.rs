//! Tells the servers of work that this worker made: the copy or the pruning after a backup, or a
//! job that waited for the agent. They would find it by themselves, a little later.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::Shared;

/// How long the bus may take; what comes meanwhile is told with the next word.
const TELL_MAX: Duration = Duration::from_secs(5);

/// Goes on until the worker shall stop.
pub(crate) async fn tell_of_work(worker: Arc<Shared>) {
    let mut work = worker.catalog.work();
    while worker
        .shutdown
        .run_until_cancelled(work.added())
        .await
        .is_some()
    {
        match timeout(TELL_MAX, worker.bus.publish(queue::work())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "tell of work"),
            Err(_) => tracing::debug!("tell of work: the bus does not answer"),
        }
    }
}
