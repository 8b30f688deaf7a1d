//! `restore`: RestoreService.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use proto::backup::v1::{
    CancelRestoreRequest, CreateRestoreDraftRequest, DirectoryTarget, DockerTarget,
    GetRestoreRequest, ListRestoresRequest, ListRestoresResponse, Restore, RestorePlan,
    StartRestoreRequest, restore::State, restore_plan,
};
use uuid::Uuid;

use super::agent::absolute;
use crate::{
    connect::{Session, call},
    error::{CliError, Result},
    find::{self, Latest, incomplete},
    output::json::Document as _,
    show, watch,
};

/// What can be done with restores. The original agent is never touched.
#[derive(Debug, Subcommand)]
pub enum RestoreCommand {
    /// Plan a restore: nothing is made yet
    #[command(
        after_help = "Examples:\n  nora-backup restore draft my-agent@latest\n  \
        nora-backup restore draft 01932f3e-7c4b --agent my-agent-2 --to ~/my-agent-2\n  \
        nora-backup restore draft my-agent@latest --from offsite"
    )]
    Draft(DraftArgs),
    /// Start a planned restore
    #[command(
        after_help = "Examples:\n  nora-backup restore start 01932f40-11aa --watch\n  \
        nora-backup restore start 01932f40-11aa --choose port:8080/tcp=random"
    )]
    Start(StartArgs),
    /// Plan a restore and start it at once
    #[command(
        visible_alias = "new",
        after_help = "Examples:\n  nora-backup restore create my-agent@latest --watch\n  \
        nora-backup restore create my-agent@latest --agent my-agent-2 --to ~/my-agent-2 --watch\n  \
        nora-backup restore create writer@latest --container writer-2 --start --watch"
    )]
    Create(CreateArgs),
    /// Show one restore: its plan, its decisions, why it failed
    #[command(
        alias = "get",
        after_help = "Example:\n  nora-backup restore show 01932f40-11aa"
    )]
    Show(OneArgs),
    /// List restores, newest first
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  nora-backup restore list\n  \
        nora-backup restore list my-agent@latest --json"
    )]
    List(ListArgs),
    /// Follow a restore until it ends
    #[command(after_help = "Example:\n  nora-backup restore watch 01932f40-11aa")]
    Watch(OneArgs),
    /// Stop a restore; what it made is removed
    #[command(after_help = "Example:\n  nora-backup restore cancel 01932f40-11aa")]
    Cancel(OneArgs),
}

/// What is wished otherwise than the defaults.
#[derive(Debug, Clone, Default, Args)]
pub struct PlanArgs {
    /// Id of the new agent [default: the old one's with -restored and some letters]
    #[arg(long = "agent", visible_alias = "agent-id", value_name = "AGENT")]
    pub agent_id: Option<String>,
    /// Name of the new agent, for people
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Workspace of the new agent [default: the old one's]
    #[arg(long, value_name = "WORKSPACE")]
    pub workspace: Option<String>,
    /// The folder to make, for an agent that lives in a folder [default: beside the old one]
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["container", "image", "start"])]
    pub to: Option<PathBuf>,
    /// Name of the container to make, for an agent that lives in a container
    #[arg(long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// Image of the container [default: the one it had]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Start the container in the end [default: it stays stopped]
    #[arg(long)]
    pub start: bool,
}

/// Arguments of `restore draft`.
#[derive(Debug, Args)]
pub struct DraftArgs {
    /// The backup: its id, the beginning of it, or AGENT@latest (the newest completed one)
    pub backup: String,
    /// The plan.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// The destination where it is read, of one of its copies [default: where it lies]
    #[arg(long, value_name = "DESTINATION")]
    pub from: Option<String>,
    /// Makes the call idempotent: the same id again returns the first answer
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
}

/// Arguments of `restore start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// The restore: its id or the beginning of it
    pub restore: String,
    /// Decides something, as DECISION=CHOICE (`restore show` lists them); may be repeated
    #[arg(long = "choose", value_name = "DECISION=CHOICE", value_parser = choice)]
    pub choices: Vec<(String, String)>,
    /// Follow it until it ends
    #[arg(long, short)]
    pub watch: bool,
}

/// Arguments of `restore create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The draft.
    #[command(flatten)]
    pub draft: DraftArgs,
    /// Decides something, as DECISION=CHOICE (`restore draft` lists them); may be repeated
    #[arg(long = "choose", value_name = "DECISION=CHOICE", value_parser = choice)]
    pub choices: Vec<(String, String)>,
    /// Follow it until it ends
    #[arg(long, short)]
    pub watch: bool,
}

