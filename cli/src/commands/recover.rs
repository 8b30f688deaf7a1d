//! `recover`: vaults without a service. Destination and key are all that is needed:
//! no database, no server. Nothing at the destination is ever changed.
//!
//! - `place`: the destination and its vaults; what people type to name a backup
//! - `list`: `agents` and `backups`
//! - `verify`: `verify`
//! - `restore`: `restore` to a folder; `document`: what stands beside it
//! - `export`: `export` as a .tar.zst
//! - `catalog`: `catalog`, a lost database made again from the vaults; `registered`: the
//!   destination that was read, as the database knows it
//! - `work`: progress, and the end by Ctrl-C

use std::ffi::OsString;

use clap::{Args, Subcommand};
use vault::{DestinationSettings, KeySettings, VaultSettings};

use crate::{error::Result, output::Output};

mod catalog;
mod document;
mod export;
mod list;
mod place;
mod registered;
mod restore;
mod verify;
mod work;

/// Arguments of `recover`.
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Where the vaults lie and which keys open them is said as to the service: by the same\n\
        variables (NORA_BACKUP_STORAGE, NORA_BACKUP_DIR, NORA_BACKUP_ENCRYPTION_KEY, …) or flags.\n\
        `recover --catalog` is the same as `recover catalog`. Nothing at the destination is changed."
)]
pub struct RecoverArgs {
    /// Where vaults are kept.
    #[command(flatten)]
    destination: DestinationSettings,
    /// The keys.
    #[command(flatten)]
    keys: KeySettings,
    /// How much a vault may use.
    #[command(flatten)]
    vault: VaultSettings,
    /// What to do.
    #[command(subcommand)]
    command: RecoverCommand,
}

/// What can be done without a service. BACKUP is an id, the beginning of one, or `latest`.
#[derive(Debug, Subcommand)]
pub enum RecoverCommand {
    /// List the agents that have backups here, and which key each needs
    #[command(after_help = "Examples:\n  nora-backup recover agents\n  \
        nora-backup recover agents --dir /mnt/backups --json")]
    Agents,
    /// List an agent's backups, the damaged ones with what is wrong
    #[command(after_help = "Example:\n  nora-backup recover backups my-agent")]
    Backups(list::BackupsArgs),
    /// Check an agent's backups, or one of them
    #[command(after_help = "Examples:\n  nora-backup recover verify my-agent\n  \
        nora-backup recover verify my-agent@latest --full")]
    Verify(verify::VerifyArgs),
    /// Bring a backup back to a new folder; what is damaged is named and left out
    #[command(
        after_help = "Examples:\n  nora-backup recover restore my-agent@latest --to /srv/my-agent\n  \
        nora-backup recover restore my-agent@01932f3e-7c4b --to ./my-agent\n\n\
        Of a container, the folder holds its files under their absolute paths. How the container ran, and the\n\
        agent's integrations, are written beside the folder, to FOLDER.agent.json. When something was left out,\n\
        the exit code is 7."
    )]
    Restore(restore::RestoreArgs),
    /// Write a backup as a .tar.zst: the same bytes as a download from the service
    #[command(
        after_help = "Examples:\n  nora-backup recover export my-agent@latest --to my-agent.tar.zst\n  \
        nora-backup recover export my-agent@latest --to - | tar --zstd -x"
    )]
    Export(export::ExportArgs),
    /// Make a lost database again from the vaults
    #[command(
        after_help = "Examples:\n  nora-backup recover catalog --database-url sqlite:/srv/nora-backup/catalog.db\n  \
        nora-backup recover catalog --database-url postgres://nora@db/nora --dry-run\n  \
        nora-backup recover catalog --storage s3 ... --destination offsite\n\n\
        Agents and their completed backups are added; what the database knows already stays. When it knows\n\
        something different, nothing is changed (exit code 6) unless --replace is given."
    )]
    Catalog(catalog::CatalogArgs),
}

/// Runs the command.
pub async fn run(args: RecoverArgs, out: Output) -> Result<()> {
    let place = place::Place::open(&args.destination, &args.keys, args.vault)?;
    match args.command {
        RecoverCommand::Agents => list::agents(&place, out).await,
        RecoverCommand::Backups(args) => list::backups(&place, &args, out).await,
        RecoverCommand::Verify(args) => verify::run(&place, &args, out).await,
        RecoverCommand::Restore(args) => restore::run(&place, args, out).await,
        RecoverCommand::Export(args) => export::run(&place, args, out).await,
        RecoverCommand::Catalog(args) => catalog::run(&place, &args, out).await,
    }
}

/// Lets the settings stand after the command as well as before it.
pub fn complete(command: clap::Command) -> clap::Command {
    command.mut_subcommand("recover", |recover| {
        recover.mut_args(|arg| arg.global(true))
    })
}

/// The command line with `recover --catalog` spelled out.
pub fn spelled_out(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let recover = arguments.iter().position(|argument| argument == "recover");
    if let Some(recover) = recover
        && let Some(flag) = arguments[recover..].iter().position(|a| a == "--catalog")
    {
        arguments.remove(recover + flag);
        arguments.insert(recover + 1, "catalog".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(line: &str) -> RecoverArgs {
        let arguments = spelled_out(line.split(' ').map(OsString::from));
        let matches = crate::command()
            .try_get_matches_from(arguments)
            .expect(line);
        match Cli::from_arg_matches(&matches).expect(line).command {
            Command::Recover(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn settings_stand_before_and_after_the_command() {
        for line in [
            "nora-backup recover --dir /x agents",
            "nora-backup recover agents --dir /x",
        ] {
            let args = parse(line);
            assert_eq!(args.destination.dir, std::path::Path::new("/x"), "{line}");
            assert!(matches!(args.command, RecoverCommand::Agents));
        }
    }

    #[test]
    fn the_flag_is_the_command() {
        for line in [
            "nora-backup recover --catalog --database-url sqlite:/x.db",
            "nora-backup recover --database-url sqlite:/x.db --catalog",
            "nora-backup recover catalog --database-url sqlite:/x.db",
        ] {
            let args = parse(line);
            assert!(matches!(args.command, RecoverCommand::Catalog(_)), "{line}");
        }
        let other = ["nora-backup", "agent", "list"].map(OsString::from);
        assert_eq!(spelled_out(other.clone().into_iter()), other);
    }
}
