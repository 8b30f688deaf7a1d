//! What was accepted, and what was seen of it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use proto::backup::v1::{backup, restore};

use crate::tree::Tree;

/// A backup whose CreateBackup was answered.
#[derive(Clone)]
pub(super) struct Accepted {
    pub(super) agent: String,
    /// The agent's folder as it was.
    pub(super) tree: Arc<Tree>,
    pub(super) cancel: Wish,
    pub(super) delete: Wish,
    /// The ends that watchers saw; `None` when it was gone already.
    pub(super) seen: Vec<Option<backup::State>>,
}

/// Whether something was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// It was not.
    No,
    /// It was, and the answer is not known, or was no.
    Perhaps,
    /// It was, and the answer was yes.
    Yes,
}

/// A restore that was started.
#[derive(Clone)]
pub(super) struct Started {
    pub(super) backup_id: String,
    pub(super) target: PathBuf,
    pub(super) cancel: Wish,
    pub(super) seen: Vec<restore::State>,
}

#[derive(Default)]
struct Pages {
    backups: BTreeMap<String, Accepted>,
    restores: BTreeMap<String, Started>,
    troubles: Vec<String>,
    doubled: u64,
    unasked_exits: u64,
    internal_errors: u64,
}

/// Shared by all clients of a run.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Pages>);

impl Ledger {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a backup.
    pub(super) fn accept(&self, backup_id: &str, agent: &str, tree: Arc<Tree>) {
        let accepted = Accepted {
            agent: agent.to_owned(),
            tree,
            cancel: Wish::No,
            delete: Wish::No,
            seen: Vec::new(),
        };
        self.pages().backups.insert(backup_id.to_owned(), accepted);
    }

    /// Changes what is noted of a backup.
    pub(super) fn backup(&self, backup_id: &str, change: impl FnOnce(&mut Accepted)) {
        if let Some(accepted) = self.pages().backups.get_mut(backup_id) {
            change(accepted);
        }
    }

    /// Notes a restore.
    pub(super) fn start(&self, restore_id: &str, started: Started) {
        self.pages().restores.insert(restore_id.to_owned(), started);
    }

    /// Changes what is noted of a restore.
    pub(super) fn restore(&self, restore_id: &str, change: impl FnOnce(&mut Started)) {
        if let Some(started) = self.pages().restores.get_mut(restore_id) {
            change(started);
        }
    }

    /// All backups.
    pub(super) fn backups(&self) -> BTreeMap<String, Accepted> {
        self.pages().backups.clone()
    }

    /// All restores.
    pub(super) fn restores(&self) -> BTreeMap<String, Started> {
        self.pages().restores.clone()
    }

    /// Backups that were seen in this end and that nobody wants deleted.
    pub(super) fn kept(&self, state: backup::State) -> Vec<String> {
        let pages = self.pages();
        let kept = pages.backups.iter().filter(|(_, accepted)| {
            accepted.delete == Wish::No && accepted.seen.contains(&Some(state))
        });
        kept.map(|(id, _)| id.clone()).collect()
    }

    /// Notes what should not be, in words.
    pub(super) fn trouble(&self, words: impl Into<String>) {
        let words = words.into();
        eprintln!("chaos: {words}");
        self.pages().troubles.push(words);
    }

    /// One request made two backups.
    pub(super) fn doubled(&self, words: impl Into<String>) {
        self.pages().doubled += 1;
        self.trouble(words);
    }

    /// A process ended that nobody had ended.
    pub(super) fn unasked_exit(&self, words: impl Into<String>) {
        self.pages().unasked_exits += 1;
        self.trouble(words);
    }

    /// The service called itself broken.
    pub(super) fn internal_error(&self, words: impl Into<String>) {
        self.pages().internal_errors += 1;
        self.trouble(words);
    }

    /// All troubles.
    pub(super) fn troubles(&self) -> Vec<String> {
        self.pages().troubles.clone()
    }

    /// Requests that made two backups; processes that ended; internal errors.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let pages = self.pages();
        (pages.doubled, pages.unasked_exits, pages.internal_errors)
    }
}
