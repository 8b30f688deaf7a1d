//! Networks that do what networks do, between the store and a real server.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use proto::backup::v1::SshDestination;
use vault::{error::StoreErrorKind, store::Store};

use super::{
    proxy::{Fault, Proxy},
    support::{account, assert_no_secret, port, random, store},
};

async fn behind_a_proxy() -> (Proxy, Arc<dyn Store>) {
    let upstream = SocketAddr::from(([127, 0, 0, 1], port()));
    let proxy = Proxy::start(upstream).await.expect("proxy");
    let destination = SshDestination {
        port: proxy.port().into(),
        ..account("nora-key")
    };
    (proxy, store(&destination))
}

#[tokio::test]
async fn a_connection_cut_or_damaged_anywhere_is_made_anew() {
    const LENGTH: usize = 3 << 20;
    for fault in [Fault::Cut, Fault::Garbage] {
        let (proxy, store) = behind_a_proxy().await;
        store.check().await.expect("check");
        let before = proxy.carried();
        let bytes = random(LENGTH);
        store.put("first", bytes.clone()).await.expect("put");
        let whole = proxy.carried() - before;
        for part in 0..12 {
            // Damage goes away with the connection that has it.
            proxy.fault_after(whole * part / 11, fault);
            let name = format!("put-{part}");
            store.put(&name, bytes.clone()).await.expect("put");
            proxy.fault_after(LENGTH as u64 * part / 12, fault);
            assert_eq!(store.get(&name, 1 << 30).await.expect("get"), bytes);
            proxy.fault_after(0, fault);
            assert_eq!(store.stat(&name).await.expect("stat"), Some(LENGTH as u64));
            proxy.fault_after(0, fault);
            assert!(!store.list("").await.expect("list").is_empty());
            proxy.fault_after(0, fault);
            store.delete(&name).await.expect("delete");
            assert_eq!(store.stat(&name).await.expect("stat"), None);
            assert!(proxy.has_struck());
        }
        assert_eq!(store.get("first", 1 << 30).await.expect("get"), bytes);
        assert!(proxy.connections() > 12, "{}", proxy.connections());
        store.sweep(0).await.expect("sweep");
    }
}

#[tokio::test]
async fn several_calls_at_once_survive_a_cut() {
    let (proxy, store) = behind_a_proxy().await;
    for round in 0..4 {
        proxy.fault_after(3_000_000 * round, Fault::Cut);
        let calls = (0..6).map(|n| {
            let store = store.clone();
            async move {
                let bytes = random(1_500_000);
                let name = format!("{round}/{n}");
                store.put(&name, bytes.clone()).await.expect("put");
                assert_eq!(store.get(&name, 1 << 30).await.expect("get"), bytes);
            }
        });
        futures::future::join_all(calls).await;
    }
}

#[tokio::test]
async fn delays_do_not_add_up_request_by_request() {
    let (proxy, store) = behind_a_proxy().await;
    store.check().await.expect("check");
    proxy.fault_all(Fault::Delay(Duration::from_millis(20)));
    let bytes = random(8 << 20);
    let begin = Instant::now();
    store.put("far", bytes.clone()).await.expect("put");
    assert_eq!(store.get("far", 1 << 30).await.expect("get"), bytes);
    // 32 requests of a block each, one after another, three times: 6 s and more
    // with what else is asked. Pieces of the proxy are 64 KiB at most.
    assert!(
        begin.elapsed() < Duration::from_secs(40),
        "{:?}",
        begin.elapsed()
    );
}

/// A call that must end with "no progress", by itself.
async fn times_out(store: Arc<dyn Store>, proxy: &Proxy, fault: Fault) {
    store.put("before", random(1000)).await.expect("put");
    proxy.fault_after(500_000, fault);
    // Later connections fare no better: it is not met again.
    let begin = Instant::now();
    let put = tokio::spawn({
        let store = store.clone();
        async move { store.put("stalled", random(8 << 20)).await }
    });
    while !proxy.has_struck() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.fault_all(fault);
    let error = put.await.expect("no panic").expect_err("it stands still");
    println!("{fault:?} after {:?}: {error}", begin.elapsed());
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    assert_no_secret(&error.to_string());
    let elapsed = begin.elapsed();
    assert!(
        elapsed > Duration::from_secs(10) && elapsed < Duration::from_secs(100),
        "{elapsed:?}"
    );
    proxy.fault_all(Fault::None);
    assert_eq!(store.get("before", 1000).await.expect("get").len(), 1000);
    store.put("stalled", random(1000)).await.expect("put");
}

#[tokio::test]
async fn a_connection_that_stands_still_is_given_up() {
    let (proxy, store) = behind_a_proxy().await;
    times_out(store, &proxy, Fault::Stall).await;
}

#[tokio::test]
async fn a_connection_whose_other_end_is_gone_is_given_up() {
    let (proxy, store) = behind_a_proxy().await;
    times_out(store, &proxy, Fault::HalfOpen).await;
}