/// The restore that a command is about.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// The restore: its id or the beginning of it
    pub restore: String,
}

/// Arguments of `restore list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this backup's: its id, the beginning of it, or AGENT@latest
    pub backup: Option<String>,
    /// How many at the most
    #[arg(
        long,
        short = 'n',
        default_value_t = 50,
        value_name = "NUMBER",
        conflicts_with = "all"
    )]
    pub limit: usize,
    /// All of them
    #[arg(long, short)]
    pub all: bool,
}

/// Runs one of them.
pub async fn run(session: &Session, command: RestoreCommand) -> Result<()> {
    match command {
        RestoreCommand::Draft(args) => {
            let restore = draft(session, args).await?;
            print(session, &restore)?;
            session.out.note(format!(
                "start it with `nora-backup restore start {} --watch`",
                restore.restore_id
            ));
            Ok(())
        }
        RestoreCommand::Start(args) => {
            let id = find::restore_id(session, &args.restore).await?;
            start(session, &id, args.choices, args.watch).await
        }
        RestoreCommand::Create(args) => {
            let restore = draft(session, args.draft).await?;
            start(session, &restore.restore_id, args.choices, args.watch).await
        }
        RestoreCommand::Show(args) => {
            let restore = get(session, &args.restore).await?;
            print(session, &restore)
        }
        RestoreCommand::List(args) => list(session, args).await,
        RestoreCommand::Watch(args) => {
            let id = find::restore_id(session, &args.restore).await?;
            let ended = watch::restore(session, &id).await?;
            watch::conclude_restore(session, &ended)
        }
        RestoreCommand::Cancel(args) => cancel(session, &args.restore).await,
    }
}

/// Plans a restore.
pub async fn draft(session: &Session, args: DraftArgs) -> Result<Restore> {
    let plan = plan(session, args.plan)?;
    let backup_id = find::backup_id(session, &args.backup, Latest::Completed).await?;
    let request = CreateRestoreDraftRequest {
        backup_id,
        plan: Some(plan),
        request_id: args
            .request_id
            .unwrap_or_else(|| Uuid::now_v7().to_string()),
        destination_id: args.from.unwrap_or_default(),
    };
    let answer = session.restores().create_restore_draft(call(request)).await;
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(find::copy_error(&args.backup, status)),
    };
    answer.restore.ok_or_else(incomplete)
}

fn plan(session: &Session, args: PlanArgs) -> Result<RestorePlan> {
    let target = if let Some(path) = &args.to {
        Some(restore_plan::Target::Directory(DirectoryTarget {
            path: absolute(session, path)?,
        }))
    } else if args.container.is_some() || args.image.is_some() || args.start {
        Some(restore_plan::Target::Docker(DockerTarget {
            container_name: args.container.unwrap_or_default(),
            image: args.image.unwrap_or_default(),
            start: args.start,
        }))
    } else {
        None
    };
    Ok(RestorePlan {
        agent_id: args.agent_id.unwrap_or_default(),
        display_name: args.name.unwrap_or_default(),
        workspace_id: args.workspace.unwrap_or_default(),
        target,
    })
}

async fn start(
    session: &Session,
    restore_id: &str,
    choices: Vec<(String, String)>,
    watch: bool,
) -> Result<()> {
    let out = session.out;
    let restore = start_restore(session, restore_id, choices).await?;
    if watch {
        let agent = restore.plan.map(|plan| plan.agent_id).unwrap_or_default();
        out.note(format!("restore {restore_id} to new agent {agent}"));
        let ended = watch::restore(session, restore_id).await?;
        return watch::conclude_restore(session, &ended);
    }
    if out.json {
        return out.document(&restore.to_json());
    }
    if out.quiet {
        return out.line(restore_id);
    }
    out.line(format!(
        "Restore {restore_id} is {}",
        show::restore_state(&restore)
    ))?;
    out.note(format!(
        "follow it with `nora-backup restore watch {restore_id}`"
    ));
    Ok(())
}

/// Starts a draft; when something is undecided, the error lists it.
pub async fn start_restore(
    session: &Session,
    restore_id: &str,
    choices: Vec<(String, String)>,
) -> Result<Restore> {
    let request = StartRestoreRequest {
        restore_id: restore_id.to_string(),
        choices: choices.into_iter().collect(),
    };
    match session.restores().start_restore(call(request)).await {
        Ok(answer) => answer.into_inner().restore.ok_or_else(incomplete),
        Err(status) => Err(undecided(session, restore_id, status.into()).await),
    }
}

