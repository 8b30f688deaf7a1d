//! `recover agents` and `recover backups`.

use clap::Args;
use prost_types::Timestamp;
use serde_json::{Value, json};
use vault::{FoundAgent, FoundBackup};

use super::place::Place;
use crate::{
    error::{CliError, Result},
    exit::Exit,
    output::{
        Output, human,
        table::{Align, Table},
    },
};

/// Arguments of `recover backups`.
#[derive(Debug, Args)]
pub struct BackupsArgs {
    /// The agent
    agent: String,
}

/// Lists vaults. Ends with 7 when one does not open.
pub(super) async fn agents(place: &Place, out: Output) -> Result<()> {
    let mut found = Vec::new();
    for agent_id in place.recovery.agent_ids().await? {
        found.push(place.recovery.look_at(&agent_id).await?);
    }
    if out.json {
        let agents: Vec<Value> = found.iter().map(agent_json).collect();
        out.document(&json!({ "agents": agents }))?;
    } else if out.quiet {
        for agent in &found {
            out.line(human::printable(&agent.agent_id))?;
        }
    } else if found.is_empty() {
        out.note("there is no vault at this destination");
    } else {
        for line in agents_table(&found) {
            out.line(line)?;
        }
    }
    for agent in &found {
        if let Some(why) = &agent.locked {
            out.note(format!(
                "{}: {}",
                human::printable(&agent.agent_id),
                human::printable(&why.to_string())
            ));
        }
    }
    partial_if(found.iter().any(|agent| agent.locked.is_some()))
}

/// Lists an agent's backups. Ends with 7 when something is damaged.
pub(super) async fn backups(place: &Place, args: &BackupsArgs, out: Output) -> Result<()> {
    let vault = place.vault(&args.agent).await?;
    let found = vault.backups().await?;
    let mut damage: Vec<String> = vault.damage().iter().map(ToString::to_string).collect();
    if out.json {
        let backups: Vec<Value> = found.iter().map(backup_json).collect();
        out.document(&json!({
            "agent_id": args.agent,
            "stored_bytes": vault.stored_bytes().await?,
            "damage": damage,
            "backups": backups,
        }))?;
    } else if out.quiet {
        for backup in &found {
            out.line(&backup.backup_id)?;
        }
    } else if found.is_empty() {
        out.note(format!(
            "agent {} has no backups here",
            human::printable(&args.agent)
        ));
    } else {
        for line in backups_table(&found) {
            out.line(line)?;
        }
    }
    for backup in &found {
        damage.extend(backup.damage.iter().map(ToString::to_string));
    }
    for fault in &damage {
        out.note(format!("damaged: {}", human::printable(fault)));
    }
    partial_if(!damage.is_empty())
}

/// Ends with the code for work of which a part could not be done.
pub(super) fn partial_if(partial: bool) -> Result<()> {
    if partial {
        Err(CliError::silent(Exit::Partial))
    } else {
        Ok(())
    }
}

/// A time in milliseconds as the API has it.
pub(super) fn timestamp(time_ms: i64) -> Timestamp {
    Timestamp {
        seconds: time_ms.div_euclid(1000),
        nanos: (time_ms.rem_euclid(1000) * 1_000_000) as i32,
    }
}

/// A time in milliseconds as RFC 3339.
pub(super) fn rfc3339(time_ms: i64) -> Value {
    jiff::Timestamp::from_millisecond(time_ms).map_or(Value::Null, |time| json!(time.to_string()))
}

