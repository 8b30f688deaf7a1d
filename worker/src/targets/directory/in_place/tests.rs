//! In place of a folder that is there: whatever stops in between, it is the old tree or the new
//! one, and putting back finds out which.

use std::fs;

use rustix::fs::{CWD, renameat_with as rename_with};

use super::*;
use crate::{
    targets::{RestoreContext, Target as _, directory::DirectoryTarget},
    testing::Bench,
};

/// An agent that was backed up, and has lived on.
struct Life {
    bench: Bench,
    backup: vault::ManifestRef,
}

impl Life {
    async fn new() -> Self {
        let bench = Bench::new().await;
        fs::create_dir_all(bench.at("a/deep")).unwrap();
        fs::write(bench.at("a/deep/memory"), "old days").unwrap();
        let backup = bench.backup("b1", "a", None).await.manifest;
        fs::write(bench.at("a/deep/memory"), "today").unwrap();
        fs::write(bench.at("a/since"), "then").unwrap();
        Self { bench, backup }
    }

    fn target(&self, attempt: u32) -> DirectoryTarget {
        let path = self.bench.at("a");
        let context = RestoreContext {
            in_place: true,
            ..Bench::restore_context(&path, attempt)
        };
        let target = proto::backup::v1::DirectoryTarget {
            path: path.to_str().unwrap().to_owned(),
        };
        DirectoryTarget::new(&self.bench.settings, target, context)
    }

    async fn write(&self, target: &DirectoryTarget) {
        let reader = self
            .bench
            .vault
            .open_backup(&self.backup, tokio_util::sync::CancellationToken::new())
            .await
            .unwrap();
        target.write(reader).await.unwrap();
    }

    fn memory(&self) -> String {
        fs::read_to_string(self.bench.at("a/deep/memory")).unwrap()
    }

    /// It lives on, and nothing lies beside it.
    fn is_as_it_was(&self) {
        assert_eq!(self.memory(), "today");
        assert_eq!(fs::read(self.bench.at("a/since")).unwrap(), b"then");
        self.is_alone();
    }

    fn is_alone(&self) {
        let names: Vec<_> = fs::read_dir(self.bench.at(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["a"]);
    }

    fn rename(&self, from: &str, to: &str) {
        rename_with(
            CWD,
            self.bench.at(from),
            CWD,
            self.bench.at(to),
            RenameFlags::NOREPLACE,
        )
        .unwrap();
    }
}

const HIDDEN: &str = ".nora-restore-restore.1";

#[tokio::test]
async fn the_new_tree_takes_the_place_and_the_old_one_goes_in_the_end() {
    let life = Life::new().await;
    let target = life.target(1);
    target.clean().await.unwrap();
    life.write(&target).await;
    assert_eq!(life.memory(), "today");
    target.publish().await.unwrap();
    assert_eq!(life.memory(), "old days");
    assert!(!life.bench.at("a/since").exists());
    let old = life.bench.at(HIDDEN).join("deep/memory");
    assert_eq!(fs::read_to_string(old).unwrap(), "today");
    target.settle().await.unwrap();
    target.settle().await.unwrap();
    assert_eq!(life.memory(), "old days");
    life.is_alone();
}

#[tokio::test]
async fn whatever_stops_in_between_is_put_back_by_the_next_attempt() {
    for published in [false, true] {
        let life = Life::new().await;
        let first = life.target(1);
        life.write(&first).await;
        if published {
            first.publish().await.unwrap();
        }
        let second = life.target(2);
        second.clean().await.unwrap();
        life.is_as_it_was();
        second.clean().await.unwrap();
        life.is_as_it_was();
        // An attempt that lost its job and wakes up can't put anything in place any more.
        first.publish().await.unwrap_err();
        assert_eq!(life.memory(), "today");
        second.clean().await.unwrap();
        life.is_as_it_was();
        life.write(&second).await;
        second.publish().await.unwrap();
        second.settle().await.unwrap();
        assert_eq!(life.memory(), "old days");
        life.is_alone();
    }
}

/// What a file system without exchanges has in between, and what putting back leaves when it is
/// stopped itself.
#[tokio::test]
async fn every_step_in_between_is_told_apart() {
    let old = format!("{HIDDEN}.old");
    let retired = format!("{HIDDEN}.retired");
    // From the state after an exchange: the old tree has the hidden name.
    let states: [&[(&str, &str)]; 5] = [
        // In two steps: the new tree is in its place, the old one aside.
        &[(HIDDEN, &old)],
        // In the middle of these: nothing is in the place.
        &[("a", "new"), (HIDDEN, &old), ("new", HIDDEN)],
        // Putting back was stopped after it had renamed the hidden one.
        &[(HIDDEN, &retired)],
        // It was stopped between its own steps.
        &[("a", &retired), (HIDDEN, &old)],
        // It was stopped before it removed the new tree.
        &[("a", "new"), (HIDDEN, "a"), ("new", &retired)],
    ];
    for renames in states {
        let life = Life::new().await;
        let target = life.target(1);
        life.write(&target).await;
        target.publish().await.unwrap();
        for (from, to) in renames {
            life.rename(from, to);
        }
        life.target(2).clean().await.unwrap();
        life.is_as_it_was();
    }
}

#[tokio::test]
async fn a_folder_that_is_gone_or_none_is_not_replaced() {
    let life = Life::new().await;
    let reader = || async {
        life.bench
            .vault
            .open_backup(&life.backup, tokio_util::sync::CancellationToken::new())
            .await
            .unwrap()
    };
    life.rename("a", "elsewhere");
    let error = life.target(1).write(reader().await).await.unwrap_err();
    assert_eq!(error.reason(), "TARGET_UNUSABLE", "{error}");
    fs::write(life.bench.at("a"), "a file").unwrap();
    let error = life.target(1).write(reader().await).await.unwrap_err();
    assert!(error.to_string().contains("no folder any more"), "{error}");
    life.target(1).clean().await.unwrap();
    assert_eq!(fs::read(life.bench.at("a")).unwrap(), b"a file");
}
