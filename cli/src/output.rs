//! Where results and remarks go.
//!
//! Results go to standard output, everything else to standard error. With
//! `--json` a result is one document (or one line an event); with `--quiet`
//! remarks and progress are left out.

pub mod human;
pub mod json;
pub mod table;

use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

use crate::error::{CliError, Result};

/// How results are shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Output {
    /// Machine-readable.
    pub json: bool,
    /// Only what was asked for.
    pub quiet: bool,
}

impl Output {
    /// Writes one line of the result.
    pub fn line(self, text: impl AsRef<str>) -> Result<()> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_ref().as_bytes())
            .and_then(|()| stdout.write_all(b"\n"))
            .map_err(|error| CliError::io("write to standard output", &error))
    }

    /// Writes a part of the result, without an end of line.
    pub fn part(self, text: &str) -> Result<()> {
        io::stdout()
            .lock()
            .write_all(text.as_bytes())
            .map_err(|error| CliError::io("write to standard output", &error))
    }

    /// Writes the result as one document, indented.
    pub fn document(self, value: &Value) -> Result<()> {
        self.line(format!("{value:#}"))
    }

    /// Writes one event as one line.
    pub fn event(self, value: &Value) -> Result<()> {
        self.line(value.to_string())
    }

    /// Writes a remark, for people: not with `--json` or `--quiet`.
    pub fn note(self, text: impl AsRef<str>) {
        if !self.json && !self.quiet {
            // A closed standard error must not end the work.
            let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
        }
    }

    /// Writes a line of a result that only people read: not with `--json` or
    /// `--quiet`.
    pub fn tell(self, text: impl AsRef<str>) {
        if !self.json && !self.quiet {
            // Whoever stops reading does not stop the work.
            let _ = writeln!(io::stdout().lock(), "{}", text.as_ref());
        }
    }

    /// Writes an error; the process ends after it.
    pub fn error(self, error: &CliError) {
        if error.message.is_empty() {
            return;
        }
        let mut stderr = io::stderr().lock();
        let _ = if self.json {
            writeln!(stderr, "{}", error.to_json())
        } else {
            writeln!(stderr, "{error}")
        };
    }

    /// Asks before something that can't be undone. Only a person at a terminal
    /// is asked; a script has decided already.
    pub fn confirm(self, question: &str) -> Result<()> {
        if self.json || self.quiet || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(());
        }
        let _ = write!(io::stderr().lock(), "{question} [y/N] ");
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .map_err(|error| CliError::io("read the answer", &error))?;
        if matches!(answer.trim(), "y" | "Y" | "yes" | "Yes") {
            return Ok(());
        }
        Err(CliError::failed("nothing was done"))
    }
}
