//! Networks that do what networks do, between the store and a real server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use vault::{error::StoreErrorKind, store::Store};

use super::{
    front::{Canned, Front, Loss},
    proxy::{Fault, Proxy},
    support::{bucket, bucket_at, expect, random, server, store},
};

const LENGTH: usize = 3 << 20;

/// A store whose connections go through a proxy, and one that goes straight.
async fn behind_a_proxy() -> (Proxy, Arc<dyn Store>, Arc<dyn Store>) {
    let proxy = Proxy::start(server()).await.expect("proxy");
    let through = bucket_at(proxy.port());
    let mut straight = through.clone();
    straight.endpoint = bucket().endpoint;
    (proxy, store(&through), store(&straight))
}

#[tokio::test]
async fn a_connection_cut_anywhere_is_made_anew() {
    let (proxy, store, _) = behind_a_proxy().await;
    store.check().await.expect("check");
    let before = proxy.carried();
    let bytes = random(LENGTH);
    store.put("first", bytes.clone()).await.expect("put");
    let whole = proxy.carried() - before;
    for part in 0..12 {
        proxy.fault_after(whole * part / 11, Fault::Cut);
        let name = format!("put-{part}");
        store.put(&name, bytes.clone()).await.expect("put");
        proxy.fault_after(LENGTH as u64 * part / 12, Fault::Cut);
        assert_eq!(store.get(&name, 1 << 30).await.expect("get"), bytes);
        proxy.fault_after(LENGTH as u64 * part / 24, Fault::Cut);
        let part = store.get_range(&name, 10, LENGTH as u64 / 2).await;
        assert_eq!(part.expect("a part"), bytes[10..LENGTH / 2 + 10]);
        proxy.fault_after(0, Fault::Cut);
        assert_eq!(store.stat(&name).await.expect("stat"), Some(LENGTH as u64));
        proxy.fault_after(0, Fault::Cut);
        assert!(!store.list("").await.expect("list").is_empty());
        proxy.fault_after(0, Fault::Cut);
        store.delete(&name).await.expect("delete");
        assert_eq!(store.stat(&name).await.expect("stat"), None);
        assert!(proxy.has_struck());
    }
    assert_eq!(store.get("first", 1 << 30).await.expect("get"), bytes);
    assert!(proxy.connections() > 12, "{}", proxy.connections());
}

#[tokio::test]
async fn what_a_damaged_line_says_was_written_was_written() {
    // Without TLS nobody sees that an answer is damaged: a call may fail then. It must
    // not take for written what is not, and must not be in the way of the next one.
    let (proxy, store, straight) = behind_a_proxy().await;
    let bytes = random(LENGTH);
    for part in 0..12 {
        let name = format!("put-{part}");
        let at = (LENGTH as u64 + 4000) * part / 11;
        proxy.fault_after(at, Fault::Garbage);
        match store.put(&name, bytes.clone()).await {
            Ok(()) => {
                let stored = straight.get(&name, 1 << 30).await.expect("get");
                assert_eq!(stored, bytes, "{part}");
            }
            Err(error) => assert!(error.kind.is_retryable(), "{error}"),
        }
        // A connection that damages stays in use while it is not broken, and one that
        // would have damaged more later goes on.
        proxy.fault_after(u64::MAX / 2, Fault::None);
        proxy.fault_all(Fault::None);
        store.put(&name, bytes.clone()).await.expect("put again");
        assert_eq!(store.get(&name, 1 << 30).await.expect("get"), bytes);
    }
}

