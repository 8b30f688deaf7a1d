//! `recover catalog`: a lost database made again from the vaults.

use catalog::{
    Adopt, Adopted, BackupResult, Catalog, CatalogError, CatalogSettings, DEFAULT_DESTINATION,
    NewAgent, RecoveredAgent, RecoveredBackup,
};
use clap::Args;
use prost::Message as _;
use proto::{
    backup::v1::{BackupWarning, Integration, Source},
    ids,
    vault::v1::Manifest,
};
use serde_json::{Value, json};
use vault::{FoundBackup, VaultError};

use super::{list::partial_if, place::Place, registered::Registered};
use crate::{
    error::{CliError, Result},
    exit::Exit,
    output::{Output, human},
};

/// Arguments of `recover catalog`.
#[derive(Debug, Args)]
pub struct CatalogArgs {
    /// The database.
    #[command(flatten)]
    catalog: CatalogSettings,
    /// The id of the destination that is read; a new one is added as the settings describe it
    #[arg(long, default_value = DEFAULT_DESTINATION, value_name = "ID", value_parser = new_id)]
    destination: String,
    /// Only this agent; may be repeated [default: all]
    #[arg(long = "agent", value_name = "AGENT")]
    agents: Vec<String>,
    /// The pool whose workers reach the agents' sources: vaults do not tell
    #[arg(long, default_value = "default", value_name = "POOL")]
    pool: String,
    /// Say what would be added, and add nothing
    #[arg(long)]
    dry_run: bool,
    /// Where the database knows something different, take what the vaults tell
    #[arg(long)]
    replace: bool,
}

/// An id that a destination may have.
fn new_id(text: &str) -> std::result::Result<String, String> {
    if ids::is_new(text) {
        Ok(text.to_owned())
    } else {
        Err(ids::FORM.to_owned())
    }
}

/// What happened to one agent.
struct Outcome {
    agent_id: String,
    adopted: Adopted,
    /// What of the vault can't be read.
    damage: Vec<String>,
}

/// Rebuilds. Ends with 6 when the database knows different things, with 7 when a
/// vault, or a manifest, can't be read.
pub(super) async fn run(place: &Place, args: &CatalogArgs, out: Output) -> Result<()> {
    if args.catalog.database_url.is_empty() {
        return Err(CliError::usage(
            "NORA_BACKUP_DATABASE_URL is not set: name the database with --database-url, for \
             example sqlite:/srv/nora-backup/catalog.db",
        ));
    }
    let catalog = Catalog::connect(&args.catalog).await.map_err(failed)?;
    catalog.migrate().await.map_err(failed)?;
    let (read, id) = (&place.destination, &args.destination);
    let destination = Registered::look(&catalog, &place.keyring, read, id).await?;
    if let Some(told) = destination.new_one() {
        out.note(told);
    }
    let (found, mut outcomes) = read_vaults(place, args, out).await?;
    let now_ms = jiff::Timestamp::now().as_millisecond();
    // First only look: with one contradiction anywhere, nothing is changed.
    let mut conflicts = Vec::new();
    for (agent, outcome) in found.iter().zip(&mut outcomes) {
        let looked = catalog.adopt(agent, Adopt::Look, now_ms).await;
        outcome.adopted = looked.map_err(failed)?;
        conflicts.extend(outcome.adopted.conflicts.clone());
    }
    let may = args.replace || conflicts.is_empty();
    if may && !args.dry_run {
        destination.add(&catalog, now_ms).await?;
        let how = if args.replace {
            Adopt::Replace
        } else {
            Adopt::Add
        };
        for (agent, outcome) in found.iter().zip(&mut outcomes) {
            outcome.adopted = catalog.adopt(agent, how, now_ms).await.map_err(failed)?;
        }
    }
    catalog.close().await.map_err(failed)?;
    tell(&outcomes, args, may, out)?;
    if !may {
        let mut error = CliError::new(
            Exit::Refused,
            format!(
                "the database knows {} differently than the vaults, and nothing was changed: {}",
                human::plural(conflicts.len() as u64, "thing", "things"),
                conflicts.join("; ")
            ),
        );
        error
            .hints
            .push("--replace takes what the vaults tell; without it, use an empty database".into());
        return Err(error);
    }
    partial_if(outcomes.iter().any(|outcome| !outcome.damage.is_empty()))
}

pub(super) fn failed(error: CatalogError) -> CliError {
    CliError::failed(format!("NORA_BACKUP_DATABASE_URL: {error}"))
}

