//! Commands in the container around its capture, and never owing it the one afterwards.
//!
//! What has to be run afterwards is noted in the catalog before the one before is begun, so that
//! a later attempt, or the clearing up after dead workers, runs it when this worker can't any
//! more.

use std::{sync::Arc, time::Duration};

use bollard::exec::{CreateExecOptions, StartExecResults};
use catalog::AfterHook;
use futures::StreamExt as _;
use proto::backup::v1::{HookCommand, Hooks};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use vault::BackupWriter;

use super::{
    engine::{Engine, EngineError, limited},
    engine_failed,
};
use crate::sources::{CaptureContext, SourceError, UndoLog};

/// How long a command may take that names no time.
const TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);
/// The longest time that a command may name.
const TIMEOUT_MAX: Duration = Duration::from_mins(10);
/// What is kept of what a command says.
const TAIL_BYTES_MAX: usize = 4_096;
const TAIL_LINES_MAX: usize = 10;
/// How often the engine is asked whether a command that says nothing more has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a command may take.
pub(crate) fn time_limit(command: &HookCommand) -> Duration {
    command
        .timeout
        .and_then(|limit| Duration::try_from(limit).ok())
        .filter(|limit| !limit.is_zero())
        .map_or(TIMEOUT_DEFAULT, |limit| limit.min(TIMEOUT_MAX))
}

/// A container whose command before was begun: the one after is run when this ends, whichever
/// way.
pub(super) struct Hooked {
    runtime: Handle,
    engine: Engine,
    container: String,
    log: Arc<dyn UndoLog>,
    after: Option<HookCommand>,
}

impl Hooked {
    /// Runs the command before.
    pub(super) fn begin(
        runtime: &Handle,
        engine: &Engine,
        container: &str,
        hooks: &Hooks,
        context: &CaptureContext,
        writer: &mut BackupWriter,
    ) -> Result<Self, SourceError> {
        if let Some(after) = &hooks.after {
            let owed = AfterHook {
                container: container.to_owned(),
                command: Some(after.clone()),
            };
            runtime.block_on(context.undo.note_after(Some(&owed)))?;
        }
        let hooked = Self {
            runtime: runtime.clone(),
            engine: engine.clone(),
            container: container.to_owned(),
            log: context.undo.clone(),
            after: hooks.after.clone(),
        };
        fail::fail_point!("worker-before-hook");
        if let Some(before) = &hooks.before {
            let ended = runtime.block_on(run(engine, container, before, Some(&context.cancel)));
            match ended.map_err(engine_failed)? {
                Ended::Well => {}
                Ended::Canceled => return Err(SourceError::Canceled),
                Ended::Badly(how) => {
                    let message = format!("the command before the backup {how}");
                    if !hooks.continue_on_error {
                        return Err(SourceError::HookFailed(message));
                    }
                    writer.warn(b"", format!("{message} (the backup was made all the same)"));
                }
            }
        }
        fail::fail_point!("worker-hooked");
        Ok(hooked)
    }

    /// Runs the command after; that it failed becomes a warning.
    pub(super) fn end(mut self, writer: &mut BackupWriter) -> Result<(), SourceError> {
        if let Some(how) = self.run_after()? {
            writer.warn(b"", format!("the command after the backup {how}"));
        }
        Ok(())
    }

    fn run_after(&mut self) -> Result<Option<String>, SourceError> {
        let Some(command) = self.after.take() else {
            return Ok(None);
        };
        self.runtime.block_on(async {
            let how = run_owed(&self.engine, &self.container, &command)
                .await
                .map_err(engine_failed)?;
            self.log.note_after(None).await?;
            Ok(how)
        })
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        let container = self.container.clone();
        match self.run_after() {
            Ok(None) => {}
            Ok(Some(_)) => tracing::warn!(container, "the command after a backup failed"),
            // It stays noted in the catalog.
            Err(error) => tracing::error!(container, %error, "run the command after a backup"),
        }
    }
}

/// Runs a command that a container is owed; what went wrong, if anything. An error means that it
/// has to be tried again.
pub(super) async fn run_owed(
    engine: &Engine,
    container: &str,
    command: &HookCommand,
) -> Result<Option<String>, EngineError> {
    match run(engine, container, command, None).await? {
        Ended::Badly(how) => Ok(Some(how)),
        Ended::Well | Ended::Canceled => Ok(None),
    }
}

/// How a command ended.
enum Ended {
    Well,
    /// With this, as the end of a sentence about it.
    Badly(String),
    /// It was not waited for any longer.
    Canceled,
}

