//! `backup create`, `list`, `show`, `watch`, `cancel`, `delete`, `usage`.

use clap::{Args, ValueEnum};
use proto::backup::v1::{
    Backup, CancelBackupRequest, CreateBackupRequest, DeleteBackupRequest, GetStorageUsageRequest,
    ListBackupsRequest, ListBackupsResponse, backup::State,
};
use uuid::Uuid;

use crate::{
    connect::{Session, call},
    error::Result,
    find::{self, Latest, agent_error, incomplete},
    output::{human, json::Document as _, table},
    show, watch,
};

/// How many backups a list shows when nothing else is said.
const LIST_LIMIT: usize = 50;

/// Arguments of `backup create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The agent
    pub agent: String,
    /// Name for people [default: the agent and the time]
    #[arg(long, short, value_name = "NAME")]
    pub name: Option<String>,
    /// Follow it until it ends
    #[arg(long, short)]
    pub watch: bool,
    /// Makes the call idempotent: the same id again returns the first answer
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
}

/// The backup that a command is about.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// The backup: its id, the beginning of it, or AGENT@latest
    pub backup: String,
}

/// Arguments of `backup delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The backup: its id, the beginning of it, or AGENT@latest (the newest completed one)
    pub backup: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `backup list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this agent's
    pub agent: Option<String>,
    /// Only these states; may be repeated, or listed with commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    pub state: Vec<StateArg>,
    /// How many at the most
    #[arg(long, short = 'n', default_value_t = LIST_LIMIT, value_name = "NUMBER", conflicts_with = "all")]
    pub limit: usize,
    /// All of them
    #[arg(long, short)]
    pub all: bool,
    /// Go on where an earlier list (its next_page_token) ended
    #[arg(
        long,
        value_name = "TOKEN",
        default_value = "",
        hide_default_value = true
    )]
    pub page_token: String,
}

/// Arguments of `backup usage`.
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// Only this agent's
    pub agent: Option<String>,
}

/// A backup's state on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    /// Waits for a worker.
    Pending,
    /// A worker runs it.
    Running,
    /// Done and checked.
    Completed,
    /// Ended without success.
    Failed,
    /// Canceled.
    Canceled,
    /// Being removed.
    Deleting,
}

impl From<StateArg> for State {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Pending => Self::Pending,
            StateArg::Running => Self::Running,
            StateArg::Completed => Self::Completed,
            StateArg::Failed => Self::Failed,
            StateArg::Canceled => Self::Canceled,
            StateArg::Deleting => Self::Deleting,
        }
    }
}

/// Asks for a backup; returns it as it was accepted.
pub async fn request_backup(
    session: &Session,
    agent_id: &str,
    name: Option<String>,
    request_id: Option<String>,
) -> Result<Backup> {
    let request = CreateBackupRequest {
        agent_id: agent_id.to_string(),
        name: name.unwrap_or_default(),
        request_id: request_id.unwrap_or_else(|| Uuid::now_v7().to_string()),
    };
    match session.backups().create_backup(call(request)).await {
        Ok(answer) => answer.into_inner().backup.ok_or_else(incomplete),
        Err(status) => Err(agent_error(session, agent_id, status).await),
    }
}

pub(super) async fn create(session: &Session, args: CreateArgs) -> Result<()> {
    let out = session.out;
    let backup = request_backup(session, &args.agent, args.name, args.request_id).await?;
    if args.watch {
        out.note(format!(
            "backup {} ({})",
            backup.backup_id,
            human::printable(&backup.name)
        ));
        let ended = watch::backup(session, &backup.backup_id).await?;
        return watch::conclude_backup(session, &ended);
    }
    if out.json {
        return out.document(&backup.to_json());
    }
    if out.quiet {
        return out.line(&backup.backup_id);
    }
    let (id, state) = (&backup.backup_id, show::backup_state(&backup));
    out.line(format!("Backup {id} of {} is {state}", args.agent))?;
    out.note(format!("follow it with `nora-backup backup watch {id}`"));
    Ok(())
}

pub(super) async fn list(session: &Session, args: ListArgs) -> Result<()> {
    let limit = if args.all { usize::MAX } else { args.limit };
    let mut request = ListBackupsRequest {
        agent_id: args.agent.clone().unwrap_or_default(),
        page_token: args.page_token,
        states: args
            .state
            .into_iter()
            .map(|state| State::from(state).into())
            .collect(),
        ..ListBackupsRequest::default()
    };
    let mut listed = ListBackupsResponse::default();
    while listed.backups.len() < limit {
        request.page_size = (limit - listed.backups.len()).min(1000) as i32;
        let page = match session.backups().list_backups(call(request.clone())).await {
            Ok(page) => page.into_inner(),
            Err(status) => return Err(agent_error(session, &request.agent_id, status).await),
        };
        listed.backups.extend(page.backups);
        listed.next_page_token.clone_from(&page.next_page_token);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let out = session.out;
    if out.json {
        return out.document(&listed.to_json());
    }
    if out.quiet {
        return listed
            .backups
            .iter()
            .try_for_each(|backup| out.line(&backup.backup_id));
    }
    if listed.backups.is_empty() {
        out.note("no backups; `nora-backup backup create AGENT --watch` makes one");
        return Ok(());
    }
    show::backups(&listed.backups)
        .iter()
        .try_for_each(|line| out.line(line))?;
    if !listed.next_page_token.is_empty() {
        out.note("there are more: --limit NUMBER or --all shows them");
    }
    Ok(())
}

pub(super) async fn show(session: &Session, args: OneArgs) -> Result<()> {
    let backup = find::backup(session, &args.backup, Latest::Any).await?;
    print(session, &backup)
}

fn print(session: &Session, backup: &Backup) -> Result<()> {
    if session.out.json {
        return session.out.document(&backup.to_json());
    }
    show::backup(backup)
        .iter()
        .try_for_each(|line| session.out.line(line))
}

pub(super) async fn watch(session: &Session, args: OneArgs) -> Result<()> {
    let backup_id = find::backup_id(session, &args.backup, Latest::Any).await?;
    let ended = watch::backup(session, &backup_id).await?;
    watch::conclude_backup(session, &ended)
}

pub(super) async fn cancel(session: &Session, args: OneArgs) -> Result<()> {
    let out = session.out;
    let backup_id = find::backup_id(session, &args.backup, Latest::Any).await?;
    let request = CancelBackupRequest {
        backup_id: backup_id.clone(),
    };
    let answer = session
        .backups()
        .cancel_backup(call(request))
        .await?
        .into_inner();
    let backup = answer.backup.ok_or_else(incomplete)?;
    if out.json {
        return out.document(&backup.to_json());
    }
    if out.quiet {
        return Ok(());
    }
    if backup.state() == State::Canceled {
        return out.line(format!("Backup {backup_id} is CANCELED"));
    }
    out.line(format!(
        "Backup {backup_id} is being canceled; its worker stops in a moment"
    ))
}

pub(super) async fn delete(session: &Session, args: DeleteArgs) -> Result<()> {
    let out = session.out;
    let backup = find::backup(session, &args.backup, Latest::Completed).await?;
    let (name, id) = (human::printable(&backup.name), backup.backup_id);
    if !args.yes {
        out.confirm(&format!("Delete backup {id} ({name}) for good?"))?;
    }
    let request = DeleteBackupRequest {
        backup_id: id.clone(),
    };
    let answer = session
        .backups()
        .delete_backup(call(request))
        .await?
        .into_inner();
    let backup = answer.backup.ok_or_else(incomplete)?;
    if out.json {
        return out.document(&backup.to_json());
    }
    if out.quiet {
        return Ok(());
    }
    out.line(format!("Backup {id} is {}", show::backup_state(&backup)))
}

pub(super) async fn usage(session: &Session, args: UsageArgs) -> Result<()> {
    let out = session.out;
    let agent_id = args.agent.unwrap_or_default();
    let request = GetStorageUsageRequest {
        agent_id: agent_id.clone(),
    };
    let usage = match session.backups().get_storage_usage(call(request)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(agent_error(session, &agent_id, status).await),
    };
    if out.json {
        return out.document(&usage.to_json());
    }
    let saved = usage.size_bytes.saturating_sub(usage.stored_bytes);
    let percent = (saved * 100).checked_div(usage.size_bytes).unwrap_or(0);
    table::fields(&[
        ("agents", human::count(usage.agents)),
        ("completed backups", human::count(usage.backups)),
        ("size", human::bytes(usage.size_bytes)),
        ("stored", human::bytes(usage.stored_bytes)),
        ("saved", format!("{} ({percent}%)", human::bytes(saved))),
    ])
    .iter()
    .try_for_each(|line| out.line(line))
}

/// Protects a backup, or takes that back.
pub async fn protect(session: &Session, backup: &str, protected: bool) -> Result<()> {
    let backup = find::backup_id(session, backup, Latest::Completed).await?;
    let request = proto::backup::v1::UpdateBackupRequest {
        backup: Some(proto::backup::v1::Backup {
            backup_id: backup.clone(),
            protected,
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["protected".to_owned()],
        }),
    };
    session.backups().update_backup(call(request)).await?;
    let out = session.out;
    if out.json {
        return out.document(&serde_json::json!({ "backup_id": backup, "protected": protected }));
    }
    let word = if protected { "is" } else { "is no longer" };
    out.line(format!("Backup {backup} {word} protected"))
}
