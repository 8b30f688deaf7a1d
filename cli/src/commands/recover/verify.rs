//! `recover verify`: what is wrong with an agent's backups.

use clap::Args;
use serde_json::json;
use vault::{FoundBackup, RecoveredVault, VerifyDepth, VerifyReport};

use super::{list::partial_if, place::Place, work::Work};
use crate::{
    error::Result,
    output::{Output, human},
};

/// Arguments of `recover verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The agent, for all of its backups, or AGENT@BACKUP
    #[arg(value_name = "AGENT[@BACKUP]")]
    named: String,
    /// Read and check every byte, not only what describes the backups
    #[arg(long)]
    full: bool,
}

/// Verifies. Ends with 7 when something is wrong.
pub(super) async fn run(place: &Place, args: &VerifyArgs, out: Output) -> Result<()> {
    let (vault, backups) = if args.named.contains('@') {
        let chosen = place.backup(&args.named).await?;
        let found = chosen.vault.backups().await?;
        let mut found: Vec<FoundBackup> = found
            .into_iter()
            .filter(|found| found.backup_id == chosen.at.backup_id)
            .collect();
        found.truncate(1);
        (chosen.vault, found)
    } else {
        let vault = place.vault(&args.named).await?;
        let found = vault.backups().await?;
        (vault, found)
    };
    let depth = if args.full {
        VerifyDepth::Full
    } else {
        VerifyDepth::Structure
    };
    let mut documents = Vec::new();
    let mut wrong = !vault.damage().is_empty();
    for fault in vault.damage() {
        out.note(format!("damaged: {}", human::printable(&fault.to_string())));
    }
    for backup in backups {
        let report = verify(&vault, &backup, depth, out).await?;
        wrong |= !report.faults.is_empty();
        if out.json {
            documents.push(json!({
                "backup_id": backup.backup_id,
                "right": report.faults.is_empty(),
                "entries": report.entries,
                "bytes": report.bytes,
                "faults": report.faults,
            }));
            continue;
        }
        if report.faults.is_empty() {
            let read = if args.full {
                format!("every byte is right, {}", human::bytes(report.bytes))
            } else {
                "what describes it is right".to_owned()
            };
            out.tell(format!(
                "{}  {read}, {}",
                human::printable(&backup.backup_id),
                human::plural(report.entries, "entry", "entries")
            ));
        } else {
            out.line(format!("{}  damaged", human::printable(&backup.backup_id)))?;
            for fault in &report.faults {
                out.line(format!("  {}", human::printable(fault)))?;
            }
        }
    }
    if out.json {
        let depth = if args.full { "full" } else { "structure" };
        let damage: Vec<String> = vault.damage().iter().map(ToString::to_string).collect();
        out.document(&json!({
            "agent_id": vault.agent_id(),
            "depth": depth,
            "damage": damage,
            "backups": documents,
        }))?;
    }
    partial_if(wrong)
}

async fn verify(
    vault: &RecoveredVault,
    backup: &FoundBackup,
    depth: VerifyDepth,
    out: Output,
) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    if let Some(at) = &backup.at {
        let work = Work::default();
        report = match vault.open_strictly(at, work.cancel.clone()).await {
            Ok(reader) => {
                let counters = work.counters.clone();
                let what = format!("verify {}", human::printable(&backup.backup_id));
                work.block(out, &what, move || Ok(reader.verify(depth, counters)?))
                    .await?
            }
            Err(error) if error.is_fault() => VerifyReport {
                faults: vec![error.to_string()],
                ..VerifyReport::default()
            },
            Err(error) => return Err(error.into()),
        };
    }
    let damage = backup.damage.iter().map(ToString::to_string);
    report.faults.extend(damage);
    Ok(report)
}
