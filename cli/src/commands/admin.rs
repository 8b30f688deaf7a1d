//! `admin`: AdminService, on the administrators' listener. One file for each group of rpcs.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::{
    args::Global,
    connect::{Server, Session},
    error::{CliError, Result},
    output::Output,
};

pub mod audit;
pub mod backups;
pub mod in_place;
pub mod jobs;
pub mod pools;
pub mod room;
pub mod workers;

/// The address that a standalone's administrators call when nothing else is said.
const DEFAULT_URL: &str = "127.0.0.1:50552";

/// Items of one page of a list.
const PAGE_SIZE: usize = 500;

/// The moment that is so long ago.
fn ago(span: Duration) -> prost_types::Timestamp {
    let now = jiff::Timestamp::now().as_second();
    prost_types::Timestamp {
        seconds: now.saturating_sub(span.as_secs() as i64).max(0),
        nanos: 0,
    }
}

/// Where administrators call.
#[derive(Debug, Args)]
pub struct AdminServer {
    /// Address of the administrators' listener, as http(s)://HOST:PORT [default:
    /// http://127.0.0.1:50552, the standalone's]
    #[arg(
        long,
        global = true,
        env = "NORA_BACKUP_ADMIN_SERVER",
        value_name = "URL"
    )]
    pub admin_server: Option<String>,
}

impl AdminServer {
    /// The server, when the one of all other calls may be named too.
    pub(super) fn of(&self, global: &Global) -> Result<Server> {
        admin_server(self.admin_server.as_deref(), global.server.as_deref())
    }
}

/// Arguments of `admin`.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// Where administrators call.
    #[command(flatten)]
    pub server: AdminServer,
    /// What to do.
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// What administrators can do.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// List the workers and the pools that they serve, as last seen
    #[command(
        after_help = "Examples:\n  nora-backup admin workers\n  nora-backup admin workers --within 1h --json"
    )]
    Workers(workers::WorkersArgs),
    /// Replace an agent by one of its backups, where it lives
    ///
    /// First a backup of the agent as it is now is made and protected. Then what is there is stopped
    /// and replaced, and started as it was before. When anything fails, what was there is put back.
    #[command(
        after_help = "Examples:\n  nora-backup admin restore-in-place my-agent@latest --confirm my-agent --watch\n  \
        nora-backup admin restore-in-place 0198a6 --confirm writer"
    )]
    RestoreInPlace(in_place::InPlaceArgs),
    /// Tell whether there is room for another workspace (NORA_BACKUP_STORAGE_MB)
    ///
    /// Exits with 1 when there is none.
    #[command(after_help = "Example:\n  nora-backup admin room")]
    Room,
    /// List the pools, with what waits in their queues and what nobody could use
    #[command(
        after_help = "Examples:\n  nora-backup admin pools\n  nora-backup admin pools --json"
    )]
    Pools(pools::PoolsArgs),
    /// List jobs: those that are stuck, retrying or dead, or all
    #[command(
        after_help = "Examples:\n  nora-backup admin jobs dead\n  nora-backup admin jobs --pool gpu --state queued\n  \
        nora-backup admin jobs stuck --json"
    )]
    Jobs(jobs::JobsArgs),
    /// Give failed jobs a new try
    #[command(
        after_help = "Examples:\n  nora-backup admin retry 01932f3e-7c4b-7000-8000-000000000001\n  \
        nora-backup admin retry $(nora-backup admin jobs dead --quiet)"
    )]
    Retry(jobs::RetryArgs),
    /// List everyone's backups, newest first
    #[command(
        after_help = "Examples:\n  nora-backup admin backups --state failed --since 24h\n  \
        nora-backup admin backups --owner user-7 --scheduled"
    )]
    Backups(backups::BackupsArgs),
    /// Show who did what, newest first
    #[command(after_help = "Examples:\n  nora-backup admin audit my-agent\n  \
        nora-backup admin audit --caller user-7 --since 7d\n  \
        nora-backup admin audit --method BackupService/DownloadBackup --json")]
    Audit(audit::AuditArgs),
}

/// Runs one of them.
pub async fn run(global: &Global, args: AdminArgs, out: Output) -> Result<()> {
    let server = args.server.of(global)?;
    let session = &Session::connect_to(server, global, out).await?;
    match args.command {
        AdminCommand::Workers(args) => workers::run(session, args).await,
        AdminCommand::RestoreInPlace(args) => in_place::run(session, args).await,
        AdminCommand::Room => room::run(session).await,
        AdminCommand::Pools(args) => pools::run(session, args).await,
        AdminCommand::Jobs(args) => jobs::list(session, args).await,
        AdminCommand::Retry(args) => jobs::retry(session, args).await,
        AdminCommand::Backups(args) => backups::run(session, args).await,
        AdminCommand::Audit(args) => audit::run(session, args).await,
    }
}

/// The standalone's, unless another is named: whoever names another service has to say where its
/// administrators call, so that nothing is asked of the wrong one.
fn admin_server(given: Option<&str>, server: Option<&str>) -> Result<Server> {
    let named = |text: Option<&str>| text.is_some_and(|text| !text.trim().is_empty());
    if !named(given) && named(server) {
        return Err(CliError::usage(
            "where do administrators call? --server (NORA_BACKUP_SERVER) is set, and \
             --admin-server (NORA_BACKUP_ADMIN_SERVER) is not",
        )
        .hint("set it to what the service has as NORA_BACKUP_ADMIN_ADDR, as http(s)://HOST:PORT"));
    }
    Server::parse_as(
        "--admin-server (NORA_BACKUP_ADMIN_SERVER)",
        given,
        DEFAULT_URL,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn administrators_are_never_sent_to_another_service() {
        let url = |given, server| admin_server(given, server).map(|server| server.url);
        assert_eq!(url(None, None).expect("default"), "http://127.0.0.1:50552");
        assert_eq!(
            url(Some(""), Some("")).expect("empty is not set"),
            "http://127.0.0.1:50552"
        );
        assert_eq!(
            url(Some("https://a:1"), Some("https://b:2")).expect("named"),
            "https://a:1"
        );
        let error = url(None, Some("https://b:2")).expect_err("not named");
        assert_eq!(error.exit, Exit::Usage);
        let error = url(Some("ftp://a"), None).expect_err("wrong");
        assert!(
            error.message.contains("NORA_BACKUP_ADMIN_SERVER"),
            "{error}"
        );
    }
}
