//! What is left out of an agent's backups: lines of a `.gitignore` file at the
//! top of the agent. A pure calculation, the same for whoever checks patterns
//! and for whoever applies them.
//!
//! The last pattern that matches decides; `!` takes back in. What lies below a
//! folder that is left out is left out, whatever else matches it. The top itself
//! never is.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Patterns of one agent at the most.
pub const PATTERNS_MAX: usize = 100;
/// Longest pattern.
pub const PATTERN_BYTES_MAX: usize = 1_024;

/// The patterns of one agent, ready to be asked.
#[derive(Clone, Debug)]
pub struct Patterns(Gitignore);

/// A pattern that can't be used.
#[derive(Debug, PartialEq, Eq)]
pub struct BadPattern {
    /// Which one, from 0.
    pub index: usize,
    /// What is wrong with it, as the end of a sentence about it.
    pub why: String,
}

impl Default for Patterns {
    fn default() -> Self {
        Self(Gitignore::empty())
    }
}

impl Patterns {
    /// Reads patterns; says which is the first that can't be used.
    pub fn new(lines: &[String]) -> Result<Self, BadPattern> {
        if lines.len() > PATTERNS_MAX {
            return Err(BadPattern {
                index: PATTERNS_MAX,
                why: format!("is one too many: at most {PATTERNS_MAX} are allowed"),
            });
        }
        for (index, line) in lines.iter().enumerate() {
            let bad = |why| BadPattern { index, why };
            check(line).map_err(|why| bad(why.to_owned()))?;
            // By itself first, so that what is wrong can be told apart.
            read(std::slice::from_ref(line)).map_err(bad)?;
        }
        let last = lines.len().saturating_sub(1);
        let all = read(lines).map_err(|why| BadPattern { index: last, why })?;
        Ok(Self(all))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a path (relative to the top) is left out, when none of the folders
    /// above it is.
    pub fn leaves_out(&self, path: &[u8], is_folder: bool) -> bool {
        !self.is_empty()
            && !path.is_empty()
            && self
                .0
                .matched(Path::new(OsStr::from_bytes(path)), is_folder)
                .is_ignore()
    }

    /// Whether a path is left out, or a folder above it.
    pub fn leaves_out_within(&self, path: &[u8], is_folder: bool) -> bool {
        !self.is_empty() && (self.leaves_out_above(path) || self.leaves_out(path, is_folder))
    }

    /// Whether a folder above a path is left out.
    pub fn leaves_out_above(&self, path: &[u8]) -> bool {
        !self.is_empty()
            && path
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b'/')
                .any(|(end, _)| self.leaves_out(&path[..end], true))
    }
}

/// What no pattern may be.
fn check(line: &str) -> Result<(), &'static str> {
    if line.len() > PATTERN_BYTES_MAX {
        return Err("is longer than 1,024 bytes");
    }
    if line.chars().any(char::is_control) {
        return Err("holds control characters");
    }
    if line.trim().is_empty() {
        return Err("is empty");
    }
    if line.starts_with('#') {
        return Err("is a comment; write \\# for a name that begins with #");
    }
    if matches!(line.trim_start_matches('!').trim_matches('/').trim(), "") {
        return Err("names nothing");
    }
    Ok(())
}

fn read(lines: &[String]) -> Result<Gitignore, String> {
    let why = |error: ignore::Error| match error {
        ignore::Error::Glob { err, .. } => format!("can't be read: {err}"),
        error => format!("can't be read: {error}"),
    };
    let mut builder = GitignoreBuilder::new("");
    for line in lines {
        builder.add_line(None, &literal_braces(line)).map_err(why)?;
    }
    builder.build().map_err(why)
}

/// Git knows no `{a,b}`; the library does.
fn literal_braces(line: &str) -> String {
    let mut literal = String::with_capacity(line.len());
    let (mut escaped, mut in_class) = (false, false);
    for char in line.chars() {
        if !escaped && !in_class && matches!(char, '{' | '}') {
            literal.push('\\');
        }
        if !escaped {
            match char {
                '[' => in_class = true,
                ']' => in_class = false,
                _ => {}
            }
        }
        escaped = char == '\\' && !escaped;
        literal.push(char);
    }
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(lines: &[&str]) -> Patterns {
        Patterns::new(
            &lines
                .iter()
                .map(|line| (*line).to_owned())
                .collect::<Vec<_>>(),
        )
        .unwrap()
    }

    #[test]
    fn they_mean_what_git_means() {
        let cases: &[(&[&str], &str, bool, bool)] = &[
            (&["*.log"], "a/b.log", false, true),
            (&["*.log"], "a/b.logs", false, false),
            (&["/top"], "top", false, true),
            (&["/top"], "a/top", false, false),
            (&["a/b"], "a/b", false, true),
            (&["a/b"], "x/a/b", false, false),
            (&["a/**/b"], "a/x/y/b", false, true),
            (&["cache/"], "x/cache", true, true),
            (&["cache/"], "x/cache", false, false),
            (&["cache/"], "x/cache/deep/er", false, true),
            (&["*", "!keep"], "keep", false, false),
            (&["*", "!keep"], "drop", false, true),
            // The parent-directory rule: nothing comes back in from below.
            (&["logs/", "!logs/keep"], "logs/keep", false, true),
            (&["logs/*", "!logs/keep"], "logs/keep", false, false),
            (&["!x", "x"], "x", false, true),
            (&["\\#x"], "#x", false, true),
            (&["\\!x"], "!x", false, true),
            (&["a?c"], "abc", false, true),
            (&["a?c"], "a/c", false, false),
            (&["a{b,c}"], "ab", false, false),
            (&["a{b,c}"], "a{b,c}", false, true),
            (&["[ab]x"], "bx", false, true),
        ];
        for (lines, path, is_folder, expected) in cases {
            assert_eq!(
                patterns(lines).leaves_out_within(path.as_bytes(), *is_folder),
                *expected,
                "{lines:?} {path}"
            );
        }
    }

    #[test]
    fn the_top_and_odd_names_are_no_trouble() {
        let all = patterns(&["*"]);
        assert!(!all.leaves_out_within(b"", true));
        assert!(all.leaves_out_within(b"\xff\xfe", false));
        assert!(!Patterns::default().leaves_out_within(b"x", false));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_index() {
        let bad = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            Patterns::new(&lines).unwrap_err()
        };
        for line in ["", "  ", "# x", "/", "!", "[z-a]", "x\\", "a\nb", "a\0"] {
            let found = bad(&["fine", line]);
            assert_eq!(found.index, 1, "{line:?}: {found:?}");
        }
        assert_eq!(bad(&[&"x".repeat(1025)]).index, 0);
        assert_eq!(bad(&["x"; 101]).index, 100);
    }
}
