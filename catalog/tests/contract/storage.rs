//! How full the storage is, announced once for each crossing.

use crate::fixture::{Fixture, NOW};

#[tokio::test]
async fn each_crossing_is_announced_once_by_two_servers() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let look = |stored: u64| async move {
        let (one, other) = tokio::join!(
            catalog.note_storage(stored, 1_000, NOW),
            catalog.note_storage(stored, 1_000, NOW)
        );
        let mut noted = [one.unwrap(), other.unwrap()];
        noted.sort_unstable();
        noted
    };
    assert_eq!(look(799).await, [None, None]);
    assert_eq!(look(800).await, [None, Some(80)]);
    assert_eq!(look(760).await, [None, None]);
    assert_eq!(look(1_200).await, [None, Some(100)]);
    assert_eq!(look(10).await, [None, Some(0)]);
    let told = catalog.claim_announcements(10, 1_000, NOW).await.unwrap();
    let mut told: Vec<(String, u64, u64)> = told
        .into_iter()
        .map(|it| {
            assert_eq!(it.ended.kind, "storage");
            (it.ended.state, it.ended.stored_bytes, it.ended.limit_bytes)
        })
        .collect();
    told.sort();
    let expected = [
        ("below_100", 10, 1_000),
        ("reached_100", 1_200, 1_000),
        ("reached_80", 800, 1_000),
    ];
    assert_eq!(
        told,
        expected.map(|(state, stored, limit)| (state.to_owned(), stored, limit))
    );
}
