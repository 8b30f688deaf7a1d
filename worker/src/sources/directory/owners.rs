//! Names of users and groups, from /etc/passwd and /etc/group. They are kept for people who look
//! at a backup; restoring goes by the numbers.

use std::{collections::HashMap, path::Path};

/// Names by number, read once a capture.
#[derive(Default)]
pub(super) struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Owners {
    /// Reads this machine's names; without them, there are none.
    pub(super) fn read() -> Self {
        Self {
            users: names(Path::new("/etc/passwd")),
            groups: names(Path::new("/etc/group")),
        }
    }

    /// A user's name; empty when not known.
    pub(super) fn user(&self, uid: u32) -> &str {
        self.users.get(&uid).map_or("", String::as_str)
    }

    /// A group's name; empty when not known.
    pub(super) fn group(&self, gid: u32) -> &str {
        self.groups.get(&gid).map_or("", String::as_str)
    }
}

fn names(path: &Path) -> HashMap<u32, String> {
    let bytes = std::fs::read(path).unwrap_or_default();
    parse(&String::from_utf8_lossy(&bytes))
}

/// Both files have `name:password:number:...` lines; the first name of a number counts.
fn parse(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(_), Some(Ok(number))) = (
            fields.next().filter(|name| !name.is_empty()),
            fields.next(),
            fields.next().map(str::parse),
        ) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_number_counts_and_nonsense_is_passed_over() {
        let names =
            parse("root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::\n\nbroken\n+::::\nx:y:z\nann:x:7:");
        assert_eq!(names.len(), 2);
        assert_eq!(names[&0], "root");
        assert_eq!(names[&7], "ann");
    }
}
