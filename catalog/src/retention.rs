//! Which backups of an agent go, and by which rule: a pure calculation.
//!
//! - The newest COMPLETED backup and protected ones never go.
//! - Retain: of the COMPLETED backups that the schedule made, so many of the
//!   newest stay. Others neither count nor go by it.
//! - Limit: of all COMPLETED backups that are left, so many of the newest stay.
//! - Age: COMPLETED backups that the schedule made, and FAILED and CANCELED ones of
//!   any origin, go some time after their end.
//!
//! Protected backups count, so that protecting one never makes room for more.
//! What has not ended, and what is being removed, does neither count nor go.

use std::collections::{HashMap, HashSet};

use crate::{BackupState, RemovalRule, Trigger};

/// What the rules look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub backup_id: String,
    /// Where it stands.
    pub state: BackupState,
    /// What asked for it.
    pub trigger: Trigger,
    /// Whether rules leave it alone.
    pub protected: bool,
    /// Its number in the vault, when COMPLETED.
    pub sequence: Option<u64>,
    /// When it ended.
    pub end_time_ms: Option<i64>,
}

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The newest COMPLETED backups of the schedule; None: no such rule.
    pub retain: Option<u32>,
    /// The newest COMPLETED backups of the agent; None: no such rule.
    pub limit: Option<u32>,
    /// How long after their end; None: no such rule.
    pub age_ms: Option<i64>,
}

/// One that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The backup.
    pub backup_id: String,
    /// By which rule.
    pub rule: RemovalRule,
}

/// What goes now, oldest first.
pub fn plan(backups: &[Candidate], rules: &Rules, now_ms: i64) -> Vec<Removal> {
    let mut newest_first: Vec<&Candidate> = backups.iter().collect();
    newest_first.sort_unstable_by(|a, b| order(b).cmp(&order(a)));
    let completed: Vec<&Candidate> = newest_first
        .iter()
        .copied()
        .filter(|backup| backup.state == BackupState::Completed)
        .collect();
    let newest = completed.first().map(|backup| backup.backup_id.as_str());
    let may_go =
        |backup: &Candidate| !backup.protected && Some(backup.backup_id.as_str()) != newest;
    let old = |backup: &Candidate| {
        let age = rules.age_ms.zip(backup.end_time_ms);
        age.is_some_and(|(age_ms, end_ms)| end_ms.saturating_add(age_ms) < now_ms)
    };
    let mut gone: HashSet<&str> = HashSet::new();
    let mut removals = Vec::new();
    let mut remove = |backup: &Candidate, rule| {
        removals.push(Removal {
            backup_id: backup.backup_id.clone(),
            rule,
        });
    };
    if let Some(retain) = rules.retain {
        let scheduled = completed.iter().filter(|b| b.trigger == Trigger::Schedule);
        for backup in scheduled.skip(retain as usize).filter(|b| may_go(b)) {
            gone.insert(&backup.backup_id);
            remove(backup, RemovalRule::Retain);
        }
    }
    if let Some(limit) = rules.limit {
        let left: Vec<&Candidate> = completed
            .iter()
            .copied()
            .filter(|backup| !gone.contains(backup.backup_id.as_str()))
            .collect();
        for backup in left.iter().skip(limit as usize).filter(|b| may_go(b)) {
            gone.insert(&backup.backup_id);
            remove(backup, RemovalRule::Limit);
        }
    }
    for backup in newest_first {
        if gone.contains(backup.backup_id.as_str()) || !may_go(backup) || !old(backup) {
            continue;
        }
        match (backup.state, backup.trigger) {
            (BackupState::Completed, Trigger::Schedule) => remove(backup, RemovalRule::Age),
            (BackupState::Failed | BackupState::Canceled, _) => remove(backup, RemovalRule::Ended),
            _ => {}
        }
    }
    let ages: HashMap<&str, _> = backups
        .iter()
        .map(|b| (b.backup_id.as_str(), order(b)))
        .collect();
    removals.sort_by_key(|removal| ages.get(removal.backup_id.as_str()).copied());
    removals
}

/// When time alone makes the next one go, at the earliest.
pub fn next_age_ms(backups: &[Candidate], rules: &Rules) -> Option<i64> {
    let age_ms = rules.age_ms?;
    let ends = backups.iter().filter(|backup| !backup.protected);
    ends.filter_map(|backup| backup.end_time_ms)
        .map(|end_ms| end_ms.saturating_add(age_ms).saturating_add(1))
        .min()
}

/// COMPLETED ones by their number in the vault, others by their id, which tells
/// when they were made.
fn order(backup: &Candidate) -> (Option<u64>, &str) {
    (backup.sequence, &backup.backup_id)
}

#[cfg(test)]
mod tests;
