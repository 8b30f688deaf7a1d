//! What of a container is captured: decided before anything is read.
//!
//! The plan is a list of what is wanted, in path order. Everything that is wanted comes with the
//! folders above it, so that a restore can make them as they were.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use bollard::models::{ChangeType, FilesystemChange};
use catalog::Patterns;

use super::paths::{is_within, parent, relative};

/// What the engine puts into every container, or the kernel keeps there.
const NOT_THE_AGENTS: [&[u8]; 8] = [
    b".dockerenv",
    b"dev",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/resolv.conf",
    b"proc",
    b"run/.containerenv",
    b"sys",
];
/// What the engine writes for a byte that is no UTF-8.
const ODD: &[u8] = "\u{fffd}".as_bytes();

/// How much of a path is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Extent {
    /// What is there, without what lies under it.
    Single,
    /// What of it is listed as changed: some names in it can't be asked for one by one.
    Changed,
    /// All.
    Whole,
}

/// One thing that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Want {
    /// Relative to the root.
    pub(super) path: Vec<u8>,
    pub(super) extent: Extent,
}

/// What is captured.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In path order; nothing lies under what is wanted otherwise than `Single`.
    pub(super) wants: Vec<Want>,
    /// Not captured, with all that lies under it.
    excluded: Vec<Vec<u8>>,
    /// Where other file systems begin.
    mounts: Vec<Vec<u8>>,
    /// What is changed, as the engine writes it; only where some `Changed` needs it.
    changed: HashSet<Vec<u8>>,
    /// What is wanted whole under something that is wanted as `Changed`.
    whole_within: Vec<Vec<u8>>,
    /// Paths of the image that are gone.
    pub(super) deleted: Vec<Vec<u8>>,
    /// What the agent's patterns leave out.
    pub(super) patterns: Arc<Patterns>,
}

/// What a plan is made from; all paths relative to the root.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Whether the agent was registered with paths; otherwise what is its own is captured.
    pub(super) names_paths: bool,
    /// Those paths, as far as they are there, with their links resolved.
    pub(super) registered: Vec<Vec<u8>>,
    /// Links that lead to those, or to mounts.
    pub(super) links: Vec<Vec<u8>>,
    /// Where volumes are.
    pub(super) volumes: Vec<Vec<u8>>,
    /// Where something else is mounted.
    pub(super) other_mounts: Vec<Vec<u8>>,
    /// What differs from the image.
    pub(super) changes: Vec<FilesystemChange>,
    /// What was gone from the image already when a restore made the container.
    pub(super) gone_before: Vec<Vec<u8>>,
    /// What the agent's patterns leave out.
    pub(super) patterns: Arc<Patterns>,
}

impl Plan {
    /// Plans a capture.
    pub(super) fn new(given: Given) -> Self {
        let mut this = Self {
            patterns: given.patterns.clone(),
            ..Self::default()
        };
        let mut wants = BTreeMap::new();
        let named = |mount: &Vec<u8>| given.registered.iter().any(|path| is_within(path, mount));
        this.excluded = given
            .other_mounts
            .iter()
            .filter(|mount| !named(mount))
            .cloned()
            .chain(NOT_THE_AGENTS.iter().map(|path| path.to_vec()))
            .collect();
        this.mounts = [&given.volumes[..], &given.other_mounts[..]].concat();
        let mut changes: Vec<(Vec<u8>, ChangeType)> = given
            .changes
            .into_iter()
            .map(|change| (relative(&change.path), change.kind))
            .filter(|(path, _)| {
                !within_any(path, &this.mounts) && !within_any(path, &this.excluded)
            })
            .collect();
        changes.sort_by(|a, b| vault::compare_paths(&a.0, &b.0));
        for link in given.links {
            want(&mut wants, link, Extent::Single);
        }
        if given.names_paths {
            for path in &given.registered {
                want(&mut wants, path.clone(), Extent::Whole);
            }
        } else {
            this.want_changes(&changes, &mut wants);
            for volume in given.volumes {
                want(&mut wants, volume, Extent::Whole);
            }
        }
        // Whether a want itself is left out shows when it comes: only then its type is known.
        wants.retain(|path, _| {
            !within_any(&path.0, &this.excluded) && !this.patterns.leaves_out_above(&path.0)
        });
        want(&mut wants, Vec::new(), Extent::Single);
        let deleted: BTreeSet<Vec<u8>> = changes
            .into_iter()
            .filter(|(_, kind)| *kind == ChangeType::_2)
            .map(|(path, _)| path)
            .chain(given.gone_before)
            // What came back is captured like everything else.
            .filter(|path| !wants.contains_key(&Ordered(path.clone())))
            .filter(|path| !given.names_paths || within_any(path, &given.registered))
            .collect();
        this.deleted = deleted.into_iter().collect();
        // Also what is gone needs the folders above it.
        let above = wants.keys().map(|path| &path.0).chain(&this.deleted);
        for path in above.cloned().collect::<Vec<_>>() {
            let mut above = parent(&path);
            while let Some(folder) = above {
                want(&mut wants, folder.to_vec(), Extent::Single);
                above = parent(folder);
            }
        }
        this.take(wants);
        this
    }