/// What the vaults tell; those that can't be read are named in their outcome.
async fn read_vaults(
    place: &Place,
    args: &CatalogArgs,
    out: Output,
) -> Result<(Vec<RecoveredAgent>, Vec<Outcome>)> {
    let agent_ids = if args.agents.is_empty() {
        place.recovery.agent_ids().await?
    } else {
        args.agents.clone()
    };
    let (mut found, mut outcomes, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    for agent_id in agent_ids {
        let mut outcome = Outcome {
            agent_id: agent_id.clone(),
            adopted: Adopted::default(),
            damage: Vec::new(),
        };
        let read = match place.recovery.open(&agent_id).await {
            Ok(vault) => {
                let damage = vault.damage().iter().map(ToString::to_string);
                outcome.damage.extend(damage);
                let backups = vault.backups().await?;
                for backup in &backups {
                    let damage = backup.damage.iter().map(ToString::to_string);
                    outcome.damage.extend(damage);
                }
                recovered(&agent_id, args, vault.stored_bytes().await?, backups)
            }
            Err(error @ VaultError::Store(_)) => return Err(error.into()),
            Err(error) => {
                outcome.damage.push(error.to_string());
                None
            }
        };
        match read {
            Some(agent) => {
                found.push(agent);
                outcomes.push(outcome);
            }
            None => unread.push(outcome),
        }
        out.note(format!("read {}", human::printable(&agent_id)));
    }
    // Those of which something was read come first, beside what was read.
    outcomes.extend(unread);
    Ok((found, outcomes))
}

/// An agent as its newest manifest tells; nothing when none can be read.
fn recovered(
    agent_id: &str,
    args: &CatalogArgs,
    vault_bytes: u64,
    backups: Vec<FoundBackup>,
) -> Option<RecoveredAgent> {
    let newest = backups
        .iter()
        .rev()
        .find_map(|found| found.manifest.as_ref())?;
    let agent = NewAgent {
        agent_id: agent_id.to_owned(),
        display_name: newest.agent_name.clone(),
        owner_id: newest.owner_id.clone(),
        workspace_id: newest.workspace_id.clone(),
        source: Source::decode(&*newest.source).unwrap_or_default(),
        integrations: newest
            .integrations
            .iter()
            .filter_map(|stored| Integration::decode(&**stored).ok())
            .collect(),
        pool: args.pool.clone(),
        patterns: Vec::new(),
        size_warning_bytes: 0,
        // The default one goes without a name, so that it may become another place.
        destination_id: match args.destination.as_str() {
            DEFAULT_DESTINATION => String::new(),
            id => id.to_owned(),
        },
        second_destination_id: String::new(),
    };
    let backups = backups.into_iter().filter_map(|found| {
        let (at, manifest) = (found.at?, found.manifest?);
        Some(backup(at.digest?, &manifest))
    });
    Some(RecoveredAgent {
        agent,
        destination_id: args.destination.clone(),
        vault_bytes,
        backups: backups.collect(),
    })
}

fn backup(manifest_digest: [u8; 32], manifest: &Manifest) -> RecoveredBackup {
    let statistics = manifest.statistics.unwrap_or_default();
    let warnings = manifest.warnings.iter().map(|warning| BackupWarning {
        path: String::from_utf8_lossy(&warning.path).into_owned(),
        message: warning.message.clone(),
    });
    RecoveredBackup {
        backup_id: manifest.backup_id.clone(),
        name: manifest.name.clone(),
        start_time_ms: manifest.start_time_ms,
        end_time_ms: manifest.end_time_ms,
        result: BackupResult {
            manifest_attempt: manifest.attempt,
            manifest_digest,
            sequence: manifest.sequence,
            size_bytes: statistics.size_bytes,
            stored_bytes: statistics.stored_bytes,
            new_bytes: statistics.new_bytes,
            entries: statistics.entries,
            warnings: warnings.collect(),
            warnings_total: manifest.warnings.len() as u64 + manifest.warnings_omitted,
            vault_bytes: 0,
            progress: None,
        },
    }
}

fn tell(outcomes: &[Outcome], args: &CatalogArgs, done: bool, out: Output) -> Result<()> {
    if out.json {
        let agents: Vec<Value> = outcomes.iter().map(outcome_json).collect();
        return out.document(&json!({
            "changed": done && !args.dry_run,
            "agents": agents,
        }));
    }
    let added = if done && !args.dry_run {
        "added"
    } else {
        "to be added"
    };
    for outcome in outcomes {
        let Adopted {
            agent_added,
            added: backups,
            copies,
            known,
            left,
            ..
        } = &outcome.adopted;
        let mut parts = Vec::new();
        if *agent_added {
            parts.push(format!("agent {added}"));
        }
        if !backups.is_empty() {
            let count = human::plural(backups.len() as u64, "backup", "backups");
            parts.push(format!("{count} {added}"));
        }
        if !copies.is_empty() {
            let count = human::plural(copies.len() as u64, "copy", "copies");
            parts.push(format!("{count} {added}"));
        }
        if *known > 0 {
            parts.push(format!("{} known already", human::count(*known)));
        }
        if !left.is_empty() {
            parts.push(format!(
                "{} left as the database has them (failed, canceled, running or going)",
                human::count(left.len() as u64)
            ));
        }
        if parts.is_empty() {
            parts.push("nothing could be read".to_owned());
        }
        out.tell(format!(
            "{}: {}",
            human::printable(&outcome.agent_id),
            parts.join(", ")
        ));
        for fault in &outcome.damage {
            out.note(format!("  damaged: {}", human::printable(fault)));
        }
    }
    if outcomes.is_empty() {
        out.note("there is no vault at this destination");
    }
    Ok(())
}

fn outcome_json(outcome: &Outcome) -> Value {
    json!({
        "agent_id": outcome.agent_id,
        "agent_added": outcome.adopted.agent_added,
        "backups_added": outcome.adopted.added,
        "copies_added": outcome.adopted.copies,
        "backups_known": outcome.adopted.known,
        "backups_left": outcome.adopted.left,
        "conflicts": outcome.adopted.conflicts,
        "damage": outcome.damage,
    })
}
