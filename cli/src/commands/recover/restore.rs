//! `recover restore`: a backup to a new folder, as much of it as is left.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use serde_json::{Value, json};
use worker::targets::{
    TargetError,
    directory::salvage::{FolderSpec, Loss, LossLog, restore_to_folder},
};

use super::{document, list::partial_if, place::Place, work::Work};
use crate::{
    error::{CliError, Result},
    exit::Exit,
    output::{Output, human},
};

/// Arguments of `recover restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup: AGENT@BACKUP, AGENT@latest, or AGENT for its latest
    #[arg(value_name = "AGENT@BACKUP")]
    named: String,
    /// The folder to make; it must not exist, or be empty
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// Make device files too (only root can)
    #[arg(long)]
    devices: bool,
}

/// Restores. Ends with 7 when something was left out.
pub(super) async fn run(place: &Place, args: RestoreArgs, out: Output) -> Result<()> {
    let folder = std::path::absolute(&args.to)
        .map_err(|error| CliError::io(format!("find {}", args.to.display()), &error))?;
    let chosen = place.backup(&args.named).await?;
    let beside = document::path_for(&folder, &chosen.manifest)?;
    let work = Work::default();
    let opened = chosen.vault.open_salvaging(&chosen.at, work.cancel.clone());
    let (reader, damage) = opened.await?;
    for fault in chosen.vault.damage().iter().chain(&damage) {
        out.note(format!(
            "damaged, gone around where possible: {}",
            human::printable(&fault.to_string())
        ));
    }
    let losses: Arc<Mutex<Vec<Loss>>> = Arc::default();
    let noted = losses.clone();
    let spec = FolderSpec {
        path: folder.clone(),
        devices: args.devices,
        cancel: work.cancel.clone(),
        meter: work.counters.clone(),
        lost: LossLog::new(move |loss| {
            out.note(format!("lost: {}", words(&loss)));
            noted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(loss);
        }),
    };
    let what = format!("restore {}", human::printable(&chosen.manifest.backup_id));
    let restore = async { Ok(restore_to_folder(reader, spec).await?) };
    let warnings = work.drive(out, &what, restore).await?;
    if let Some(path) = &beside {
        document::write(path, &chosen.manifest)?;
    }
    let losses = std::mem::take(&mut *losses.lock().unwrap_or_else(PoisonError::into_inner));
    if out.json {
        let lost: Vec<Value> = losses.iter().map(loss_json).collect();
        let damage: Vec<String> = chosen
            .vault
            .damage()
            .iter()
            .chain(&damage)
            .map(ToString::to_string)
            .collect();
        out.document(&json!({
            "agent_id": chosen.manifest.agent_id,
            "backup_id": chosen.manifest.backup_id,
            "folder": folder.to_string_lossy(),
            "document": beside.as_ref().map(|path| path.to_string_lossy()),
            "complete": losses.is_empty(),
            "warnings": warnings,
            "damage": damage,
            "lost": lost,
        }))?;
    } else {
        for warning in &warnings {
            out.note(format!("note: {}", human::printable(warning)));
        }
        let lost = match losses.len() as u64 {
            0 => "everything is there".to_owned(),
            n => format!(
                "all but {}",
                human::plural(n, "thing named above", "things named above")
            ),
        };
        out.tell(format!("{}: {lost}", folder.display()));
        if let Some(path) = &beside {
            out.tell(format!(
                "{}: how it ran, and its integrations",
                path.display()
            ));
        }
    }
    partial_if(!losses.is_empty())
}

fn words(loss: &Loss) -> String {
    let shown = |path: &[u8]| human::printable(&String::from_utf8_lossy(path));
    match loss {
        Loss::Entry { path, reason } => format!("{}: {}", shown(path), human::printable(reason)),
        Loss::Entries { after, reason } if after.is_empty() => {
            format!(
                "the first entries, by name too: {}",
                human::printable(reason)
            )
        }
        Loss::Entries { after, reason } => format!(
            "entries after {}, by name too: {}",
            shown(after),
            human::printable(reason)
        ),
    }
}

fn loss_json(loss: &Loss) -> Value {
    match loss {
        Loss::Entry { path, reason } => {
            json!({"path": String::from_utf8_lossy(path), "reason": reason})
        }
        Loss::Entries { after, reason } => {
            json!({"entries_after": String::from_utf8_lossy(after), "reason": reason})
        }
    }
}

impl From<TargetError> for CliError {
    fn from(error: TargetError) -> Self {
        let exit = match error {
            TargetError::Vault(error) => return error.into(),
            TargetError::Canceled => Exit::Interrupted,
            TargetError::Unusable(_) => Exit::Refused,
            _ => Exit::Failed,
        };
        let mut said = Self::new(exit, error.to_string());
        said.reason = Some(error.reason().to_owned());
        said
    }
}
