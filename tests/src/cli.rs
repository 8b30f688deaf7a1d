//! Runs `nora-backup` commands and reads what they print.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{api, place, standalone::Standalone};

/// The command line, as one user of a standalone.
pub struct Cli {
    url: String,
    admin_url: String,
    token: String,
    home: std::path::PathBuf,
}

impl Cli {
    /// For this user and role.
    pub fn new(standalone: &Standalone, user: &str, role: &str) -> Self {
        Self {
            url: standalone.url(),
            admin_url: standalone.admin_url(),
            token: api::token(user, role),
            home: standalone.outside_dir("home"),
        }
    }

    /// Runs a command, however it ends.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = command(&self.home)?;
        command
            .env("NORA_BACKUP_SERVER", &self.url)
            .env("NORA_BACKUP_ADMIN_SERVER", &self.admin_url)
            .env("NORA_BACKUP_TOKEN", &self.token);
        command
            .args(arguments)
            .output()
            .with_context(|| format!("run nora-backup {}", arguments.join(" ")))
    }

    /// Runs a command that must succeed; returns what it printed.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        if !output.status.success() {
            bail!(
                "nora-backup {}: {}\n{}",
                arguments.join(" "),
                output.status,
                said(&output)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a command with `--json` that must succeed; returns its last line, or
    /// its whole answer.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ok(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text)
            .or_else(|_| serde_json::from_str(text.lines().last().unwrap_or_default()))
            .with_context(|| {
                format!(
                    "nora-backup {} printed no JSON: {text}",
                    arguments.join(" ")
                )
            })
    }
}

/// The program, apart from this user's own settings.
pub fn command(home: &Path) -> Result<Command> {
    let mut command = Command::new(place::program()?);
    command
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null());
    Ok(command)
}

/// Both outputs as text.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
