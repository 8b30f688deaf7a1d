//! What the new agent has not quite as the backup has it: a bounded list, and things that are the
//! same for many entries said once.

use std::collections::BTreeMap;

use crate::{files::show, targets::WARNINGS_MAX};

/// Warnings of one restore.
#[derive(Default)]
pub(super) struct Warnings {
    listed: Vec<String>,
    omitted: u64,
    /// Entries by what is the matter with all of them, with the first one's path.
    common: BTreeMap<&'static str, (u64, String)>,
}

impl Warnings {
    /// Notes something.
    pub(super) fn add(&mut self, message: impl Into<String>) {
        // The last places are for what concerns many entries, and for the count of the others.
        if self.listed.len() < WARNINGS_MAX - 10 {
            self.listed.push(message.into());
        } else {
            self.omitted += 1;
        }
    }

    /// Notes something about one entry.
    pub(super) fn add_about(&mut self, path: &[u8], message: &str) {
        self.add(format!("{} {message}", show(path)));
    }

    /// Notes something that concerns this entry like many others.
    pub(super) fn add_common(&mut self, path: &[u8], message: &'static str) {
        let (count, _) = self
            .common
            .entry(message)
            .or_insert_with(|| (0, show(path)));
        *count += 1;
    }

    /// All of them, in words.
    pub(super) fn into_messages(self) -> Vec<String> {
        let mut messages: Vec<String> = self
            .common
            .into_iter()
            .map(|(message, (count, first))| match count {
                1 => format!("{first} {message}"),
                count => format!("{first} and {} more: {message}", count - 1),
            })
            .collect();
        messages.extend(self.listed);
        messages.truncate(WARNINGS_MAX - 1);
        if self.omitted > 0 {
            messages.push(format!("{} more warnings are not listed", self.omitted));
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_said_once() {
        let mut warnings = Warnings::default();
        for number in 0..500 {
            warnings.add_about(format!("file {number}").as_bytes(), "is odd");
            warnings.add_common(b"x", "belongs to the worker's user");
        }
        let messages = warnings.into_messages();
        assert!(messages.len() <= WARNINGS_MAX);
        assert_eq!(
            messages[0],
            "\"x\" and 499 more: belongs to the worker's user"
        );
        assert_eq!(messages.last().unwrap(), "410 more warnings are not listed");
    }
}
