//! AdminService: only for administrators, only on their listener.

use std::time::Duration;

use proto::backup::v1::{ListPoolsRequest, ListWorkersRequest};
use queue::{JobQueue as _, Route, Urgency};
use tonic::Code;

use crate::harness::{Rig, now_ms, reason};

fn seen(worker: &str, pool: &str, seen_time_ms: i64) -> catalog::Worker {
    catalog::Worker {
        worker: worker.to_owned(),
        pool: pool.to_owned(),
        concurrency: 4,
        version: "1.2.3".to_owned(),
        start_time_ms: seen_time_ms - 1_000,
        seen_time_ms,
    }
}

#[tokio::test]
async fn workers_are_listed_as_last_seen() {
    let rig = Rig::start().await;
    let now = now_ms();
    let workers = [
        seen("w1", "default", now),
        seen("w1", "gpu", now),
        seen("old", "default", now - 600_000),
    ];
    rig.catalog.see_worker(&workers).await.unwrap();
    let mut admin = rig.admin("root", "admin");
    let answer = admin.list_workers(ListWorkersRequest::default()).await;
    let listed = answer.unwrap().into_inner().workers;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].worker_id, "w1");
    assert_eq!(listed[0].pools, ["default", "gpu"]);
    assert_eq!(listed[0].concurrency, 4);

    let hour = prost_types::Duration::try_from(Duration::from_hours(1)).unwrap();
    let request = ListWorkersRequest {
        seen_within: Some(hour),
    };
    let answer = admin.list_workers(request).await.unwrap().into_inner();
    let ids: Vec<_> = answer
        .workers
        .iter()
        .map(|w| w.worker_id.as_str())
        .collect();
    assert_eq!(ids, ["old", "w1"]);

    let request = ListWorkersRequest {
        seen_within: Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        }),
    };
    let refused = admin.list_workers(request).await.unwrap_err();
    assert_eq!(crate::harness::fields(&refused), ["seen_within"]);
}

#[tokio::test]
async fn pools_are_listed_with_what_waits_and_what_nobody_could_use() {
    let rig = Rig::start().await;
    let now = now_ms();
    let workers = [
        seen("w1", "default", now),
        seen("w2", "default", now),
        seen("w2", "gpu", now),
        seen("gone", "idle", now - 600_000),
    ];
    rig.catalog.see_worker(&workers).await.unwrap();
    for urgency in [Urgency::Manual, Urgency::Manual, Urgency::Scheduled] {
        let pool = "default".to_owned();
        let route = Route { pool, urgency };
        rig.queue.publish(&route, "no-such-job").await.unwrap();
    }
    let mut consumer = rig.queue.consume("default", 1).await.unwrap();
    let taken = consumer.next().await.unwrap();
    taken.dead_letter().await.unwrap();
    let mut admin = rig.admin("root", "admin");
    let answer = admin.list_pools(ListPoolsRequest {}).await.unwrap();
    let pools = answer.into_inner().pools;
    let shown: Vec<_> = pools
        .iter()
        .map(|pool| (pool.pool.as_str(), pool.workers, pool.concurrency))
        .collect();
    assert_eq!(shown, [("default", 2, 8), ("gpu", 1, 4), ("idle", 0, 0)]);
    let default = &pools[0];
    assert_eq!(
        (
            default.manual_messages,
            default.scheduled_messages,
            default.dead_letters
        ),
        (1, 1, 1)
    );

    rig.queue.close();
    let away = admin.list_pools(ListPoolsRequest {}).await.unwrap_err();
    assert_eq!(reason(&away), "QUEUE_UNAVAILABLE");
    assert_eq!(away.code(), Code::Unavailable);
}

#[tokio::test]
async fn only_administrators_on_their_own_listener() {
    let rig = Rig::start().await;
    for role in ["user", "service"] {
        let refused = rig
            .admin("someone", role)
            .list_workers(ListWorkersRequest::default())
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert_eq!(reason(&refused), "ROLE_NOT_ALLOWED");
        let mut caller = rig.admin("someone", role);
        let refused = caller.list_pools(ListPoolsRequest {}).await.unwrap_err();
        assert_eq!(reason(&refused), "ROLE_NOT_ALLOWED");
    }
    let unknown = rig
        .public_admin("root", "admin")
        .list_workers(ListWorkersRequest::default())
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
}
