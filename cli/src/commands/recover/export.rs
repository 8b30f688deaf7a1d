//! `recover export`: a backup as a .tar.zst, the same bytes as a download.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use vault::{BackupReader, TarSpec};

use super::{place::Place, work::Work};
use crate::{
    error::{CliError, Result},
    exit::Exit,
    output::{Output, human},
};

/// Arguments of `recover export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The backup: AGENT@BACKUP, AGENT@latest, or AGENT for its latest
    #[arg(value_name = "AGENT@BACKUP")]
    named: String,
    /// The file to write, or '-' for standard output
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Replace a file that exists
    #[arg(long, short)]
    force: bool,
}

/// Exports. A damaged backup has no whole archive: then nothing is left at FILE.
pub(super) async fn run(place: &Place, args: ExportArgs, out: Output) -> Result<()> {
    let chosen = place.backup(&args.named).await?;
    let work = Work::default();
    let opened = chosen.vault.open_strictly(&chosen.at, work.cancel.clone());
    let reader = opened.await.map_err(damaged)?;
    let what = format!("export {}", human::printable(&chosen.manifest.backup_id));
    if args.to == Path::new("-") {
        return work
            .block(out, &what, move || write(&reader, &mut io::stdout().lock()))
            .await;
    }
    let path = args.to.clone();
    let force = args.force;
    let bytes = work
        .block(out, &what, move || to_file(&reader, &path, force))
        .await?;
    out.tell(format!("{}: {}", args.to.display(), human::bytes(bytes)));
    Ok(())
}

fn write(reader: &BackupReader, sink: &mut dyn Write) -> Result<()> {
    reader
        .export_tar_zst(&TarSpec::default(), sink)
        .map_err(damaged)
}

/// An archive is whole or not at all; a folder can be had in part.
fn damaged(error: vault::VaultError) -> CliError {
    let hint = error.is_fault();
    let error = CliError::from(error);
    if hint {
        error.hint("`nora-backup recover restore` brings back what is left of a damaged backup")
    } else {
        error
    }
}

/// Under another name first: what bears the name is whole.
fn to_file(reader: &BackupReader, path: &Path, force: bool) -> Result<u64> {
    if !force && path.symlink_metadata().is_ok() {
        return Err(CliError::new(
            Exit::Refused,
            format!("{} exists already: --force replaces it", path.display()),
        ));
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let failed = |error: io::Error| CliError::io(format!("write {}", path.display()), &error);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&part)
        .map_err(failed)?;
    let written = write(reader, &mut file)
        .and_then(|()| file.sync_all().map_err(failed))
        .and_then(|()| std::fs::rename(&part, path).map_err(failed));
    if let Err(error) = written {
        // What is there of it is of no use.
        let _ = std::fs::remove_file(&part);
        return Err(error);
    }
    Ok(file.metadata().map_err(failed)?.len())
}
