//! Finding what people name: a backup by its id, by the beginning of its id, or
//! as AGENT@latest; a restore by its id or its beginning.

use proto::backup::v1::{
    Agent, Backup, GetAgentRequest, GetBackupRequest, ListAgentsRequest, ListBackupsRequest,
    ListRestoresRequest, backup::State,
};
use tonic::{Code, Status};

use crate::{
    connect::{Session, call},
    error::{CliError, Result},
    exit::Exit,
    output::human,
    show,
};

/// How long a whole id is.
const ID_LENGTH: usize = 36;
/// The shortest beginning that is looked up.
const PREFIX_LENGTH_MIN: usize = 4;
/// How many candidates an error lists.
const CANDIDATES_MAX: usize = 8;
/// How many are asked for at once.
const PAGE_SIZE: i32 = 1000;

/// Which backups `AGENT@latest` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latest {
    /// The newest that can be read back.
    Completed,
    /// The newest, whatever its state.
    Any,
}

/// What someone typed to name a backup or restore.
#[derive(Debug, PartialEq, Eq)]
enum Named<'a> {
    Id(String),
    Prefix(String),
    LatestOf(&'a str),
}

fn parse<'a>(text: &'a str, what: &str) -> Result<Named<'a>> {
    if let Some((agent, selector)) = text.split_once('@') {
        if selector != "latest" || agent.is_empty() {
            return Err(CliError::usage(format!(
                "{text:?}: after the agent only @latest is understood, as in my-agent@latest"
            )));
        }
        return Ok(Named::LatestOf(agent));
    }
    let id = text.to_ascii_lowercase();
    let is_id = !id.is_empty() && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if is_id && id.len() == ID_LENGTH {
        return Ok(Named::Id(id));
    }
    if is_id && id.len() < ID_LENGTH && id.len() >= PREFIX_LENGTH_MIN {
        return Ok(Named::Prefix(id));
    }
    Err(CliError::new(
        Exit::NotFound,
        format!("{text:?} is neither the id of a {what} nor the beginning of one"),
    ))
}

/// The id of the backup that someone named.
pub async fn backup_id(session: &Session, text: &str, latest: Latest) -> Result<String> {
    match parse(text, "backup") {
        Ok(Named::Id(id)) => Ok(id),
        Ok(Named::Prefix(prefix)) => match backup_by_prefix(session, &prefix).await {
            Err(error) if error.exit == Exit::NotFound => {
                Err(hint_agent(session, text, error).await)
            }
            other => other,
        },
        Ok(Named::LatestOf(agent)) => Ok(latest_backup(session, agent, latest).await?.backup_id),
        Err(error) => Err(hint_agent(session, text, error).await),
    }
}

/// The backup that someone named.
pub async fn backup(session: &Session, text: &str, latest: Latest) -> Result<Backup> {
    let backup_id = backup_id(session, text, latest).await?;
    let answer = session
        .backups()
        .get_backup(call(GetBackupRequest { backup_id }))
        .await?;
    answer.into_inner().backup.ok_or_else(incomplete)
}

/// An answer without the resource that it is about.
pub fn incomplete() -> CliError {
    CliError::failed("the service's answer is incomplete; is it newer than this program?")
}

async fn latest_backup(session: &Session, agent: &str, latest: Latest) -> Result<Backup> {
    let states = match latest {
        Latest::Completed => vec![State::Completed.into()],
        Latest::Any => Vec::new(),
    };
    let request = ListBackupsRequest {
        agent_id: agent.to_string(),
        page_size: 1,
        states,
        ..ListBackupsRequest::default()
    };
    let answer = match session.backups().list_backups(call(request)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(agent_error(session, agent, status).await),
    };
    answer.backups.into_iter().next().ok_or_else(|| {
        let kind = if latest == Latest::Completed {
            "completed backup"
        } else {
            "backup"
        };
        CliError::new(Exit::NotFound, format!("agent {agent} has no {kind} yet")).hint(format!(
            "make one with `nora-backup backup create {agent} --watch`"
        ))
    })
}

async fn backup_by_prefix(session: &Session, prefix: &str) -> Result<String> {
    let mut found = Vec::new();
    let mut request = ListBackupsRequest {
        page_size: PAGE_SIZE,
        ..ListBackupsRequest::default()
    };
    loop {
        let page = session
            .backups()
            .list_backups(call(request.clone()))
            .await?
            .into_inner();
        for backup in page
            .backups
            .into_iter()
            .filter(|b| b.backup_id.starts_with(prefix))
        {
            let created = human::time(backup.create_time.as_ref());
            let state = show::backup_state(&backup);
            let line = format!(
                "{}  {}  {state}  {created}",
                backup.backup_id, backup.agent_id
            );
            found.push((backup.backup_id, line));
        }
        if page.next_page_token.is_empty() || found.len() > CANDIDATES_MAX {
            return only_one(found, prefix, "backup");
        }
        request.page_token = page.next_page_token;
    }
}

/// The id of the restore that someone named.
pub async fn restore_id(session: &Session, text: &str) -> Result<String> {
    let prefix = match parse(text, "restore")? {
        Named::Id(id) => return Ok(id),
        Named::Prefix(prefix) => prefix,
        Named::LatestOf(_) => {
            return Err(CliError::usage(format!(
                "{text:?}: @latest names backups, not restores"
            )));
        }
    };
    let mut found = Vec::new();
    let mut request = ListRestoresRequest {
        page_size: PAGE_SIZE,
        ..ListRestoresRequest::default()
    };
    loop {
        let page = session
            .restores()
            .list_restores(call(request.clone()))
            .await?
            .into_inner();
        for restore in page
            .restores
            .into_iter()
            .filter(|r| r.restore_id.starts_with(&prefix))
        {
            let created = human::time(restore.create_time.as_ref());
            let state = show::restore_state(&restore);
            let line = format!("{}  {state}  {created}", restore.restore_id);
            found.push((restore.restore_id, line));
        }
        if page.next_page_token.is_empty() || found.len() > CANDIDATES_MAX {
            return only_one(found, &prefix, "restore");
        }
        request.page_token = page.next_page_token;
    }
}

