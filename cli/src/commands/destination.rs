//! `destination`: the places where vaults are kept. Calls `CreateDestination`,
//! `GetDestination`, `ListDestinations`, `UpdateDestination`, `DeleteDestination` and
//! `TestDestination` at the administrators' listener.

use clap::{Args, Subcommand};
use proto::backup::v1::{
    CreateDestinationRequest, DeleteDestinationRequest, Destination, GetDestinationRequest,
    ListDestinationsRequest, UpdateDestinationRequest,
};
use serde_json::json;
use tonic::{Code, Status};

use super::admin::AdminServer;
use crate::{
    args::Global,
    connect::{Session, call},
    error::{CliError, Result},
    find::incomplete,
    output::{Output, human, json::Document as _},
    show,
};

mod place;
mod probe;
mod secrets;

/// Items of one page of a list.
const PAGE_SIZE: i32 = 500;

/// Arguments of `destination`.
#[derive(Debug, Args)]
pub struct DestinationArgs {
    /// Where administrators call.
    #[command(flatten)]
    pub server: AdminServer,
    /// What to do.
    #[command(subcommand)]
    pub command: DestinationCommand,
}

/// What can be done about destinations.
#[derive(Debug, Subcommand)]
pub enum DestinationCommand {
    /// List the destinations: of which kind they are and where
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  nora-backup destination list\n  nora-backup destination list --json"
    )]
    List,
    /// Show one destination; secrets are never shown
    #[command(
        alias = "get",
        after_help = "Example:\n  nora-backup destination show offsite"
    )]
    Show {
        /// The destination
        #[arg(value_name = "ID")]
        destination: String,
    },
    /// Add a destination; `destination test` tries it, before or after
    #[command(
        alias = "create",
        after_help = "Examples:\n  nora-backup destination add disk-2 --local /mnt/disk-2/nora\n  \
        nora-backup destination add offsite --s3-bucket nora-backups --s3-region eu-central-1 \\\n    \
        --s3-access-key-id AKIA... --s3-secret-access-key-file /run/secrets/s3\n  \
        nora-backup destination add vault-7 --ssh-host backup.example.net --ssh-username nora \\\n    \
        --ssh-remote-path /data --ssh-private-key-file ~/.ssh/nora --ssh-host-key 'ssh-ed25519 AAAA...'"
    )]
    Add(Box<ChangeArgs>),
    /// Change how a destination is reached, or its name; what is not given stays as it is
    #[command(
        after_help = "Examples:\n  nora-backup destination update offsite --s3-access-key-id AKIA... \\\n    \
        --s3-secret-access-key-env NEW_SECRET\n  \
        nora-backup destination update offsite --name 'Frankfurt'"
    )]
    Update(Box<ChangeArgs>),
    /// Forget a destination; what lies there stays there
    #[command(
        visible_alias = "rm",
        alias = "delete",
        after_help = "Examples:\n  nora-backup destination remove offsite\n  nora-backup destination remove offsite --yes"
    )]
    Remove(RemoveArgs),
    /// Try a destination from the service: write, read, list, rename and delete a small object
    ///
    /// With ID alone: the one that is known. With the flags of `destination add`: a place that is not
    /// known yet; with both: the one that is known as it would be after an update. Exits with 1 when a
    /// step fails.
    #[command(after_help = "Examples:\n  nora-backup destination test offsite\n  \
        nora-backup destination test --local /mnt/disk-2/nora\n  \
        nora-backup destination test offsite --s3-access-key-id AKIA... --s3-secret-access-key-file -")]
    Test(Box<probe::TestArgs>),
}

/// Arguments of `destination add` and `destination update`.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Id of the destination: a-z, 0-9, '-' and '_'
    #[arg(value_name = "ID")]
    pub destination: String,
    /// Name for people [default: the id]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where it is.
    #[command(flatten)]
    pub place: place::PlaceArgs,
}

/// Arguments of `destination remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The destination
    #[arg(value_name = "ID")]
    pub destination: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Runs one of them.
pub async fn run(global: &Global, args: DestinationArgs, out: Output) -> Result<()> {
    let server = args.server.of(global)?;
    let session = &Session::connect_to(server, global, out).await?;
    match args.command {
        DestinationCommand::List => list(session).await,
        DestinationCommand::Show { destination } => {
            let destination = get(session, &destination).await?;
            print(out, &destination)
        }
        DestinationCommand::Add(args) => add(session, *args).await,
        DestinationCommand::Update(args) => update(session, *args).await,
        DestinationCommand::Remove(args) => remove(session, args).await,
        DestinationCommand::Test(args) => probe::run(session, *args).await,
    }
}