async fn undecided(session: &Session, restore_id: &str, mut error: CliError) -> CliError {
    if error.reason.as_deref() != Some("DECISION_MISSING") {
        return error;
    }
    let request = GetRestoreRequest {
        restore_id: restore_id.to_string(),
    };
    let open = session.restores().get_restore(call(request)).await;
    let decisions = open
        .ok()
        .and_then(|answer| answer.into_inner().restore)
        .unwrap_or_default();
    error.fields.extend(
        decisions
            .decisions
            .into_iter()
            .filter(|decision| decision.required && decision.choice.is_empty())
            .map(|decision| (decision.decision_id, decision.message)),
    );
    error.hint(format!(
        "decide with `nora-backup restore start {restore_id} --choose DECISION=CHOICE`; \
         `nora-backup restore show {restore_id}` lists the choices"
    ))
}

async fn get(session: &Session, text: &str) -> Result<Restore> {
    let restore_id = find::restore_id(session, text).await?;
    let answer = session
        .restores()
        .get_restore(call(GetRestoreRequest { restore_id }))
        .await?;
    answer.into_inner().restore.ok_or_else(incomplete)
}

fn print(session: &Session, restore: &Restore) -> Result<()> {
    let out = session.out;
    if out.json {
        return out.document(&restore.to_json());
    }
    if out.quiet {
        return out.line(&restore.restore_id);
    }
    show::restore(restore)
        .iter()
        .try_for_each(|line| out.line(line))
}

async fn list(session: &Session, args: ListArgs) -> Result<()> {
    let out = session.out;
    let backup_id = match args.backup {
        Some(text) => find::backup_id(session, &text, Latest::Completed).await?,
        None => String::new(),
    };
    let limit = if args.all { usize::MAX } else { args.limit };
    let mut request = ListRestoresRequest {
        backup_id,
        ..ListRestoresRequest::default()
    };
    let mut listed = ListRestoresResponse::default();
    while listed.restores.len() < limit {
        request.page_size = (limit - listed.restores.len()).min(1000) as i32;
        let page = session
            .restores()
            .list_restores(call(request.clone()))
            .await?
            .into_inner();
        listed.restores.extend(page.restores);
        listed.next_page_token.clone_from(&page.next_page_token);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if out.json {
        return out.document(&listed.to_json());
    }
    if out.quiet {
        return listed
            .restores
            .iter()
            .try_for_each(|restore| out.line(&restore.restore_id));
    }
    if listed.restores.is_empty() {
        out.note("no restores; `nora-backup restore create BACKUP --watch` makes one");
        return Ok(());
    }
    show::restores(&listed.restores)
        .iter()
        .try_for_each(|line| out.line(line))?;
    if !listed.next_page_token.is_empty() {
        out.note("there are more: --limit NUMBER or --all shows them");
    }
    Ok(())
}

async fn cancel(session: &Session, text: &str) -> Result<()> {
    let out = session.out;
    let restore_id = find::restore_id(session, text).await?;
    let request = CancelRestoreRequest {
        restore_id: restore_id.clone(),
    };
    let answer = session
        .restores()
        .cancel_restore(call(request))
        .await?
        .into_inner();
    let restore = answer.restore.ok_or_else(incomplete)?;
    if out.json {
        return out.document(&restore.to_json());
    }
    if out.quiet {
        return Ok(());
    }
    if restore.state() == State::Canceled {
        return out.line(format!("Restore {restore_id} is CANCELED"));
    }
    out.line(format!(
        "Restore {restore_id} is being canceled; its worker stops in a moment"
    ))
}

fn choice(text: &str) -> Result<(String, String), String> {
    text.rsplit_once('=')
        .filter(|(decision, choice)| !decision.is_empty() && !choice.is_empty())
        .map(|(decision, choice)| (decision.to_string(), choice.to_string()))
        .ok_or_else(|| "write DECISION=CHOICE, for example port:8080/tcp=random".to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn choices() {
        let wanted = ("port:8080/tcp".to_string(), "random".to_string());
        assert_eq!(choice("port:8080/tcp=random"), Ok(wanted));
        for wrong in ["port", "=x", "x="] {
            assert!(choice(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_and_a_container_exclude_each_other() {
        let line = [
            "nora-backup",
            "restore",
            "create",
            "a@latest",
            "--to",
            "/x",
            "--start",
        ];
        assert!(Cli::try_parse_from(line).is_err());
    }
}
