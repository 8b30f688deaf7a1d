//! `backup`: BackupService.

mod entries;
pub mod make;
mod read;
mod verify;

use clap::Subcommand;
pub use make::request_backup;

use crate::{connect::Session, error::Result};

/// What can be done with backups. BACKUP is an id, the beginning of one, or
/// AGENT@latest.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Back an agent up now
    #[command(
        visible_alias = "new",
        after_help = "Examples:\n  nora-backup backup create my-agent --watch\n  \
        nora-backup backup create my-agent --name 'before the upgrade'"
    )]
    Create(make::CreateArgs),
    /// List backups, newest first
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  nora-backup backup list\n  \
        nora-backup backup list my-agent --state completed,failed\n  nora-backup backup list --all --json"
    )]
    List(make::ListArgs),
    /// Show one backup: state, figures, warnings, why it failed
    #[command(
        alias = "get-backup",
        after_help = "Examples:\n  nora-backup backup show 01932f3e-7c4b\n  \
        nora-backup backup show my-agent@latest --json"
    )]
    Show(make::OneArgs),
    /// Follow a backup until it ends
    #[command(
        after_help = "Examples:\n  nora-backup backup watch my-agent@latest\n  \
        nora-backup backup watch 01932f3e-7c4b --json"
    )]
    Watch(make::OneArgs),
    /// Stop a backup that waits or runs
    #[command(after_help = "Example:\n  nora-backup backup cancel 01932f3e-7c4b")]
    Cancel(make::OneArgs),
    /// Remove a backup for good
    #[command(
        visible_alias = "rm",
        alias = "remove",
        after_help = "Examples:\n  nora-backup backup delete 01932f3e-7c4b\n  \
        nora-backup backup delete 01932f3e-7c4b --yes"
    )]
    Delete(make::DeleteArgs),
    /// Keep a backup from every rule and from deletion
    #[command(
        after_help = "Examples:\n  nora-backup backup protect 0193…\n  nora-backup backup protect 0193… --undo"
    )]
    Protect {
        /// The backup: its id, the beginning of it, or AGENT@latest
        backup: String,
        /// Take the protection back
        #[arg(long)]
        undo: bool,
    },
    /// Bring a whole backup here, as a .tar.zst
    #[command(
        after_help = "Examples:\n  nora-backup backup download my-agent@latest\n  \
        nora-backup backup download my-agent@latest -o state.tar.zst --resume\n  \
        nora-backup backup download my-agent@latest -o - | tar --zstd -x"
    )]
    Download(read::DownloadArgs),
    /// List the files in a backup
    #[command(
        visible_alias = "ls-files",
        alias = "entries",
        after_help = "Examples:\n  nora-backup backup files my-agent@latest\n  \
        nora-backup backup files my-agent@latest src --recursive"
    )]
    Files(entries::FilesArgs),
    /// Bring one file of a backup here
    #[command(
        visible_alias = "cat",
        after_help = "Examples:\n  nora-backup backup get my-agent@latest notes/today.md\n  \
        nora-backup backup get my-agent@latest notes/today.md -o -"
    )]
    Get(read::GetArgs),
    /// Read a backup through and check that every byte is right
    #[command(
        alias = "check",
        after_help = "Examples:\n  nora-backup backup verify my-agent@latest\n  \
        nora-backup backup verify 01932f3e-7c4b --depth structure --no-wait\n  \
        nora-backup backup verify my-agent@latest --at offsite"
    )]
    Verify(verify::VerifyArgs),
    /// Show how much storage backups take
    #[command(
        alias = "du",
        after_help = "Examples:\n  nora-backup backup usage\n  nora-backup backup usage my-agent"
    )]
    Usage(make::UsageArgs),
}

/// Runs one of them.
pub async fn run(session: &Session, command: BackupCommand) -> Result<()> {
    match command {
        BackupCommand::Create(args) => make::create(session, args).await,
        BackupCommand::List(args) => make::list(session, args).await,
        BackupCommand::Show(args) => make::show(session, args).await,
        BackupCommand::Watch(args) => make::watch(session, args).await,
        BackupCommand::Cancel(args) => make::cancel(session, args).await,
        BackupCommand::Protect { backup, undo } => make::protect(session, &backup, !undo).await,
        BackupCommand::Delete(args) => make::delete(session, args).await,
        BackupCommand::Download(args) => read::download(session, args).await,
        BackupCommand::Files(args) => entries::files(session, args).await,
        BackupCommand::Get(args) => read::get(session, args).await,
        BackupCommand::Verify(args) => verify::verify(session, args).await,
        BackupCommand::Usage(args) => make::usage(session, args).await,
    }
}