fn only_one(mut found: Vec<(String, String)>, prefix: &str, what: &str) -> Result<String> {
    match found.len() {
        0 => Err(CliError::new(
            Exit::NotFound,
            format!("no {what} has an id beginning with {prefix}"),
        )),
        1 => Ok(found.remove(0).0),
        _ => {
            let more = found.len() > CANDIDATES_MAX;
            let mut error = CliError::usage(format!(
                "{prefix} is the beginning of more than one {what}'s id; give more of it:"
            ));
            error.message.extend(
                found
                    .into_iter()
                    .take(CANDIDATES_MAX)
                    .map(|(_, line)| format!("\n  {line}")),
            );
            if more {
                error.message.push_str("\n  ...");
            }
            Err(error)
        }
    }
}

/// Someone who names an agent where a backup is wanted is told about @latest.
async fn hint_agent(session: &Session, text: &str, error: CliError) -> CliError {
    let request = GetAgentRequest {
        agent_id: text.to_string(),
    };
    if session.agents().get_agent(call(request)).await.is_ok() {
        return error.hint(format!(
            "{text} is an agent: {text}@latest is its newest backup"
        ));
    }
    error.hint("`nora-backup backup list` shows the backups")
}

/// An error about an agent; when there is no such agent, with those there are.
pub async fn agent_error(session: &Session, agent_id: &str, status: Status) -> CliError {
    let missing = status.code() == Code::NotFound;
    let error = CliError::from(status);
    if !missing {
        return error;
    }
    let request = ListAgentsRequest {
        page_size: PAGE_SIZE,
        ..ListAgentsRequest::default()
    };
    let Ok(answer) = session.agents().list_agents(call(request)).await else {
        return error;
    };
    match similar(agent_id, &answer.into_inner().agents) {
        Some(names) => error.hint(format!("agents that you can see: {names}")),
        None => error.hint("there are no agents yet: `nora-backup agent register --help`"),
    }
}

/// An error about a backup that is wanted from one of its destinations.
pub fn copy_error(backup: &str, status: Status) -> CliError {
    let error = CliError::from(status);
    if error.reason.as_deref() == Some("COPY_NOT_COMPLETED") {
        return error.hint(format!(
            "`nora-backup backup show {backup}` tells where it lies and where its copies stand"
        ));
    }
    error
}

/// Some agents, those that look like the given name first.
fn similar(name: &str, agents: &[Agent]) -> Option<String> {
    let start: String = name.chars().take(3).collect();
    let (near, far): (Vec<_>, Vec<_>) = agents
        .iter()
        .map(|agent| agent.agent_id.as_str())
        .partition(|id| id.starts_with(&start) || id.contains(name));
    let names: Vec<&str> = near.into_iter().chain(far).collect();
    let (shown, more) = names.split_at(names.len().min(CANDIDATES_MAX));
    let tail = if more.is_empty() { "" } else { ", ..." };
    (!shown.is_empty()).then(|| format!("{}{tail}", shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type() {
        let id = "01932f3e-7c4b-7000-8000-0123456789ab";
        let parse = |text| parse(text, "backup");
        assert_eq!(parse(id).expect("id"), Named::Id(id.into()));
        assert_eq!(
            parse("01932F3E-7").expect("prefix"),
            Named::Prefix("01932f3e-7".into())
        );
        assert_eq!(
            parse("my-agent@latest").expect("latest"),
            Named::LatestOf("my-agent")
        );
        assert_eq!(
            parse("my-agent@newest").expect_err("selector").exit,
            Exit::Usage
        );
        assert_eq!(parse("@latest").expect_err("agent").exit, Exit::Usage);
        assert_eq!(parse("my-agent").expect_err("agent").exit, Exit::NotFound);
        assert_eq!(parse("019").expect_err("short").exit, Exit::NotFound);
        assert_eq!(parse("").expect_err("empty").exit, Exit::NotFound);
    }

    #[test]
    fn ambiguous_beginnings_list_what_matched() {
        let found = |n: usize| {
            (0..n)
                .map(|i| (format!("id{i}"), format!("line {i}")))
                .collect()
        };
        assert_eq!(only_one(found(1), "id", "backup").expect("one"), "id0");
        assert_eq!(
            only_one(found(0), "id", "backup").expect_err("none").exit,
            Exit::NotFound
        );
        let error = only_one(found(2), "id", "backup").expect_err("two");
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.message.contains("line 0") && error.message.contains("line 1"));
        assert!(
            only_one(found(9), "id", "backup")
                .expect_err("many")
                .message
                .ends_with("...")
        );
    }

    #[test]
    fn similar_agents_come_first() {
        let agent = |id: &str| Agent {
            agent_id: id.into(),
            ..Agent::default()
        };
        let agents = [agent("alpha"), agent("writer-1")];
        assert_eq!(
            similar("writer", &agents).as_deref(),
            Some("writer-1, alpha")
        );
        assert_eq!(similar("x", &[]), None);
    }
}
