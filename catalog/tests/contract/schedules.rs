//! Schedules are claimed once, move on with their backups, and retention prunes.

use std::collections::HashSet;

use catalog::{
    CatalogError, Frequency, RemovalRule, ScheduleSpec, SkipReason, retention::Rules, timing,
};

use crate::fixture::{Fixture, NOW, result, unavailable};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

fn daily(retain: u32) -> ScheduleSpec {
    ScheduleSpec {
        enabled: true,
        frequency: Frequency::Daily,
        retain,
        time_of_day: None,
        time_zone: "UTC".to_owned(),
    }
}

#[tokio::test]
async fn each_due_time_is_taken_once_by_two_claimers() {
    let fixture = Fixture::new().await;
    for number in 0..60 {
        let agent_id = format!("agent-{number:02}");
        fixture.agent(&agent_id).await;
        let set = fixture
            .catalog
            .set_schedule(&agent_id, daily(7), None, false, NOW);
        set.await.unwrap();
    }
    let claimer = || {
        let catalog = fixture.catalog.clone();
        async move {
            let mut begun = Vec::new();
            let mut idle = 0;
            while idle < 3 {
                let round = catalog.claim_due(7, NOW).await.unwrap();
                idle = if round.is_empty() { idle + 1 } else { 0 };
                begun.extend(round.begun);
            }
            begun
        }
    };
    let (mut one, other) = tokio::join!(claimer(), claimer());
    one.extend(other);
    let agents: HashSet<&String> = one.iter().map(|(agent, _)| agent).collect();
    assert_eq!((one.len(), agents.len()), (60, 60));
    let due = fixture.catalog.undispatched_jobs(1_000, NOW).await.unwrap();
    assert_eq!(due.len(), 60);
}

#[tokio::test]
async fn a_run_fails_is_tried_again_succeeds_and_is_skipped_while_it_goes_on() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let get = || async { catalog.get_schedule("agent").await.unwrap().unwrap() };
    let (set, created) = catalog
        .set_schedule("agent", daily(7), None, false, NOW)
        .await
        .unwrap();
    assert!(created && set.next_run_time_ms == Some(NOW));
    let round = catalog.claim_due(10, NOW).await.unwrap();
    assert_eq!(get().await.next_run_time_ms, Some(NOW + DAY_MS));
    let backup = fixture.get_backup(&round.begun[0].1).await;
    let fence = fixture.claim(&backup.job_id, NOW).await.fence();

    // Still running when it is due again: skipped.
    let late = NOW + DAY_MS;
    let skipped = catalog.claim_due(10, late).await.unwrap();
    assert_eq!(skipped.skipped, ["agent"]);
    assert_eq!(get().await.skip, Some((late, SkipReason::StillRunning)));
    assert_eq!(get().await.next_run_time_ms, Some(NOW + 2 * DAY_MS));

    catalog
        .fail_job(&fence, unavailable(), false, late)
        .await
        .unwrap();
    assert_eq!(
        get().await.next_run_time_ms,
        Some(late + timing::RETRY_MIN_MS)
    );
    assert_eq!(get().await.failures, 1);

    let again = late + timing::RETRY_MIN_MS;
    let round = catalog.claim_due(10, again).await.unwrap();
    let backup = fixture.get_backup(&round.begun[0].1).await;
    let fence = fixture.claim(&backup.job_id, again).await.fence();
    catalog
        .complete_backup(&fence, result(1), again + 1)
        .await
        .unwrap();
    assert_eq!(get().await.failures, 0);
    assert_eq!(get().await.next_run_time_ms, Some(again + DAY_MS));

    // Nobody looked for a week: one run, a little later.
    let back = again + 7 * DAY_MS;
    let round = catalog.claim_due(10, back).await.unwrap();
    assert_eq!((round.spread.len(), round.begun.len()), (1, 0));
    let next = get().await.next_run_time_ms.unwrap();
    assert!(next >= back && next < back + timing::SPREAD_MAX_MS);
    assert_eq!(catalog.claim_due(10, next).await.unwrap().begun.len(), 1);
}

#[tokio::test]
async fn etags_and_absence_are_told() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let none = catalog
        .set_schedule("agent", daily(7), None, true, NOW)
        .await;
    assert!(matches!(none, Err(CatalogError::ScheduleNotFound { .. })));
    catalog
        .set_schedule("agent", daily(7), None, false, NOW)
        .await
        .unwrap();
    let stale = catalog
        .set_schedule("agent", daily(3), Some("old"), false, NOW)
        .await;
    assert!(matches!(stale, Err(CatalogError::ScheduleChanged { .. })));
    catalog.delete_schedule("agent", None).await.unwrap();
    let gone = catalog.delete_schedule("agent", None).await;
    assert!(matches!(gone, Err(CatalogError::ScheduleNotFound { .. })));
}

#[tokio::test]
async fn the_limit_prunes_the_oldest_and_leaves_protected_ones() {
    let fixture = Fixture::with_agent().await;
    let catalog = &fixture.catalog;
    let mut ids = Vec::new();
    for sequence in 1..=4 {
        ids.push(fixture.completed("agent", sequence).await.backup_id);
    }
    catalog.protect_backup(&ids[0], true, NOW).await.unwrap();
    let refused = catalog.delete_backup(&ids[0], NOW).await;
    assert!(matches!(refused, Err(CatalogError::BackupProtected { .. })));
    let refused = catalog
        .deregister_agent("agent", catalog::BackupsOfGone::Deleted, NOW)
        .await;
    assert!(matches!(refused, Err(CatalogError::BackupProtected { .. })));

    let rules = Rules {
        limit: Some(2),
        ..Rules::default()
    };
    let (_, shown) = catalog
        .preview_retention("agent", rules, None, NOW)
        .await
        .unwrap();
    let shown: Vec<_> = shown.into_iter().map(|(removal, _)| removal).collect();
    let claimed = catalog.claim_retention(10, 1_000, NOW).await.unwrap();
    assert_eq!(claimed, ["agent"]);
    assert!(
        catalog
            .claim_retention(10, 1_000, NOW)
            .await
            .unwrap()
            .is_empty()
    );
    let pruned = catalog
        .prune("agent", rules, NOW + 1_000, NOW)
        .await
        .unwrap();
    assert_eq!(pruned, shown);
    assert_eq!((pruned.len(), &pruned[0].backup_id), (1, &ids[1]));
    let removed = catalog.list_removals("agent", 10).await.unwrap();
    assert_eq!(
        (&removed[0].backup_id, removed[0].rule),
        (&ids[1], RemovalRule::Limit)
    );
}
