//! stub
/// stub
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  nora-backup demo")]
pub struct DemoArgs {}
/// stub
pub async fn run(_args: DemoArgs, _out: crate::output::Output) -> crate::error::Result<()> {
    Ok(())
}
