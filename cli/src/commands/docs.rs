//! `docs`: documentation that is generated from the command line itself.

use std::{collections::BTreeSet, fmt::Write as _};

use clap::{ArgAction, Subcommand};

use crate::{error::Result, output::Output};

/// What can be generated.
#[derive(Debug, Subcommand)]
pub enum DocsCommand {
    /// docs/configuration.md
    Configuration,
}

/// Prints it.
pub fn run(command: &DocsCommand, out: Output) -> Result<()> {
    match command {
        DocsCommand::Configuration => out.part(&configuration()),
    }
}

const HEAD: &str = "# Configuration

<!-- Made by `nora-backup docs configuration > docs/configuration.md`. Do not edit by hand. -->

Every setting is an environment variable and a flag; the flag wins. A variable that is set but empty counts as
not set. A wrong value stops the start with a line that names the variable and what it may hold.
";

/// One setting.
struct Setting {
    variable: String,
    flag: String,
    default: String,
    meaning: String,
}

/// Every setting that has an environment variable, by the part it belongs to.
pub fn configuration() -> String {
    let mut command = crate::command();
    command.build();
    let mut parts: Vec<(String, Vec<Setting>)> = Vec::new();
    let mut seen = BTreeSet::new();
    let standalone = command.find_subcommand("standalone").into_iter();
    let token = command
        .find_subcommand("token")
        .and_then(|token| token.find_subcommand("mint"));
    let admin = command.find_subcommand("admin");
    let sources = [
        (standalone.collect::<Vec<_>>(), "Service"),
        (vec![&command], "Client commands"),
        (admin.into_iter().collect(), "Client commands"),
        (token.into_iter().collect(), "Tokens"),
    ];
    for (commands, default_part) in sources {
        for arg in commands.iter().flat_map(|command| command.get_arguments()) {
            let Some(setting) = setting(arg) else {
                continue;
            };
            if !seen.insert(setting.variable.clone()) {
                continue;
            }
            let part = match arg.get_help_heading() {
                None | Some("Options") => default_part,
                Some("Global options") => "Client commands",
                Some(heading) => heading,
            };
            match parts.iter_mut().find(|(name, _)| name == part) {
                Some((_, settings)) => settings.push(setting),
                None => parts.push((part.to_string(), vec![setting])),
            }
        }
    }
    let mut text = HEAD.to_string();
    for (part, settings) in parts {
        let _ = write!(
            text,
            "\n## {part}\n\n| variable | flag | default | meaning |\n| --- | --- | --- | --- |\n"
        );
        for Setting {
            variable,
            flag,
            default,
            meaning,
        } in settings
        {
            let _ = writeln!(text, "| `{variable}` | `{flag}` | {default} | {meaning} |");
        }
    }
    text
}

fn setting(arg: &clap::Arg) -> Option<Setting> {
    if arg.is_hide_set() {
        return None;
    }
    let variable = arg.get_env()?.to_string_lossy().into_owned();
    let value = arg
        .get_value_names()
        .and_then(|names| names.first())
        .map_or_else(|| "VALUE".to_string(), ToString::to_string);
    let takes_value = !matches!(arg.get_action(), ArgAction::SetTrue);
    let flag = format!("--{}", arg.get_long()?);
    let flag = if takes_value {
        format!("{flag} {value}")
    } else {
        flag
    };
    let defaults: Vec<String> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy().into_owned())
        .filter(|value| !value.is_empty())
        .collect();
    let default = if defaults.is_empty() {
        String::new()
    } else {
        format!("`{}`", defaults.join(", "))
    };
    let help = arg
        .get_long_help()
        .or_else(|| arg.get_help())
        .map(ToString::to_string);
    let meaning = help
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    Some(Setting {
        variable,
        flag: flag.replace('|', "\\|"),
        default,
        meaning: meaning.replace('|', "\\|"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == configuration(),
            "docs/configuration.md is not what the program says; make it again with \
             `nora-backup docs configuration > docs/configuration.md`"
        );
    }

    #[test]
    fn the_page_about_commands_names_all_of_them() {
        fn check(command: &clap::Command, path: &str, page: &str) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                let path = format!("{path} {}", sub.get_name());
                if sub.has_subcommands() {
                    check(sub, &path, page);
                } else {
                    assert!(page.contains(&path), "docs/cli.md does not name `{path}`");
                }
            }
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
        let page = std::fs::read_to_string(path).expect("docs/cli.md");
        check(&crate::command(), "nora-backup", &page);
        for (exit, meaning) in crate::exit::TABLE {
            assert!(
                page.contains(&format!("| {} | {meaning} |", exit.number())),
                "{exit:?}"
            );
        }
    }

    #[test]
    fn no_secret_has_a_default() {
        for line in configuration()
            .lines()
            .filter(|l| l.contains("SECRET") || l.contains("ENCRYPTION_KEY"))
        {
            assert!(
                line.split(" | ")
                    .nth(2)
                    .is_some_and(|cell| cell.trim().is_empty() || cell.contains("DATA_DIR")),
                "{line}"
            );
        }
    }
}
