//! Transfers that stand still are given up, each after its minute.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::TcpListener;
use vault::{
    error::{StoreError, StoreErrorKind},
    store::Store,
};

use super::{
    proxy::{Fault, Proxy},
    support::{bucket_at, expect, random, server, store},
};

async fn behind_a_proxy() -> (Proxy, Arc<dyn Store>) {
    let proxy = Proxy::start(server()).await.expect("proxy");
    let store = store(&bucket_at(proxy.port()));
    store.put("before", random(8 << 20)).await.expect("put");
    (proxy, store)
}

/// What a call that stands still must end with, by itself.
fn given_up(begin: Instant, error: &StoreError) {
    expect(error, StoreErrorKind::Timeout, &["moved no byte for 60 s"]);
    let elapsed = begin.elapsed();
    assert!(
        elapsed > Duration::from_secs(55) && elapsed < Duration::from_secs(100),
        "{elapsed:?}"
    );
}

async fn a_write_is_given_up(fault: Fault) {
    let (proxy, store) = behind_a_proxy().await;
    proxy.fault_after(500_000, fault);
    let begin = Instant::now();
    let put = tokio::spawn({
        let store = store.clone();
        async move { store.put("stalled", random(8 << 20)).await }
    });
    while !proxy.has_struck() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Later connections fare no better: it is not met again.
    proxy.fault_all(fault);
    let error = put.await.expect("no panic").expect_err("it stands still");
    given_up(begin, &error);
    proxy.fault_all(Fault::None);
    store.put("stalled", random(1000)).await.expect("put");
    assert_eq!(store.get("stalled", 1000).await.expect("get").len(), 1000);
}

async fn a_read_is_given_up(fault: Fault) {
    let (proxy, store) = behind_a_proxy().await;
    proxy.fault_after(500_000, fault);
    let begin = Instant::now();
    let error = store
        .get("before", 1 << 30)
        .await
        .expect_err("it stands still");
    given_up(begin, &error);
    proxy.fault_all(Fault::None);
    let read = store.get("before", 1 << 30).await.expect("get");
    assert_eq!(read.len(), 8 << 20);
}

async fn a_server_never_answers() {
    // The system takes connections for it.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = silent.local_addr().expect("address").port();
    let begin = Instant::now();
    let error = store(&bucket_at(port)).check().await.expect_err("silent");
    given_up(begin, &error);
    drop(silent);
}

#[tokio::test]
async fn what_stands_still_is_given_up() {
    // All at once: each takes its minute.
    tokio::join!(
        a_write_is_given_up(Fault::Stall),
        a_write_is_given_up(Fault::HalfOpen),
        a_read_is_given_up(Fault::Stall),
        a_read_is_given_up(Fault::HalfOpen),
        a_server_never_answers(),
    );
}
