//! `agent`: AgentService.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use proto::backup::v1::{
    Agent, Consistency, DeregisterAgentRequest, DirectorySource, DockerSource, GetAgentRequest,
    HookCommand, Hooks, Integration, ListAgentsRequest, RegisterAgentRequest, Source, source,
};
use serde_json::json;

use crate::{
    connect::{Session, call},
    error::{CliError, Result},
    find::{agent_error, incomplete},
    output::json::Document as _,
    show,
    standalone::data_dir,
};

/// What can be done with agents.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Make an agent known, or replace what is known of it
    #[command(
        after_help = "Examples:\n  nora-backup agent register my-agent --directory ~/my-agent\n  \
        nora-backup agent register writer --container writer-1 --pause --owner user-7\n  \
        nora-backup agent register writer --container writer-1 --path /data --path /etc/writer\n  \
        nora-backup agent register db --container db-1 --before 'pg-freeze start' --after 'pg-freeze end'\n  \
        nora-backup agent register coder --directory ~/coder --exclude node_modules/ --exclude '*.log'\n  \
        nora-backup agent register bot --directory /srv/bot --integration 'slack:general={\"channel\":\"C1\"}'\n  \
        nora-backup agent register bot --directory /srv/bot --destination disk-2 --second-destination offsite"
    )]
    Register(Box<RegisterArgs>),
    /// Show one agent
    #[command(
        alias = "get",
        after_help = "Example:\n  nora-backup agent show my-agent"
    )]
    Show {
        /// The agent
        agent: String,
    },
    /// List agents
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  nora-backup agent list\n  nora-backup agent list --owner user-7 --json"
    )]
    List(ListArgs),
    /// Forget an agent
    #[command(
        visible_alias = "rm",
        alias = "deregister",
        after_help = "Examples:\n  nora-backup agent remove my-agent\n  nora-backup agent remove my-agent --keep-backups\n  nora-backup agent remove my-agent --delete-backups"
    )]
    Remove(RemoveArgs),
}

/// Arguments of `agent register`.
#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// Id of the agent: a-z, 0-9, '-' and '_'
    pub agent: String,
    /// A folder on the workers' machine that holds the agent's state
    #[arg(
        long,
        alias = "dir",
        value_name = "FOLDER",
        required_unless_present = "container",
        conflicts_with = "container"
    )]
    pub directory: Option<PathBuf>,
    /// A container (name or id) on the workers' Docker Engine
    #[arg(long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// A path in the container to back up; may be repeated [default: its volumes and what
    /// differs from its image]
    #[arg(long = "path", value_name = "PATH", requires = "container")]
    pub paths: Vec<String>,
    /// Pause the container while it is read
    #[arg(long, requires = "container")]
    pub pause: bool,
    /// A command to run in the container before it is read, in quotes; without a shell: name one
    /// (sh -c '...') for what only a shell does
    #[arg(long, value_name = "COMMAND", requires = "container", value_parser = words)]
    pub before: Option<Words>,
    /// A command to run in the container afterwards, whatever comes of the backup
    #[arg(long, value_name = "COMMAND", requires = "container", value_parser = words)]
    pub after: Option<Words>,
    /// The user to run these commands as [default: the container's]
    #[arg(long, value_name = "USER", requires = "container")]
    pub hook_user: Option<String>,
    /// Seconds that each of these commands may take [default: 60]
    #[arg(long, value_name = "SECONDS", requires = "container")]
    pub hook_timeout: Option<u32>,
    /// Back up even when the command before fails
    #[arg(long, requires = "before")]
    pub continue_on_error: bool,
    /// What to leave out of its backups, as a line of a .gitignore file; may be repeated, the last
    /// one that matches counts, '!' takes back in
    #[arg(long = "exclude", value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// MB of files from which on its backups carry a warning [default: as the operator set it]
    #[arg(long, value_name = "MB")]
    pub size_warning_mb: Option<u64>,
    /// The user who owns it [default: whom the token names]
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// Name for people [default: the id]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The workspace it belongs to
    #[arg(long, value_name = "WORKSPACE")]
    pub workspace: Option<String>,
    /// The pool of workers that can reach it [default: default]
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// The destination of its new backups [default: the default one]; those that are made already
    /// stay where they lie
    #[arg(long, value_name = "ID")]
    pub destination: Option<String>,
    /// Another destination, to which each completed backup is copied [default: none]
    #[arg(long, value_name = "ID")]
    pub second_destination: Option<String>,
    /// Something it is connected to, as TYPE:NAME or TYPE:NAME=JSON; may be repeated
    #[arg(long = "integration", value_name = "TYPE:NAME[=JSON]", value_parser = integration)]
    pub integrations: Vec<Integration>,
    /// Only when it still has this etag
    #[arg(long, value_name = "ETAG")]
    pub etag: Option<String>,
}

/// Arguments of `agent list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this user's
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// Only this workspace's
    #[arg(long, value_name = "WORKSPACE")]
    pub workspace: Option<String>,
}