    fn want_changes(
        &mut self,
        changes: &[(Vec<u8>, ChangeType)],
        wants: &mut BTreeMap<Ordered, Extent>,
    ) {
        let mut whole: Option<&[u8]> = None;
        for (path, kind) in changes {
            if *kind == ChangeType::_2 || whole.is_some_and(|whole| is_within(path, whole)) {
                continue;
            }
            if path.windows(ODD.len()).any(|part| part == ODD) {
                // It can't be asked for by this name: its nearest folder that can is looked through.
                let mut folder = path.as_slice();
                while folder.windows(ODD.len()).any(|part| part == ODD) {
                    folder = parent(folder).unwrap_or_default();
                }
                want(wants, folder.to_vec(), Extent::Changed);
                continue;
            }
            let spans_excluded = self.excluded.iter().any(|other| is_within(other, path));
            if *kind == ChangeType::_1 && !spans_excluded {
                // All that lies under what was added was added too.
                whole = Some(path);
                want(wants, path.clone(), Extent::Whole);
            } else {
                want(wants, path.clone(), Extent::Single);
            }
        }
        if wants.values().any(|extent| *extent == Extent::Changed) {
            self.changed = changes
                .iter()
                .filter(|(_, kind)| *kind != ChangeType::_2)
                .map(|(path, _)| path.clone())
                .collect();
        }
    }

    fn take(&mut self, wants: BTreeMap<Ordered, Extent>) {
        let mut around: Option<Want> = None;
        for (Ordered(path), extent) in wants {
            if let Some(around) = around.as_ref().filter(|want| is_within(&path, &want.path)) {
                if around.extent == Extent::Changed && extent == Extent::Whole {
                    self.whole_within.push(path);
                }
                continue;
            }
            let want = Want { path, extent };
            if extent != Extent::Single {
                around = Some(want.clone());
            }
            self.wants.push(want);
        }
    }

    /// Whether something that lies under a want is to be captured.
    pub(super) fn accepts(&self, want: &Want, path: &[u8]) -> bool {
        if within_any(path, &self.excluded) {
            return false;
        }
        match want.extent {
            Extent::Whole => true,
            Extent::Single => path == want.path,
            Extent::Changed => {
                path == want.path
                    || self.changed.contains(&super::paths::as_in_json(path))
                    || self
                        .whole_within
                        .iter()
                        .any(|whole| is_within(path, whole) || is_within(whole, path))
            }
        }
    }

    /// Whether any want captures a path that is no folder.
    pub(super) fn captures(&self, path: &[u8]) -> bool {
        let next = self
            .wants
            .partition_point(|want| vault::compare_paths(&want.path, path).is_le());
        // The nearest wants before it: one that is the path itself, or one that it lies under.
        self.wants[..next]
            .iter()
            .rev()
            .find(|want| want.extent != Extent::Single || want.path == path)
            .is_some_and(|want| is_within(path, &want.path) && self.accepts(want, path))
            && !self.patterns.leaves_out_within(path, false)
    }

    /// Whether two paths are on one file system, as far as mounts tell.
    pub(super) fn on_one_mount(&self, one: &[u8], other: &[u8]) -> bool {
        self.mount_of(one) == self.mount_of(other)
    }

    fn mount_of(&self, path: &[u8]) -> Option<&Vec<u8>> {
        self.mounts
            .iter()
            .filter(|mount| is_within(path, mount))
            .max_by_key(|mount| mount.len())
    }

    /// Whether something mounted at a path, or a part of it, is captured.
    pub(super) fn captures_mount(&self, mount: &[u8]) -> bool {
        !within_any(mount, &self.excluded)
            && !self.patterns.leaves_out_within(mount, true)
            && self.wants.iter().any(|want| {
                want.extent == Extent::Whole
                    && (is_within(mount, &want.path) || is_within(&want.path, mount))
                    || want.extent == Extent::Changed
                        && self
                            .whole_within
                            .iter()
                            .any(|whole| is_within(mount, whole))
            })
    }
}

/// Paths in the order of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ordered(Vec<u8>);

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        vault::compare_paths(&self.0, &other.0)
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

fn want(wants: &mut BTreeMap<Ordered, Extent>, path: Vec<u8>, extent: Extent) {
    let known = wants.entry(Ordered(path)).or_insert(extent);
    *known = (*known).max(extent);
}

fn within_any(path: &[u8], bases: &[Vec<u8>]) -> bool {
    bases.iter().any(|base| is_within(path, base))
}

#[cfg(test)]
mod tests;