#[tokio::test]
async fn several_calls_at_once_survive_a_cut() {
    let (proxy, store, _) = behind_a_proxy().await;
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
    let (proxy, store, _) = behind_a_proxy().await;
    store.check().await.expect("check");
    proxy.fault_all(Fault::Delay(Duration::from_millis(20)));
    let bytes = random(8 << 20);
    let begin = Instant::now();
    store.put("far", bytes.clone()).await.expect("put");
    assert_eq!(store.get("far", 1 << 30).await.expect("get"), bytes);
    // Pieces of the proxy are 64 KiB at most, and come one after the other.
    assert!(
        begin.elapsed() < Duration::from_secs(40),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn a_write_whose_answers_are_lost_counts_when_it_is_there() {
    let front = Front::start(server(), "PUT ", Loss::Answer, usize::MAX).await;
    let store = store(&bucket_at(front.port));
    let bytes = random(300_000);
    store.put("x", bytes.clone()).await.expect("it is there");
    assert_eq!(front.lost(), 5, "tried five times");
    assert_eq!(store.get("x", 1 << 30).await.expect("get"), bytes);
    // What was there before under that name is not what was to be written.
    let front = Front::start(server(), "PUT ", Loss::Request, usize::MAX).await;
    let mut same = bucket_at(front.port);
    same.prefix = bucket().prefix;
    let other = super::support::store(&same);
    let error = other.put("y", bytes.clone()).await.expect_err("lost");
    expect(&error, StoreErrorKind::Unavailable, &["the connection"]);
    assert_eq!(other.stat("y").await.expect("stat"), None);
}

#[tokio::test]
async fn a_write_over_another_object_counts_only_with_its_own_bytes() {
    let mut s3 = bucket();
    let straight = store(&s3);
    let (old, new) = (random(300_000), random(300_000));
    straight.put("x", old.clone()).await.expect("put");
    let front = Front::start(server(), "PUT ", Loss::Request, usize::MAX).await;
    s3.endpoint = format!("http://127.0.0.1:{}", front.port);
    let error = store(&s3).put("x", new.clone()).await.expect_err("lost");
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
    assert_eq!(straight.get("x", 1 << 30).await.expect("get"), old);
    let front = Front::start(server(), "PUT ", Loss::Answer, 2).await;
    s3.endpoint = format!("http://127.0.0.1:{}", front.port);
    store(&s3).put("x", new.clone()).await.expect("put");
    assert_eq!(straight.get("x", 1 << 30).await.expect("get"), new);
}

#[tokio::test]
async fn single_losses_of_any_request_are_made_good() {
    for loss in [Loss::Request, Loss::Answer] {
        for method in ["PUT ", "GET ", "HEAD ", "DELETE "] {
            let front = Front::start(server(), method, loss, 2).await;
            let store = store(&bucket_at(front.port));
            store.put("v/x", random(1000)).await.expect("put");
            assert_eq!(store.get("v/x", 1000).await.expect("get").len(), 1000);
            assert_eq!(store.get_range("v/x", 5, 5).await.expect("part").len(), 5);
            assert_eq!(store.stat("v/x").await.expect("stat"), Some(1000));
            assert_eq!(store.list("v/").await.expect("list").len(), 1);
            assert_eq!(store.list_folders("").await.expect("list"), ["v"]);
            store.delete("v/x").await.expect("delete");
            assert_eq!(store.stat("v/x").await.expect("stat"), None);
            assert_eq!(front.lost(), 2, "{loss:?} {method}");
        }
    }
}

#[tokio::test]
async fn what_a_server_calls_passing_is_tried_again() {
    for (status, code, kind) in [
        ("503 Slow Down", "SlowDown", StoreErrorKind::Unavailable),
        (
            "500 Internal Server Error",
            "InternalError",
            StoreErrorKind::Unavailable,
        ),
        (
            "400 Bad Request",
            "RequestTimeout",
            StoreErrorKind::Unavailable,
        ),
        // What R2, MinIO and SeaweedFS say when a request broke off.
        (
            "499 Client Closed Request",
            "ClientDisconnected",
            StoreErrorKind::Unavailable,
        ),
        ("400 Bad Request", "IncompleteBody", StoreErrorKind::Corrupt),
    ] {
        let server = Canned::s3(status, "", code, "").await;
        let store = store(&bucket_at(server.port));
        let error = store.get("x", 10).await.expect_err("always the same");
        expect(&error, kind, &[code]);
        assert_eq!(server.asked(), 5, "{code}");
    }
}
