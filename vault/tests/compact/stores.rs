//! The contract of destinations, and that planned faults happen as planned.

use bytes::Bytes;
use vault::{
    OpendalStore, Store as _, StoreErrorKind,
    store::testing::{
        Call, Calls, Fault, FaultPlan, MemoryStore, Rule, When, contract, each_call_fails_once,
    },
};

#[tokio::test]
async fn a_local_destination_keeps_the_contract() {
    let folder = tempfile::TempDir::new().unwrap();
    contract(&OpendalStore::local(folder.path()).unwrap()).await;
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract(&*MemoryStore::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_at_a_local_destination_of_which_each_call_fails_once() {
    let folder = tempfile::TempDir::new().unwrap();
    let store = OpendalStore::local(folder.path()).unwrap();
    let failed = each_call_fails_once(std::sync::Arc::new(store)).await;
    assert!(failed > 20, "{failed} calls failed");
}

fn once(fault: Fault) -> FaultPlan {
    FaultPlan::once(Rule::on("x", Calls::Any, When::Nth(0), fault))
}

const BYTES: Bytes = Bytes::from_static(b"0123456789abcdef");

#[tokio::test]
async fn failed_puts_leave_what_their_fault_says() {
    for (fault, left) in [
        (Fault::Error, None),
        (Fault::ErrorButDone, Some(BYTES)),
        (Fault::Timeout, None),
        (Fault::TimeoutButDone, Some(BYTES)),
        (Fault::Lost, None),
        (Fault::Full, None),
    ] {
        let store = MemoryStore::with_faults(once(fault.clone()));
        store.put("y", BYTES).await.unwrap();
        assert!(store.put("x", BYTES).await.is_err(), "{fault:?}");
        assert_eq!(store.object("x"), left, "{fault:?}");
        store.put("x", BYTES).await.unwrap();
        assert_eq!(store.get("x", 100).await.unwrap(), BYTES);
    }
    let store = MemoryStore::with_faults(once(Fault::Torn));
    assert!(store.put("x", BYTES).await.is_err());
    assert!(store.object("x").unwrap().len() < BYTES.len());
}

#[tokio::test]
async fn a_lying_store_acknowledges_what_it_does_not_keep() {
    for fault in [Fault::Torn, Fault::Lost] {
        let plan = FaultPlan {
            lying: true,
            ..once(fault)
        };
        let store = MemoryStore::with_faults(plan);
        store.put("x", BYTES).await.unwrap();
        assert_ne!(store.object("x"), Some(BYTES));
    }
}

#[tokio::test]
async fn a_late_put_arrives_after_it_was_given_up() {
    let store = MemoryStore::with_faults(once(Fault::Late(2)));
    let error = store.put("x", BYTES).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Timeout);
    assert_eq!(store.stat("x").await.unwrap(), None);
    assert_eq!(store.stat("x").await.unwrap(), Some(16));
}

#[tokio::test]
async fn reads_are_stale_or_corrupt_as_planned_and_the_same_for_a_seed() {
    let store = MemoryStore::new();
    store.put("x", BYTES).await.unwrap();
    for n in 0..8 {
        store.put("x", Bytes::from(vec![n])).await.unwrap();
    }
    let stale = store.client(once(Fault::Stale));
    assert_ne!(stale.get("x", 100).await.unwrap(), vec![7]);
    assert_eq!(stale.get("x", 100).await.unwrap(), vec![7]);
    let corrupt = Rule::new(Calls::Only(Call::Get), When::Chance(0.5), Fault::Corrupt);
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let plan = FaultPlan {
            seed,
            ..FaultPlan::once(corrupt.clone())
        };
        let store = store.client(plan);
        let mut run = Vec::new();
        for _ in 0..32 {
            run.push(store.get("x", 100).await.unwrap());
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test]
async fn room_ends_where_the_plan_says() {
    let store = MemoryStore::with_faults(FaultPlan {
        bytes_max: Some(20),
        ..FaultPlan::default()
    });
    store.put("a", BYTES).await.unwrap();
    let error = store.put("b", BYTES).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Full);
    store.delete("a").await.unwrap();
    store.put("b", BYTES).await.unwrap();
}