/// Arguments of `agent remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The agent
    pub agent: String,
    /// Delete its backups too; without it an agent that has any is kept
    #[arg(long)]
    pub delete_backups: bool,
    /// Delete its backups by destroying their keys first: no copy of them can be read any more
    #[arg(long)]
    pub crypto_erase: bool,
    /// Keep its backups: they can be listed and restored as before
    #[arg(long, conflicts_with_all = ["delete_backups", "crypto_erase"])]
    pub keep_backups: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Runs one of them.
pub async fn run(session: &Session, command: AgentCommand) -> Result<()> {
    match command {
        AgentCommand::Register(args) => register(session, *args).await,
        AgentCommand::Show { agent } => show(session, agent).await,
        AgentCommand::List(args) => list(session, args).await,
        AgentCommand::Remove(args) => remove(session, args).await,
    }
}

async fn register(session: &Session, args: RegisterArgs) -> Result<()> {
    let out = session.out;
    let command = |words: Option<Words>| {
        words.map(|Words(argv)| HookCommand {
            argv,
            user: args.hook_user.clone().unwrap_or_default(),
            timeout: args.hook_timeout.map(|seconds| prost_types::Duration {
                seconds: seconds.into(),
                nanos: 0,
            }),
        })
    };
    let hooks = Hooks {
        before: command(args.before),
        after: command(args.after),
        continue_on_error: args.continue_on_error,
    };
    let kind = match (args.directory, args.container) {
        (Some(folder), _) => {
            let path = absolute(session, &folder)?;
            warn_of_itself(session, &path);
            source::Kind::Directory(DirectorySource { path })
        }
        (None, container) => source::Kind::Docker(DockerSource {
            container: container.unwrap_or_default(),
            paths: args.paths,
            consistency: if args.pause {
                Consistency::Pause
            } else {
                Consistency::Live
            }
            .into(),
            hooks: (hooks != Hooks::default()).then_some(hooks),
        }),
    };
    let owner = args
        .owner
        .or_else(|| session.caller.clone())
        .ok_or_else(|| {
            CliError::usage("whose agent is it? The token names nobody: give --owner USER")
        })?;
    let agent = Agent {
        agent_id: args.agent,
        display_name: args.name.unwrap_or_default(),
        owner_id: owner,
        workspace_id: args.workspace.unwrap_or_default(),
        source: Some(Source { kind: Some(kind) }),
        integrations: args.integrations,
        pool: args.pool.unwrap_or_default(),
        etag: args.etag.unwrap_or_default(),
        patterns: args.patterns,
        size_warning_bytes: args.size_warning_mb.unwrap_or(0).saturating_mul(1 << 20),
        destination_id: args.destination.unwrap_or_default(),
        second_destination_id: args.second_destination.unwrap_or_default(),
        ..Agent::default()
    };
    let request = RegisterAgentRequest { agent: Some(agent) };
    let answer = session
        .agents()
        .register_agent(call(request))
        .await?
        .into_inner();
    if out.json {
        return out.document(&answer.to_json());
    }
    let agent = answer.agent.ok_or_else(incomplete)?;
    if out.quiet {
        return out.line(&agent.agent_id);
    }
    let done = if answer.created {
        "is registered"
    } else {
        "was known; it is up to date"
    };
    out.line(format!("Agent {} {done}", agent.agent_id))?;
    out.note(format!(
        "back it up with `nora-backup backup create {} --watch`",
        agent.agent_id
    ));
    Ok(())
}

/// A path as the workers will see it: a relative one is only meant on this machine.
pub fn absolute(session: &Session, path: &std::path::Path) -> Result<String> {
    if path.is_relative() && !session.server.is_local {
        return Err(CliError::usage(format!(
            "{} is relative, and the service is on another machine: give the absolute path there",
            path.display()
        )));
    }
    let full = std::path::absolute(path)
        .map_err(|error| CliError::io(format!("find {}", path.display()), &error))?;
    full.into_os_string().into_string().map_err(|path| {
        CliError::usage(format!(
            "{} is not UTF-8: the API can't name it",
            path.to_string_lossy()
        ))
    })
}

/// An agent that holds the standalone's own data would back up its backups.
fn warn_of_itself(session: &Session, path: &str) {
    if let Ok(data) = data_dir::default_path()
        && session.server.is_local
        && data.starts_with(path)
        && data.exists()
    {
        session.out.note(format!(
            "warning: {path} holds {}, the service's own data: its backups would grow with each backup",
            data.display()
        ));
    }
}

async fn show(session: &Session, agent_id: String) -> Result<()> {
    let request = GetAgentRequest {
        agent_id: agent_id.clone(),
    };
    let answer = match session.agents().get_agent(call(request)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(agent_error(session, &agent_id, status).await),
    };
    let agent = answer.agent.ok_or_else(incomplete)?;
    if session.out.json {
        return session.out.document(&agent.to_json());
    }
    show::agent(&agent)
        .iter()
        .try_for_each(|line| session.out.line(line))
}

