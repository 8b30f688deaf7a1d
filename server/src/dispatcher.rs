//! The dispatcher: brings word of jobs from the catalog to the queue.
//!
//! A job that no queue knows of is *undispatched* in the catalog. Each round takes a bounded page
//! of them into its hands, publishes them, and marks each one once the queue has it. Word that went
//! missing (queued for long without being claimed) is sent again. A doubled message is harmless,
//! so any number of replicas may run this.
//!
//! A round begins when this process made a job, when another one says on the event bus that it
//! did ([`queue::WORK`]), and several times a second besides.

use std::{collections::HashMap, sync::Arc, time::Duration};

use catalog::DispatchItem;
use futures::{StreamExt as _, stream};
use queue::{Route, Urgency};
use tokio::{sync::Notify, time::Instant};
use tracing::{debug, warn};

use crate::{backoff::Backoff, clock::now_ms, state::State, status::ApiError};

/// Jobs in one round at the most.
const PAGE: u64 = 200;
/// How long a page is in this replica's hands: longer than it takes to send.
const HOLD: Duration = Duration::from_secs(10);
/// Jobs of a page that are sent at the same time.
const AT_ONCE: usize = 16;
/// How often to look for word that went missing.
const STALE_POLL: Duration = Duration::from_secs(5);
/// Word of a job whose pool has messages waiting is most likely among them: it is sent again only
/// after this many times the usual time.
const STALE_PATIENCE: u32 = 10;

/// Runs until the server is told to stop.
pub async fn run(state: Arc<State>) {
    let told = Notify::new();
    tokio::select! {
        () = rounds(&state, &told) => {}
        () = hear_others(&state, &told) => {}
    }
}

/// Wakes `told` whenever another process says that it has work. Never returns.
async fn hear_others(state: &State, told: &Notify) {
    loop {
        match state.bus.subscribe(queue::WORK).await {
            Ok(mut news) => {
                while news.next().await.is_some() {
                    told.notify_one();
                }
            }
            Err(error) => debug!(%error, "hear of other processes' work"),
        }
        tokio::time::sleep(state.dispatch_poll).await;
    }
}

async fn rounds(state: &State, told: &Notify) {
    let mut work = state.catalog.work();
    let mut backoff = Backoff::new();
    let mut next_stale = Instant::now() + STALE_POLL;
    loop {
        let round = async {
            let mut sent = dispatch(state, false).await?;
            if Instant::now() >= next_stale {
                next_stale = Instant::now() + STALE_POLL;
                sent = sent.max(dispatch(state, true).await?);
            }
            Ok::<u64, ApiError>(sent)
        };
        let done = round.await;
        let failed = done.is_err();
        let wait = match done {
            Ok(PAGE..) => Duration::ZERO,
            Ok(_) => {
                backoff.reset();
                state.dispatch_poll
            }
            Err(error) => {
                warn!(%error, "dispatch jobs");
                backoff.failed()
            }
        };
        tokio::select! {
            biased;
            () = state.stop.asked.cancelled() => return,
            () = work.added(), if !failed => {}
            () = told.notified(), if !failed => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// One round; tells how many jobs it found.
async fn dispatch(state: &State, stale: bool) -> Result<u64, ApiError> {
    let items = if stale {
        stale_items(state).await?
    } else {
        let hold_ms = HOLD.as_millis() as i64;
        let catalog = &state.catalog;
        catalog.claim_undispatched(PAGE, hold_ms, now_ms()).await?
    };
    let found = items.len() as u64;
    let mut results = stream::iter(items)
        .map(|item| async move {
            let result = send(state, &item, stale).await;
            (item, result)
        })
        .buffer_unordered(AT_ONCE);
    let mut unsent = Vec::new();
    let mut failure = None;
    while let Some((item, result)) = results.next().await {
        if let Err(error) = result {
            unsent.push(item);
            failure = Some(error);
        }
    }
    drop(results);
    let Some(failure) = failure else {
        return Ok(found);
    };
    if !stale {
        // Not to be waited for by whoever tries next.
        state.catalog.release_undispatched(&unsent).await?;
    }
    Err(failure)
}

/// Tells the queue of one job.
async fn send(state: &State, item: &DispatchItem, stale: bool) -> Result<(), ApiError> {
    let route = Route {
        pool: item.pool.clone(),
        urgency: match item.urgency {
            catalog::Urgency::Manual => Urgency::Manual,
            catalog::Urgency::Scheduled => Urgency::Scheduled,
        },
    };
    fail::fail_point!("dispatcher-before-publish");
    state.queue.publish(&route, &item.job_id).await?;
    fail::fail_point!("dispatcher-before-mark");
    let news = state.catalog.mark_dispatched(item, now_ms()).await?;
    let (job_id, pool) = (&item.job_id, &item.pool);
    debug!(job_id, pool, news, stale, "job dispatched");
    metrics::counter!("nora_backup_jobs_dispatched_total").increment(1);
    Ok(())
}

/// Jobs whose word seems to have gone missing.
async fn stale_items(state: &State) -> Result<Vec<DispatchItem>, ApiError> {
    let older_than = |age: Duration| now_ms() - age.as_millis() as i64;
    let stale = older_than(state.redispatch);
    let found = state.catalog.stale_dispatched(stale, PAGE).await?;
    if found.is_empty() {
        return Ok(found);
    }
    let long = older_than(state.redispatch * STALE_PATIENCE);
    let long_gone = state.catalog.stale_dispatched(long, PAGE).await?;
    let mut empty_pools: HashMap<String, bool> = HashMap::new();
    let mut missing = Vec::new();
    for item in found {
        let known = empty_pools.get(&item.pool).copied();
        let empty = if let Some(empty) = known {
            empty
        } else {
            let depth = state.queue.depth(&item.pool).await?;
            let empty = depth.manual == 0 && depth.scheduled == 0;
            empty_pools.insert(item.pool.clone(), empty);
            empty
        };
        if empty || long_gone.iter().any(|other| other.job_id == item.job_id) {
            missing.push(item);
        }
    }
    Ok(missing)
}
