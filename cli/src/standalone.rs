//! stub
pub mod data_dir;
/// stub
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  nora-backup standalone")]
pub struct StandaloneArgs {}
/// stub
pub fn complete(command: clap::Command) -> clap::Command {
    command
}
/// stub
pub async fn run(_args: StandaloneArgs, _out: crate::output::Output) -> crate::error::Result<()> {
    Ok(())
}
