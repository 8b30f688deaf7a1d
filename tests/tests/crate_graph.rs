//! The shape of the project: which crate may name which, and what a file may be.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use services::place;

/// Every crate, and the crates of this project that it may name. Anything else
/// is refused: a new edge is a decision, made here.
const ALLOWED: &[(&str, &[&str])] = &[
    ("process", &[]),
    ("proto", &[]),
    ("migrations", &[]),
    ("vault", &["proto"]),
    ("queue", &["proto"]),
    ("catalog", &["proto", "migrations"]),
    ("destinations", &["proto", "vault", "catalog"]),
    (
        "fleet",
        &["process", "vault", "catalog", "destinations", "queue"],
    ),
    (
        "server",
        &[
            "process",
            "proto",
            "vault",
            "queue",
            "catalog",
            "destinations",
            "fleet",
        ],
    ),
    (
        "worker",
        &[
            "process",
            "proto",
            "vault",
            "queue",
            "catalog",
            "destinations",
            "fleet",
        ],
    ),
    // It puts the parts together, so it may name them all but the migrations.
    (
        "cli",
        &[
            "process",
            "proto",
            "vault",
            "queue",
            "catalog",
            "destinations",
            "server",
            "worker",
        ],
    ),
    // They look from the outside.
    ("tests", &["proto"]),
];

/// A longer file has more than one subject.
const FILE_LINES_MAX: usize = 800;
/// Names that say nothing of what a crate is for.
const CRATE_NAMES_REFUSED: &[&str] = &[
    "common", "utils", "util", "shared", "helpers", "core", "misc",
];

#[test]
fn crates_depend_only_downwards() {
    let folders = crates();
    let mut wrong = Vec::new();
    for (folder, dependencies) in &folders {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == folder) else {
            wrong.push(format!(
                "{folder}: a crate that tests/tests/crate_graph.rs does not know"
            ));
            continue;
        };
        wrong.extend(
            dependencies
                .iter()
                .filter(|name| !allowed.contains(&name.as_str()))
                .map(|name| format!("{folder} must not depend on {name}")),
        );
    }
    wrong.extend(
        ALLOWED
            .iter()
            .filter(|(name, _)| !folders.contains_key(*name))
            .map(|(name, _)| format!("{name} is gone")),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn crates_have_names_that_say_what_they_are_for() {
    for folder in crates().keys() {
        assert!(!CRATE_NAMES_REFUSED.contains(&folder.as_str()), "{folder}");
    }
}

#[test]
fn files_are_small_and_stand_beside_their_folders() {
    let mut wrong = Vec::new();
    for file in sources() {
        let shown = file
            .strip_prefix(place::workspace_dir())
            .unwrap_or(&file)
            .display()
            .to_string();
        let lines = fs::read_to_string(&file)
            .expect("read a source file")
            .lines()
            .count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!(
                "{shown} has {lines} lines, at most {FILE_LINES_MAX}: split it by subject"
            ));
        }
        if file.ends_with("mod.rs") {
            wrong.push(format!(
                "{shown}: name it after its folder and put it beside"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_crate_opens_with_a_tour() {
    for folder in crates().keys() {
        let path = place::workspace_dir().join(folder).join("src/lib.rs");
        let text =
            fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
        let tour = text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .count();
        assert!(
            tour >= 4,
            "{} opens with {tour} lines of //!, a tour has more",
            path.display()
        );
    }
}

/// Folder of each crate of the workspace, with those it names.
fn crates() -> BTreeMap<String, Vec<String>> {
    let root = place::workspace_dir();
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(&root)
        .output()
        .expect("run cargo metadata");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let folder_of = |path: &str| -> String {
        let inside = Path::new(path)
            .strip_prefix(&root)
            .expect("a crate of the workspace");
        inside.to_string_lossy().into_owned()
    };
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
            let folder = folder_of(&manifest.parent().expect("a folder").to_string_lossy());
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            // A crate may name itself, to test what it shows to others.
            let inside = dependencies
                .iter()
                .filter_map(|edge| edge["path"].as_str())
                .map(folder_of);
            (
                folder.clone(),
                inside.filter(|name| *name != folder).collect(),
            )
        })
        .collect()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = crates()
        .keys()
        .map(|folder| place::workspace_dir().join(folder))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("read a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}