async fn list(session: &Session) -> Result<()> {
    let mut request = ListDestinationsRequest {
        page_size: PAGE_SIZE,
        ..ListDestinationsRequest::default()
    };
    let mut all = Vec::new();
    loop {
        let mut client = session.admin();
        let page = client.list_destinations(call(request.clone())).await?;
        let page = page.into_inner();
        all.extend(page.destinations);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let out = session.out;
    if out.json {
        let all: Vec<_> = all.iter().map(Destination::to_json).collect();
        return out.document(&json!({ "destinations": all }));
    }
    if out.quiet {
        return all.iter().try_for_each(|it| out.line(&it.destination_id));
    }
    show::destinations(&all)
        .iter()
        .try_for_each(|line| out.line(line))
}

async fn get(session: &Session, id: &str) -> Result<Destination> {
    let request = GetDestinationRequest {
        destination_id: id.to_owned(),
    };
    match session.admin().get_destination(call(request)).await {
        Ok(answer) => answer.into_inner().destination.ok_or_else(incomplete),
        Err(status) => Err(refused(session, status)),
    }
}

async fn add(session: &Session, args: ChangeArgs) -> Result<()> {
    let kind = args.place.place(session)?;
    let destination = Destination {
        destination_id: args.destination,
        display_name: args.name.unwrap_or_default(),
        kind: Some(kind),
        ..Destination::default()
    };
    let request = CreateDestinationRequest {
        destination: Some(destination),
    };
    let answer = session.admin().create_destination(call(request)).await;
    let answer = answer.map_err(|status| refused(session, status))?;
    let added = answer.into_inner().destination.ok_or_else(incomplete)?;
    said(session.out, &added, "is added")?;
    session.out.note(format!(
        "try it with `nora-backup destination test {id}`; an agent's backups go there with `nora-backup \
         agent register AGENT ... --destination {id}`",
        id = human::printable(&added.destination_id)
    ));
    Ok(())
}

async fn update(session: &Session, args: ChangeArgs) -> Result<()> {
    let known = get(session, &args.destination).await?;
    let place = args
        .place
        .change(session, &args.destination, known.kind.clone())?;
    let paths: Vec<String> = [
        args.name.is_some().then_some("display_name"),
        place.as_ref().map(place::sort),
    ]
    .into_iter()
    .flatten()
    .map(str::to_owned)
    .collect();
    if paths.is_empty() {
        return Err(CliError::usage(
            "what shall be changed? Give --name, or flags of the place",
        ));
    }
    let destination = Destination {
        destination_id: args.destination,
        display_name: args.name.unwrap_or(known.display_name),
        kind: place.or(known.kind),
        etag: known.etag,
        ..Destination::default()
    };
    let request = UpdateDestinationRequest {
        destination: Some(destination),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    let answer = session.admin().update_destination(call(request)).await;
    let answer = answer.map_err(|status| refused(session, status))?;
    let changed = answer.into_inner().destination.ok_or_else(incomplete)?;
    said(session.out, &changed, "is changed")
}

async fn remove(session: &Session, args: RemoveArgs) -> Result<()> {
    let out = session.out;
    let known = get(session, &args.destination).await?;
    let id = human::printable(&known.destination_id);
    if !args.yes {
        out.confirm(&format!(
            "Forget destination {id} ({})? What lies there stays there",
            human::printable(&known.place)
        ))?;
    }
    let request = DeleteDestinationRequest {
        destination_id: args.destination,
        etag: known.etag,
    };
    match session.admin().delete_destination(call(request)).await {
        Ok(_) if out.json => {
            out.document(&json!({ "destination_id": known.destination_id, "removed": true }))
        }
        Ok(_) if out.quiet => Ok(()),
        Ok(_) => out.line(format!("Destination {id} is forgotten")),
        Err(status) => Err(refused(session, status)),
    }
}

/// An answer of the service that it will not, as people read it: flags for fields.
fn refused(session: &Session, status: Status) -> CliError {
    let missing = status.code() == Code::NotFound;
    let error = place::with_flags(session, status.into());
    if missing {
        return error.hint("`nora-backup destination list` shows the destinations");
    }
    if error.reason.as_deref() == Some("ETAG_MISMATCH") {
        return error.hint("someone changed it meanwhile: look at it, then do it again");
    }
    error
}

/// Says what became of a destination.
fn said(out: Output, destination: &Destination, what: &str) -> Result<()> {
    if out.json {
        return out.document(&destination.to_json());
    }
    let id = human::printable(&destination.destination_id);
    if out.quiet {
        return out.line(id);
    }
    let place = human::printable(&destination.place);
    out.line(format!("Destination {id} {what}: {place}"))
}

fn print(out: Output, destination: &Destination) -> Result<()> {
    if out.json {
        return out.document(&destination.to_json());
    }
    if out.quiet {
        return out.line(human::printable(&destination.destination_id));
    }
    show::destination(destination)
        .iter()
        .try_for_each(|line| out.line(line))
}
