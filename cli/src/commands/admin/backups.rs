//! `admin backups`: ListAllBackups.

use std::time::Duration;

use clap::Args;
use proto::backup::v1::{ListAllBackupsRequest, OwnedBackup, backup};
use serde_json::json;

use super::{PAGE_SIZE, ago};
use crate::{
    commands::{backup::make::StateArg, token::span},
    connect::{Session, call},
    error::Result,
    output::{
        human,
        json::Document as _,
        table::{Align, Table},
    },
    show,
};

/// Arguments of `admin backups`.
#[derive(Debug, Args)]
pub struct BackupsArgs {
    /// Only this user's
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// Only this agent's
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<String>,
    /// Only those of agents that are in this workspace
    #[arg(long, value_name = "WORKSPACE")]
    pub workspace: Option<String>,
    /// Only these states; may be repeated, or listed with commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    pub state: Vec<StateArg>,
    /// Only those that a schedule made
    #[arg(long, conflicts_with = "manual")]
    pub scheduled: bool,
    /// Only those that somebody asked for
    #[arg(long)]
    pub manual: bool,
    /// Only those of the last time, for example 90m, 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub since: Option<Duration>,
    /// Only those that are older than this
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub until: Option<Duration>,
    /// How many at the most
    #[arg(long, short = 'n', default_value_t = 100, value_name = "NUMBER")]
    pub limit: usize,
}

/// Runs it.
pub async fn run(session: &Session, args: BackupsArgs) -> Result<()> {
    let trigger = match (args.scheduled, args.manual) {
        (true, _) => backup::Trigger::Schedule,
        (_, true) => backup::Trigger::Manual,
        _ => backup::Trigger::Unspecified,
    };
    let states = args.state.iter().map(|state| backup::State::from(*state));
    let mut request = ListAllBackupsRequest {
        page_size: PAGE_SIZE.min(args.limit.max(1)) as i32,
        page_token: String::new(),
        owner_id: args.owner.unwrap_or_default(),
        agent_id: args.agent.unwrap_or_default(),
        workspace_id: args.workspace.unwrap_or_default(),
        states: states.map(Into::into).collect(),
        trigger: trigger.into(),
        created_from: args.since.map(ago),
        created_before: args.until.map(ago),
    };
    let mut found = Vec::new();
    loop {
        let page = session
            .admin()
            .list_all_backups(call(request.clone()))
            .await?;
        let page = page.into_inner();
        found.extend(page.backups);
        if page.next_page_token.is_empty() || found.len() >= args.limit {
            break;
        }
        request.page_token = page.next_page_token;
    }
    found.truncate(args.limit);
    let out = session.out;
    if out.json {
        let found: Vec<_> = found.iter().map(OwnedBackup::to_json).collect();
        return out.document(&json!({ "backups": found }));
    }
    if out.quiet {
        let mut ids = found.iter().filter_map(|found| found.backup.as_ref());
        return ids.try_for_each(|backup| out.line(&backup.backup_id));
    }
    table(&found).iter().try_for_each(|line| out.line(line))
}

fn table(found: &[OwnedBackup]) -> Vec<String> {
    let mut table = Table::new(&[
        ("BACKUP", Align::Left),
        ("OWNER", Align::Left),
        ("AGENT", Align::Left),
        ("STATE", Align::Left),
        ("STORED", Align::Right),
        ("CREATED", Align::Left),
        ("WHY", Align::Left),
    ]);
    for owned in found {
        let Some(backup) = &owned.backup else {
            continue;
        };
        table.row(vec![
            backup.backup_id.clone(),
            human::printable(&owned.owner_id),
            human::printable(&backup.agent_id),
            show::backup_state(backup),
            human::bytes(backup.stored_bytes),
            human::time(backup.create_time.as_ref()),
            backup
                .failure
                .as_ref()
                .map_or_else(String::new, show::failure),
        ]);
    }
    table.lines()
}