async fn list(session: &Session, args: ListArgs) -> Result<()> {
    let mut request = ListAgentsRequest {
        page_size: 1000,
        owner_id: args.owner.unwrap_or_default(),
        workspace_id: args.workspace.unwrap_or_default(),
        ..ListAgentsRequest::default()
    };
    let mut agents = Vec::new();
    loop {
        let page = session
            .agents()
            .list_agents(call(request.clone()))
            .await?
            .into_inner();
        agents.extend(page.agents);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let out = session.out;
    if out.json {
        let agents: Vec<_> = agents.iter().map(Agent::to_json).collect();
        return out.document(&json!({ "agents": agents }));
    }
    if out.quiet {
        return agents
            .iter()
            .try_for_each(|agent| out.line(&agent.agent_id));
    }
    if agents.is_empty() {
        out.note("no agents; `nora-backup agent register --help` tells how to add one");
        return Ok(());
    }
    show::agents(&agents)
        .iter()
        .try_for_each(|line| out.line(line))
}

async fn remove(session: &Session, args: RemoveArgs) -> Result<()> {
    let out = session.out;
    if (args.delete_backups || args.crypto_erase) && !args.yes {
        let how = if args.crypto_erase {
            "destroy the keys of all its backups"
        } else {
            "delete all its backups"
        };
        out.confirm(&format!("Forget agent {} and {how}?", args.agent))?;
    }
    let request = DeregisterAgentRequest {
        agent_id: args.agent.clone(),
        delete_backups: args.delete_backups,
        crypto_erase: args.crypto_erase,
        keep_backups: args.keep_backups,
    };
    match session.agents().deregister_agent(call(request)).await {
        Ok(_) if out.json => out.document(&json!({ "agent_id": args.agent, "removed": true })),
        Ok(_) if out.quiet => Ok(()),
        Ok(_) => out.line(format!("Agent {} is forgotten", args.agent)),
        Err(status) => {
            let error = agent_error(session, &args.agent, status).await;
            Err(if error.reason.as_deref() == Some("AGENT_HAS_BACKUPS") {
                error.hint("--delete-backups deletes them too, --keep-backups keeps them")
            } else {
                error
            })
        }
    }
}

/// A command line, cut into words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(Vec<String>);

/// Cuts a command line as a shell does: by spaces, with '…', "…" and \ for what holds some.
fn words(text: &str) -> Result<Words, String> {
    let mut all = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\'' | '"', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (char, Some(open)) if char == open => quote = None,
            ('\\', None | Some('"')) => {
                let next = chars
                    .next()
                    .ok_or("it ends with a '\\' that escapes nothing")?;
                word.get_or_insert_default().push(next);
            }
            (char, None) if char.is_whitespace() => all.extend(word.take()),
            (char, _) => word.get_or_insert_default().push(char),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    all.extend(word);
    if all.is_empty() {
        return Err("write a program and its arguments".to_owned());
    }
    Ok(Words(all))
}

fn integration(text: &str) -> Result<Integration, String> {
    let (head, config) = match text.split_once('=') {
        Some((head, config)) => (head, Some(config)),
        None => (text, None),
    };
    let (kind, name) = head
        .split_once(':')
        .filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
        .ok_or("write TYPE:NAME or TYPE:NAME=JSON, for example slack:general")?;
    if let Some(config) = config {
        serde_json::from_str::<serde_json::Value>(config)
            .map_err(|error| format!("what stands after '=' is not JSON: {error}"))?;
    }
    Ok(Integration {
        r#type: kind.into(),
        name: name.into(),
        config_json: config.unwrap_or_default().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_cut_as_a_shell_does() {
        let cases: &[(&str, &[&str])] = &[
            ("sync", &["sync"]),
            ("  a  b ", &["a", "b"]),
            ("sh -c 'a \"b\" > c'", &["sh", "-c", "a \"b\" > c"]),
            (
                r#"psql -c "select \"x\"" ''"#,
                &["psql", "-c", "select \"x\"", ""],
            ),
            (r"a\ b 'c\d'", &["a b", r"c\d"]),
            ("a'b'\"c\"", &["abc"]),
        ];
        for (text, expected) in cases {
            let Words(found) = words(text).expect("words");
            assert_eq!(&found, expected, "{text}");
        }
        for wrong in ["", "  ", "'a", "a\\"] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn integrations() {
        let plain = integration("slack:general").expect("plain");
        assert_eq!(
            (plain.r#type.as_str(), plain.name.as_str()),
            ("slack", "general")
        );
        let full = integration(r#"http:a=b={"x":1}"#);
        assert!(full.is_err(), "b={{..}} is not JSON");
        let full = integration(r#"http:a={"x":"="}"#).expect("json");
        assert_eq!(full.config_json, r#"{"x":"="}"#);
        for wrong in ["slack", ":x", "x:", "x:y={"] {
            assert!(integration(wrong).is_err(), "{wrong}");
        }
    }
}
