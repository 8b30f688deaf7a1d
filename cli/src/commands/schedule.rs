//! `schedule`: ScheduleService.

use clap::{Args, Subcommand};
use proto::backup::v1::{
    DeleteScheduleRequest, GetScheduleRequest, ListSchedulesRequest, PreviewRetentionRequest,
    RemovalRule, Schedule, UpdateScheduleRequest, schedule::Frequency,
};
use serde_json::json;

use crate::{
    connect::{Session, call},
    error::Result,
    find::{agent_error, incomplete},
    output::{
        human,
        json::Document as _,
        table::{Align, Table, fields},
    },
};

/// What can be done with schedules.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Set an agent's schedule; what is not given stays as it is
    #[command(
        after_help = "Examples:\n  nora-backup schedule set my-agent --daily --at 03:00 --zone Europe/Berlin --retain 7\n  \
        nora-backup schedule set my-agent --pause"
    )]
    Set(SetArgs),
    /// Show an agent's schedule
    #[command(
        alias = "get",
        after_help = "Example:\n  nora-backup schedule show my-agent"
    )]
    Show {
        /// The agent
        agent: String,
    },
    /// List schedules
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  nora-backup schedule list --json"
    )]
    List,
    /// Remove an agent's schedule; its backups stay
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  nora-backup schedule delete my-agent"
    )]
    Delete {
        /// The agent
        agent: String,
    },
    /// Show which backups the rules would remove now, and which they removed
    #[command(after_help = "Example:\n  nora-backup schedule retention my-agent --retain 3")]
    Retention {
        /// The agent
        agent: String,
        /// As if this many scheduled backups were retained
        #[arg(long, value_name = "N")]
        retain: Option<u32>,
    },
}

/// Arguments of `schedule set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The agent
    pub agent: String,
    /// Every hour
    #[arg(long, group = "frequency")]
    pub hourly: bool,
    /// Every day
    #[arg(long, group = "frequency")]
    pub daily: bool,
    /// Every seven days
    #[arg(long, group = "frequency")]
    pub weekly: bool,
    /// Every month
    #[arg(long, group = "frequency")]
    pub monthly: bool,
    /// Time of the day (of an hourly schedule, only the minute counts); "" for none
    #[arg(long, value_name = "HH:MM")]
    pub at: Option<String>,
    /// Time zone, for example Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// How many scheduled backups are kept
    #[arg(long, value_name = "N")]
    pub retain: Option<u32>,
    /// Do not run until --resume
    #[arg(long, conflicts_with = "resume")]
    pub pause: bool,
    /// Run again
    #[arg(long)]
    pub resume: bool,
}

/// Runs a command.
pub async fn run(session: &Session, command: ScheduleCommand) -> Result<()> {
    match command {
        ScheduleCommand::Set(args) => set(session, args).await,
        ScheduleCommand::Show { agent } => show(session, agent).await,
        ScheduleCommand::List => list(session).await,
        ScheduleCommand::Delete { agent } => delete(session, agent).await,
        ScheduleCommand::Retention { agent, retain } => retention(session, agent, retain).await,
    }
}

async fn set(session: &Session, args: SetArgs) -> Result<()> {
    let frequency = [
        (args.hourly, Frequency::Hourly),
        (args.daily, Frequency::Daily),
        (args.weekly, Frequency::Weekly),
        (args.monthly, Frequency::Monthly),
    ];
    let frequency = frequency.iter().find(|(wanted, _)| *wanted);
    let mut paths = Vec::new();
    let named = [
        ("frequency", frequency.is_some()),
        ("time_of_day", args.at.is_some()),
        ("time_zone", args.zone.is_some()),
        ("retain", args.retain.is_some()),
        ("enabled", args.pause || args.resume),
    ];
    for (path, set) in named {
        if set {
            paths.push(path.to_owned());
        }
    }
    let schedule = Schedule {
        agent_id: args.agent.clone(),
        enabled: Some(!args.pause),
        frequency: frequency.map_or(0, |(_, frequency)| (*frequency).into()),
        retain: args.retain.unwrap_or_default(),
        time_of_day: args.at.unwrap_or_default(),
        time_zone: args.zone.unwrap_or_default(),
        ..Schedule::default()
    };
    // Without any, what is set counts: then nothing but enabled, which goes unsaid.
    let schedule = if paths.is_empty() {
        Schedule {
            enabled: None,
            ..schedule
        }
    } else {
        schedule
    };
    let request = UpdateScheduleRequest {
        schedule: Some(schedule),
        update_mask: Some(prost_types::FieldMask { paths }),
        allow_missing: true,
    };
    let answer = session.schedules().update_schedule(call(request)).await;
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(agent_error(session, &args.agent, status).await),
    };
    print(session, &answer.schedule.ok_or_else(incomplete)?)
}