fn agent_json(agent: &FoundAgent) -> Value {
    let newest = agent.newest.as_ref();
    json!({
        "agent_id": agent.agent_id,
        "display_name": newest.map(|manifest| &manifest.agent_name),
        "owner_id": newest.map(|manifest| &manifest.owner_id),
        "workspace_id": newest.map(|manifest| &manifest.workspace_id),
        "backups": agent.backups,
        "stored_bytes": agent.stored_bytes,
        "newest_backup_id": newest.map(|manifest| &manifest.backup_id),
        "newest_time": newest.map(|manifest| rfc3339(manifest.end_time_ms)),
        "key_ids": agent.key_ids,
        "opens": agent.locked.is_none(),
        "reason": agent.locked.as_ref().map(vault::VaultError::reason),
        "message": agent.locked.as_ref().map(ToString::to_string),
    })
}

fn agents_table(agents: &[FoundAgent]) -> Vec<String> {
    let mut table = Table::new(&[
        ("AGENT", Align::Left),
        ("NAME", Align::Left),
        ("OWNER", Align::Left),
        ("BACKUPS", Align::Right),
        ("STORED", Align::Right),
        ("NEWEST", Align::Left),
        ("KEY", Align::Left),
        ("OPENS", Align::Left),
    ]);
    for agent in agents {
        let newest = agent.newest.as_ref();
        table.row(vec![
            human::printable(&agent.agent_id),
            newest.map_or_else(|| "-".into(), |m| human::or_dash(&m.agent_name)),
            newest.map_or_else(|| "-".into(), |m| human::or_dash(&m.owner_id)),
            human::count(agent.backups),
            human::bytes(agent.stored_bytes),
            newest.map_or_else(
                || "-".into(),
                |m| human::time(Some(&timestamp(m.end_time_ms))),
            ),
            agent.key_ids.join(" "),
            if agent.locked.is_none() { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.lines()
}

fn backup_json(backup: &FoundBackup) -> Value {
    let manifest = backup.manifest.as_ref();
    let statistics = manifest.and_then(|m| m.statistics.as_ref());
    let damage: Vec<String> = backup.damage.iter().map(ToString::to_string).collect();
    json!({
        "backup_id": backup.backup_id,
        "readable": backup.at.is_some(),
        "attempt": backup.at.as_ref().map(|at| at.attempt),
        "other_attempts": backup.other_attempts,
        "manifest_digest": backup.at.as_ref().and_then(|at| at.digest).map(hex::encode),
        "name": manifest.map(|m| &m.name),
        "sequence": manifest.map(|m| m.sequence),
        "start_time": manifest.map(|m| rfc3339(m.start_time_ms)),
        "end_time": manifest.map(|m| rfc3339(m.end_time_ms)),
        "size_bytes": statistics.map(|s| s.size_bytes),
        "stored_bytes": statistics.map(|s| s.stored_bytes),
        "entries": statistics.map(|s| s.entries),
        "damage": damage,
    })
}

fn backups_table(backups: &[FoundBackup]) -> Vec<String> {
    let mut table = Table::new(&[
        ("BACKUP", Align::Left),
        ("NAME", Align::Left),
        ("NUMBER", Align::Right),
        ("SIZE", Align::Right),
        ("STORED", Align::Right),
        ("ENTRIES", Align::Right),
        ("COMPLETED", Align::Left),
        ("MANIFEST", Align::Left),
    ]);
    for backup in backups {
        let Some(manifest) = &backup.manifest else {
            let mut row = vec![human::printable(&backup.backup_id)];
            row.extend(std::iter::repeat_n("-".to_owned(), 6));
            row.push("damaged".to_owned());
            table.row(row);
            continue;
        };
        let statistics = manifest.statistics.unwrap_or_default();
        table.row(vec![
            human::printable(&backup.backup_id),
            human::or_dash(&manifest.name),
            human::count(manifest.sequence),
            human::bytes(statistics.size_bytes),
            human::bytes(statistics.stored_bytes),
            human::count(statistics.entries),
            human::time(Some(&timestamp(manifest.end_time_ms))),
            if backup.damage.is_empty() {
                "right".to_owned()
            } else {
                format!("attempt {}, a later one is damaged", manifest.attempt)
            },
        ]);
    }
    table.lines()
}
