//! `completions`: scripts for shells.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{args::Cli, error::Result, output::Output};

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nora-backup completions bash > ~/.local/share/bash-completion/completions/nora-backup\n  \
    nora-backup completions zsh > ~/.zfunc/_nora-backup\n  \
    nora-backup completions fish > ~/.config/fish/completions/nora-backup.fish"
)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs, out: Output) -> Result<()> {
    out.part(&script(args.shell))
}

fn script(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nora-backup", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            assert!(script(shell).contains("nora-backup"), "{shell}");
        }
    }
}