async fn show(session: &Session, agent: String) -> Result<()> {
    let request = GetScheduleRequest {
        agent_id: agent.clone(),
    };
    match session.schedules().get_schedule(call(request)).await {
        Ok(answer) => print(
            session,
            &answer.into_inner().schedule.ok_or_else(incomplete)?,
        ),
        Err(status) => Err(agent_error(session, &agent, status).await),
    }
}

async fn list(session: &Session) -> Result<()> {
    let mut request = ListSchedulesRequest {
        page_size: 1000,
        ..ListSchedulesRequest::default()
    };
    let mut schedules = Vec::new();
    loop {
        let mut client = session.schedules();
        let page = client.list_schedules(call(request.clone())).await?;
        let page = page.into_inner();
        schedules.extend(page.schedules);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let out = session.out;
    if out.json {
        let schedules: Vec<_> = schedules.iter().map(Schedule::to_json).collect();
        return out.document(&json!({ "schedules": schedules }));
    }
    let mut table = Table::new(&[
        ("AGENT", Align::Left),
        ("RUNS", Align::Left),
        ("NEXT RUN", Align::Left),
        ("LAST SUCCESS", Align::Left),
        ("RETAIN", Align::Left),
    ]);
    for schedule in &schedules {
        table.row(vec![
            human::printable(&schedule.agent_id),
            rhythm(schedule),
            human::time(schedule.next_run_time.as_ref()),
            human::time(schedule.last_success_time.as_ref()),
            schedule.retain.to_string(),
        ]);
    }
    table.lines().iter().try_for_each(|line| out.line(line))
}

async fn delete(session: &Session, agent: String) -> Result<()> {
    let request = DeleteScheduleRequest {
        agent_id: agent.clone(),
        etag: String::new(),
    };
    let out = session.out;
    match session.schedules().delete_schedule(call(request)).await {
        Ok(_) if out.json => out.document(&json!({ "agent_id": agent, "removed": true })),
        Ok(_) if out.quiet => Ok(()),
        Ok(_) => out.line(format!("Agent {agent} has no schedule any more")),
        Err(status) => Err(agent_error(session, &agent, status).await),
    }
}

async fn retention(session: &Session, agent: String, retain: Option<u32>) -> Result<()> {
    let request = PreviewRetentionRequest {
        agent_id: agent.clone(),
        retain: retain.unwrap_or_default(),
    };
    let answer = session.schedules().preview_retention(call(request)).await;
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(agent_error(session, &agent, status).await),
    };
    let out = session.out;
    if out.json {
        return out.document(&answer.to_json());
    }
    if answer.removals.is_empty() {
        out.note("No rule would remove a backup now");
    }
    if answer.removals.is_empty() && answer.removed.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[
        ("BACKUP", Align::Left),
        ("NAME", Align::Left),
        ("WHEN", Align::Left),
        ("RULE", Align::Left),
    ]);
    for removal in &answer.removals {
        table.row(vec![
            removal.backup_id.clone(),
            human::printable(&removal.name),
            "would go now".to_owned(),
            rule(removal.rule()),
        ]);
    }
    for removed in &answer.removed {
        table.row(vec![
            removed.backup_id.clone(),
            human::printable(&removed.name),
            human::time(removed.removal_time.as_ref()),
            rule(removed.rule()),
        ]);
    }
    table.lines().iter().try_for_each(|line| out.line(line))
}

fn rule(rule: RemovalRule) -> String {
    let name = rule.as_str_name();
    name.trim_start_matches("REMOVAL_RULE_").to_lowercase()
}

fn rhythm(schedule: &Schedule) -> String {
    let name = schedule.frequency().as_str_name();
    let mut text = name.trim_start_matches("FREQUENCY_").to_lowercase();
    if !schedule.time_of_day.is_empty() {
        text = format!("{text} at {} {}", schedule.time_of_day, schedule.time_zone);
    }
    if !schedule.enabled() {
        text.push_str(", paused");
    }
    text
}

fn print(session: &Session, schedule: &Schedule) -> Result<()> {
    let out = session.out;
    if out.json {
        return out.document(&schedule.to_json());
    }
    let skip = schedule
        .last_skip
        .as_ref()
        .map_or_else(String::new, |skip| {
            format!(
                "{}: {}",
                human::time_with_zone(skip.due_time.as_ref()),
                skip.message
            )
        });
    fields(&[
        ("agent", human::printable(&schedule.agent_id)),
        ("runs", rhythm(schedule)),
        ("retain", schedule.retain.to_string()),
        (
            "next run",
            human::time_with_zone(schedule.next_run_time.as_ref()),
        ),
        (
            "last run",
            human::time_with_zone(schedule.last_run_time.as_ref()),
        ),
        (
            "last success",
            human::time_with_zone(schedule.last_success_time.as_ref()),
        ),
        ("failures", schedule.consecutive_failures.to_string()),
        ("skipped", skip),
        ("etag", human::printable(&schedule.etag)),
    ])
    .iter()
    .try_for_each(|line| out.line(line))
}
