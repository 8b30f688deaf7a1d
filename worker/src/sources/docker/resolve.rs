//! Where the links in a path lead: backups name everything by where it really is.

use std::collections::{BTreeSet, HashMap};

use bollard::{container::PathStatResponse, models::MountPoint};

use super::paths::{absolute, join, relative};
use crate::sources::SourceError;

/// As Go has it.
const SYMLINK: u32 = 1 << 27;
/// Links that one path may lead through.
const LINKS_MAX: usize = 40;

/// Looks paths up, each once.
pub(super) struct Resolver<F> {
    look: F,
    known: HashMap<Vec<u8>, Found>,
    links: BTreeSet<Vec<u8>>,
}

#[derive(Clone)]
enum Found {
    Nothing,
    Link(Vec<u8>),
    Other,
}

/// What became of the registered paths.
#[derive(Default)]
pub(super) struct Registered {
    /// Where they really are.
    pub(super) paths: Vec<Vec<u8>>,
    /// Links that lead nowhere.
    pub(super) links: Vec<Vec<u8>>,
    /// Not in the container.
    pub(super) missing: Vec<Vec<u8>>,
}

impl<F> Resolver<F>
where
    F: FnMut(&str) -> Result<Option<PathStatResponse>, SourceError>,
{
    /// `look` says what is at an absolute path, links not followed.
    pub(super) fn new(look: F) -> Self {
        Self {
            look,
            known: HashMap::new(),
            links: BTreeSet::new(),
        }
    }

    /// Links that were met on the way.
    pub(super) fn into_links(self) -> Vec<Vec<u8>> {
        self.links.into_iter().collect()
    }

    /// Where mounts really are, by their targets.
    pub(super) fn mounts(
        &mut self,
        mounts: &[MountPoint],
    ) -> Result<HashMap<String, Vec<u8>>, SourceError> {
        let mut places = HashMap::new();
        for target in mounts.iter().filter_map(|mount| mount.destination.as_ref()) {
            let place = match self.resolve(&relative(target))? {
                Resolved::There(place) => place,
                Resolved::Dangling | Resolved::Nothing => relative(target),
            };
            places.insert(target.clone(), place);
        }
        Ok(places)
    }

    /// Where registered paths really are.
    pub(super) fn registered(&mut self, paths: &[String]) -> Result<Registered, SourceError> {
        let mut registered = Registered::default();
        for path in paths {
            let path = relative(path);
            match self.resolve(&path)? {
                Resolved::There(place) => registered.paths.push(place),
                Resolved::Dangling => registered.links.push(path),
                Resolved::Nothing => registered.missing.push(path),
            }
        }
        Ok(registered)
    }

    fn resolve(&mut self, path: &[u8]) -> Result<Resolved, SourceError> {
        let mut place = Vec::new();
        let mut links = 0;
        let mut components = path.split(|byte| *byte == b'/').peekable();
        while let Some(component) = components.next() {
            place = join(&place, component);
            while let Found::Link(target) = self.find(&place)? {
                self.links.insert(place.clone());
                links += 1;
                if links > LINKS_MAX {
                    return Ok(Resolved::Nothing);
                }
                place = target;
            }
            if matches!(self.find(&place)?, Found::Nothing) {
                return Ok(if links > 0 && components.peek().is_none() {
                    Resolved::Dangling
                } else {
                    Resolved::Nothing
                });
            }
        }
        Ok(Resolved::There(place))
    }

    fn find(&mut self, path: &[u8]) -> Result<Found, SourceError> {
        if let Some(found) = self.known.get(path) {
            return Ok(found.clone());
        }
        let found = match (self.look)(&absolute(path))? {
            None => Found::Nothing,
            Some(stat) if stat.file_mode & SYMLINK != 0 => {
                let target = relative(&stat.link_target);
                if target == path {
                    Found::Nothing
                } else {
                    Found::Link(target)
                }
            }
            Some(_) => Found::Other,
        };
        self.known.insert(path.to_vec(), found.clone());
        Ok(found)
    }
}

enum Resolved {
    There(Vec<u8>),
    /// A link that leads nowhere.
    Dangling,
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(
        links: &'static [(&str, &str)],
        there: &'static [&str],
    ) -> Resolver<impl FnMut(&str) -> Result<Option<PathStatResponse>, SourceError>> {
        Resolver::new(move |path| {
            let link = links.iter().find(|(from, _)| *from == path);
            let is_there = link.is_some() || there.contains(&path);
            Ok(is_there.then(|| PathStatResponse {
                name: String::new(),
                size: 0,
                file_mode: if link.is_some() { SYMLINK } else { 0 },
                modification_time: None,
                link_target: link.map_or("", |(_, to)| to).to_owned(),
            }))
        })
    }

    #[test]
    fn links_are_followed_and_remembered() {
        let mut resolver = resolver(
            &[
                ("/app", "/opt/app"),
                ("/var/run", "/run"),
                ("/dead", "/nowhere"),
            ],
            &[
                "/",
                "/opt",
                "/opt/app",
                "/opt/app/x",
                "/var",
                "/run",
                "/run/db",
            ],
        );
        let paths = ["/app/x", "/var/run/db/", "/dead", "/gone", "/"].map(str::to_owned);
        let found = resolver.registered(&paths).unwrap();
        assert_eq!(found.paths, [&b"opt/app/x"[..], b"run/db", b""]);
        assert_eq!(found.links, [b"dead"]);
        assert_eq!(found.missing, [b"gone"]);
        assert_eq!(resolver.into_links(), [&b"app"[..], b"dead", b"var/run"]);
    }

    #[test]
    fn links_in_a_circle_lead_nowhere() {
        let mut resolver = resolver(&[("/a", "/b"), ("/b", "/a")], &["/"]);
        let found = resolver.registered(&["/a".to_owned()]).unwrap();
        assert_eq!(found.missing.len() + found.links.len(), 1);
    }
}