/// Runs a command in a container and waits for its end.
async fn run(
    engine: &Engine,
    container: &str,
    command: &HookCommand,
    cancel: Option<&CancellationToken>,
) -> Result<Ended, EngineError> {
    let work = run_to_end(engine, container, command);
    let ended = match cancel {
        Some(cancel) => match cancel.run_until_cancelled(work).await {
            Some(ended) => ended,
            None => return Ok(Ended::Canceled),
        },
        None => work.await,
    };
    match ended {
        // The container is gone or stopped, or has no such program or user.
        Err(EngineError::Refused { message, .. }) => Ok(Ended::Badly(format!(
            "({}) was not run: {message}",
            program(command)
        ))),
        ended => ended,
    }
}

async fn run_to_end(
    engine: &Engine,
    container: &str,
    command: &HookCommand,
) -> Result<Ended, EngineError> {
    let limit = time_limit(command);
    let deadline = Instant::now() + limit;
    let options = CreateExecOptions {
        cmd: Some(command.argv.clone()),
        user: (!command.user.is_empty()).then(|| command.user.clone()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let call = engine.docker().create_exec(container, options);
    let exec = limited("prepare a command", call).await?.id;
    let call = engine.docker().start_exec(&exec, None);
    let mut tail = Tail::default();
    if let StartExecResults::Attached { mut output, .. } = limited("run a command", call).await? {
        loop {
            match timeout_at(deadline, output.next()).await {
                Ok(Some(Ok(piece))) => tail.add(&piece.into_bytes()),
                Ok(Some(Err(error))) => return Err(EngineError::of("run a command", error)),
                Ok(None) => break,
                Err(_) => return Ok(too_slow(command, limit, &tail)),
            }
        }
    }
    loop {
        let call = engine.docker().inspect_exec(&exec);
        let state = limited("look at a command", call).await?;
        match state.exit_code {
            Some(0) if state.running != Some(true) => return Ok(Ended::Well),
            Some(code) if state.running != Some(true) => {
                return Ok(Ended::Badly(format!(
                    "({}) ended with exit code {code}{}",
                    program(command),
                    tail.said()
                )));
            }
            _ if Instant::now() + LOOK_EVERY >= deadline => {
                return Ok(too_slow(command, limit, &tail));
            }
            _ => sleep(LOOK_EVERY).await,
        }
    }
}

fn too_slow(command: &HookCommand, limit: Duration, tail: &Tail) -> Ended {
    Ended::Badly(format!(
        "({}) took longer than {} s, and goes on in the container{}",
        program(command),
        limit.as_secs(),
        tail.said()
    ))
}

/// What is told of a command: its arguments may hold secrets.
fn program(command: &HookCommand) -> String {
    let program = command.argv.first().map_or("", String::as_str);
    program
        .chars()
        .filter(|char| !char.is_control())
        .take(100)
        .collect()
}

/// The last that a command said.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn add(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
        let excess = self.0.len().saturating_sub(TAIL_BYTES_MAX);
        self.0.drain(..excess);
    }

    /// The last lines, for the end of a message.
    fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let text: String = text
            .chars()
            .filter(|char| *char == '\n' || *char == '\t' || !char.is_control())
            .collect();
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES_MAX)..];
        if last.is_empty() {
            "; it said nothing".to_owned()
        } else {
            format!("; it said last:\n{}", last.join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_without_control_characters() {
        let mut tail = Tail::default();
        assert_eq!(tail.said(), "; it said nothing");
        for number in 0..5_000 {
            tail.add(format!("line \x1b[31m{number}\r\n\n").as_bytes());
        }
        assert!(tail.0.len() <= TAIL_BYTES_MAX);
        let said = tail.said();
        assert_eq!(said.lines().count(), 1 + TAIL_LINES_MAX);
        assert!(
            said.starts_with("; it said last:\nline [31m4990\n"),
            "{said}"
        );
        assert!(said.ends_with("line [31m4999"));
    }

    #[test]
    fn times_have_a_default_and_a_limit() {
        let limit = |seconds| {
            time_limit(&HookCommand {
                timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
                ..HookCommand::default()
            })
        };
        assert_eq!(time_limit(&HookCommand::default()), TIMEOUT_DEFAULT);
        assert_eq!(limit(0), TIMEOUT_DEFAULT);
        assert_eq!(limit(-5), TIMEOUT_DEFAULT);
        assert_eq!(limit(5), Duration::from_secs(5));
        assert_eq!(limit(86_400), TIMEOUT_MAX);
    }
}
