//! The rules as invariants over random histories, and a few named cases.

use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_000_000;

fn history() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0..5_u8, any::<bool>(), 0..5_u8, 0..NOW);
    prop::collection::vec(one, 0..40).prop_map(|items| {
        let made = items.into_iter().enumerate();
        made.map(|(number, (state, scheduled, protected, end_ms))| {
            let state = match state {
                0 | 1 => BackupState::Completed,
                2 => BackupState::Failed,
                3 => BackupState::Canceled,
                _ => BackupState::Running,
            };
            Candidate {
                backup_id: format!("{number:04}"),
                state,
                trigger: if scheduled {
                    Trigger::Schedule
                } else {
                    Trigger::Manual
                },
                protected: protected == 0,
                sequence: (state == BackupState::Completed).then_some(number as u64),
                end_time_ms: (state != BackupState::Running).then_some(end_ms),
            }
        })
        .collect()
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let rules = (
        prop::option::of(1..8_u32),
        prop::option::of(1..12_u32),
        prop::option::of(0..NOW),
    );
    rules.prop_map(|(retain, limit, age_ms)| Rules {
        retain,
        limit,
        age_ms,
    })
}

proptest! {
    #[test]
    fn rules_hold(backups in history(), rules in rules()) {
        let removals = plan(&backups, &rules, NOW);
        let find = |id: &str| backups.iter().find(|b| b.backup_id == id).unwrap();
        let gone: HashSet<&str> = removals.iter().map(|r| r.backup_id.as_str()).collect();
        prop_assert_eq!(gone.len(), removals.len(), "each goes once");
        let completed: Vec<&Candidate> =
            backups.iter().filter(|b| b.state == BackupState::Completed).collect();
        if let Some(newest) = completed.last() {
            prop_assert!(!gone.contains(newest.backup_id.as_str()));
        }
        for removal in &removals {
            let backup = find(&removal.backup_id);
            prop_assert!(!backup.protected);
            let newer = |scheduled: bool| completed.iter()
                .filter(|b| b.sequence > backup.sequence)
                .filter(|b| !scheduled || b.trigger == Trigger::Schedule)
                .count();
            let aged = || rules.age_ms.unwrap() + backup.end_time_ms.unwrap() < NOW;
            let done = backup.state == BackupState::Completed;
            let scheduled = backup.trigger == Trigger::Schedule;
            let right = match removal.rule {
                RemovalRule::Retain => done && scheduled && newer(true) >= rules.retain.unwrap() as usize,
                RemovalRule::Limit => done && newer(false) >= rules.limit.unwrap() as usize,
                RemovalRule::Age => done && scheduled && aged(),
                RemovalRule::Ended => !done && backup.state.is_ended() && aged(),
                RemovalRule::Request | RemovalRule::Deregister => false,
            };
            prop_assert!(right, "{:?}", removal);
        }
        // What is left obeys the rules: nothing more goes.
        let left: Vec<Candidate> =
            backups.iter().filter(|b| !gone.contains(b.backup_id.as_str())).cloned().collect();
        prop_assert_eq!(plan(&left, &rules, NOW), vec![]);
        // Failed backups never evict: without them the same completed ones go.
        let only: Vec<Candidate> = completed.iter().map(|b| (*b).clone()).collect();
        let of_completed: Vec<Removal> = removals
            .iter()
            .filter(|r| find(&r.backup_id).state == BackupState::Completed)
            .cloned()
            .collect();
        prop_assert_eq!(plan(&only, &rules, NOW), of_completed);
    }
}

#[test]
fn manual_backups_neither_count_nor_go_by_retain() {
    let backups: Vec<Candidate> = (0..6)
        .map(|number| Candidate {
            backup_id: number.to_string(),
            state: BackupState::Completed,
            trigger: if number % 2 == 0 {
                Trigger::Schedule
            } else {
                Trigger::Manual
            },
            protected: false,
            sequence: Some(number),
            end_time_ms: Some(0),
        })
        .collect();
    let rules = Rules {
        retain: Some(1),
        ..Rules::default()
    };
    let gone: Vec<String> = plan(&backups, &rules, NOW)
        .into_iter()
        .map(|r| r.backup_id)
        .collect();
    assert_eq!(gone, ["0", "2"]);
}
