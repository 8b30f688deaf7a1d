//! The demonstration with an agent that lives in a folder.

use std::{io, path::Path};

use proto::backup::v1::{DirectorySource, DirectoryTarget, restore_plan, source};

use super::{
    compare, made_up,
    steps::{AGENT, COPY, Comparison, Stage, first_backup, restore, second_backup},
};
use crate::{
    error::{CliError, Result},
    output::human,
};

/// Runs it.
pub async fn run(stage: &mut Stage) -> Result<Comparison> {
    let root = stage.agents.join(AGENT);
    let copy = stage.agents.join(COPY);
    let made = root.clone();
    let entries = blocking("make up an agent", move || {
        made_up::make(&made)?;
        compare::entries(&made)
    })
    .await?;
    stage.say(
        "Agent",
        format!(
            "{AGENT}: {}: source, a memory database, logs, weights, links, a sparse file",
            human::plural(entries.len() as u64, "entry", "entries"),
        ),
    );
    first_backup(
        stage,
        source::Kind::Directory(DirectorySource { path: text(&root)? }),
    )
    .await?;

    let changed = root.clone();
    blocking("work on the agent", move || made_up::work_an_hour(&changed)).await?;
    stage.say(
        "An hour later",
        "70 pages of its memory, a log, 12 files, a folder have changed",
    );
    let backup = second_backup(stage).await?;

    let target = restore_plan::Target::Directory(DirectoryTarget { path: text(&copy)? });
    restore(stage, &backup, target).await?;
    let (differences, entries) = blocking("compare the copy", move || {
        Ok((
            compare::differences(&root, &copy)?,
            compare::entries(&root)?.len(),
        ))
    })
    .await?;
    let of_each = "bytes, modes, owners, times, links and holes";
    Ok(Comparison {
        differences,
        entries,
        of_each,
    })
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_string).ok_or_else(|| {
        CliError::usage(format!(
            "{} is not UTF-8: name another --dir",
            path.display()
        ))
    })
}

/// Work on files, beside the runtime.
pub async fn blocking<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| CliError::io(doing, &error))
}
