//! The secrets of a destination: each is read from a file, from standard input or from an
//! environment variable that is named. None is ever an argument, which other people of the
//! machine can see.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, Command, builder::ValueParser};

use crate::error::{CliError, Result};

/// The longest secret that is read: more than any key or token has.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// One secret, with its two flags.
struct Known {
    /// What it is called in the program: the flag without its end.
    name: &'static str,
    /// Flag of the file.
    file: &'static str,
    file_help: &'static str,
    /// Flag of the environment variable.
    variable: &'static str,
    variable_help: &'static str,
    /// Of which flags its own are a part.
    heading: &'static str,
}

macro_rules! known {
    ($name:literal, $heading:literal, $what:literal) => {
        Known {
            name: $name,
            file: concat!($name, "-file"),
            file_help: concat!($what, ": the file that holds it, or - for standard input"),
            variable: concat!($name, "-env"),
            variable_help: concat!($what, ": the environment variable that holds it"),
            heading: $heading,
        }
    };
}

const KNOWN: [Known; 7] = [
    known!("s3-secret-access-key", "S3", "Secret access key"),
    known!(
        "s3-session-token",
        "S3",
        "Session token of temporary credentials"
    ),
    known!("r2-secret-access-key", "R2", "Secret access key"),
    known!(
        "r2-session-token",
        "R2",
        "Session token of temporary credentials"
    ),
    known!("ssh-private-key", "SSH", "Private key (OpenSSH or PEM)"),
    known!("ssh-passphrase", "SSH", "Passphrase of the private key"),
    known!(
        "ssh-password",
        "SSH",
        "Password, when there is no key, or in addition to it"
    ),
];

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    File(PathBuf),
    Variable(String),
}

impl Origin {
    fn is_stdin(&self) -> bool {
        matches!(self, Self::File(path) if path == Path::new("-"))
    }
}

/// Where each secret that is given comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<&'static str, Origin>);

impl Secrets {
    /// Whether this is the name of a secret.
    pub fn is_one(name: &str) -> bool {
        KNOWN.iter().any(|known| known.name == name)
    }

    /// Whether one is given whose name begins so.
    pub fn any(&self, prefix: &str) -> bool {
        self.0.keys().any(|name| name.starts_with(prefix))
    }

    /// The secret of this name, when it is given.
    pub fn read(&self, name: &str) -> Result<Option<String>> {
        let Some((name, origin)) = self.0.get_key_value(name) else {
            return Ok(None);
        };
        let (flag, text) = match origin {
            Origin::Variable(variable) => {
                let flag = format!("--{name}-env {variable}");
                let text = env::var(variable).map_err(|error| match error {
                    env::VarError::NotPresent => {
                        CliError::usage(format!("{flag}: this variable is not set"))
                    }
                    env::VarError::NotUnicode(_) => {
                        CliError::usage(format!("{flag}: this variable is not UTF-8"))
                    }
                })?;
                (flag, text)
            }
            Origin::File(_) if origin.is_stdin() => {
                self.check_stdin()?;
                let flag = format!("--{name}-file -");
                let text = text_of(io::stdin().lock());
                let text = text.map_err(|error| CliError::io(&flag, &error))?;
                (flag, text)
            }
            Origin::File(path) => {
                let flag = format!("--{name}-file {}", path.display());
                let text = File::open(path).and_then(text_of);
                let text = text.map_err(|error| CliError::io(&flag, &error))?;
                (flag, text)
            }
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.trim().is_empty() {
            return Err(CliError::usage(format!("{flag}: nothing is in it")));
        }
        Ok(Some(text.to_owned()))
    }

    /// Standard input can hold one secret only.
    fn check_stdin(&self) -> Result<()> {
        let named: Vec<&str> = self
            .0
            .iter()
            .filter(|(_, origin)| origin.is_stdin())
            .map(|(name, _)| *name)
            .collect();
        if let [first, second, ..] = named[..] {
            return Err(CliError::usage(format!(
                "--{first}-file and --{second}-file are both -, and standard input holds one secret: \
                 give the other one as a file or with -env"
            )));
        }
        Ok(())
    }
}

fn text_of(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source
        .take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it holds more than {SECRET_BYTES_MAX} bytes: that is no secret"
        )));
    }
    Ok(text)
}

impl clap::FromArgMatches for Secrets {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found = BTreeMap::new();
        for known in &KNOWN {
            let file = matches.get_one::<PathBuf>(known.file);
            let variable = matches.get_one::<String>(known.variable);
            let origin = file
                .map(|path| Origin::File(path.clone()))
                .or_else(|| variable.map(|name| Origin::Variable(name.clone())));
            if let Some(origin) = origin {
                found.insert(known.name, origin);
            }
        }
        Ok(Self(found))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

impl clap::Args for Secrets {
    fn augment_args(command: Command) -> Command {
        KNOWN.iter().fold(command, |command, known| {
            let file = Arg::new(known.file)
                .long(known.file)
                .value_name("FILE")
                .value_parser(ValueParser::path_buf())
                .help(known.file_help)
                .help_heading(known.heading);
            let variable = Arg::new(known.variable)
                .long(known.variable)
                .value_name("VARIABLE")
                .help(known.variable_help)
                .help_heading(known.heading)
                .conflicts_with(known.file);
            command.arg(file).arg(variable)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn from_file(path: &Path) -> Secrets {
        Secrets(BTreeMap::from([(
            "ssh-password",
            Origin::File(path.to_owned()),
        )]))
    }

    #[test]
    fn no_secret_is_a_flags_value() {
        let parse = |arguments: &[&str]| {
            let line = ["nora-backup", "destination", "add", "x"];
            Cli::try_parse_from(line.iter().chain(arguments))
        };
        for known in &KNOWN {
            let plain = format!("--{}", known.name);
            for line in [
                &[plain.as_str(), "hunter2"][..],
                &[&format!("{plain}=hunter2")],
            ] {
                let said = parse(line).expect_err("refused").to_string();
                assert!(said.contains(&format!("{plain}-")), "{said}");
                assert!(!said.contains("hunter2"), "{said}");
            }
            let (file, variable) = (format!("{plain}-file"), format!("{plain}-env"));
            parse(&[&file, "-"]).expect("from standard input");
            parse(&[&variable, "SECRET"]).expect("from a variable");
            parse(&[&file, "/run/secret", &variable, "SECRET"]).expect_err("both");
        }
    }

    #[test]
    fn files_hold_a_secret_and_the_end_of_a_line() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("secret");
        let read = |text: &[u8]| {
            fs::write(&path, text).expect("write");
            from_file(&path).read("ssh-password")
        };
        let secret = |text: &[u8]| read(text).expect("read").expect("given");
        assert_eq!(secret(b"a secret \r\n"), "a secret ");
        assert_eq!(
            secret(b"-----BEGIN\nab\n-----END"),
            "-----BEGIN\nab\n-----END"
        );
        let long = vec![b'x'; (64 << 10) + 1];
        for wrong in [&b""[..], b" \n\n", b"\xff", &long] {
            let error = read(wrong).expect_err("no secret");
            assert!(error.message.contains("--ssh-password-file"), "{error}");
        }
        assert!(
            from_file(&path)
                .read("ssh-passphrase")
                .expect("none")
                .is_none()
        );
        let error = from_file(&folder.path().join("missing")).read("ssh-password");
        assert!(error.expect_err("missing").message.contains("missing"));
    }

    #[test]
    fn variables_are_named() {
        let named = |variable: &str| {
            let origin = Origin::Variable(variable.to_owned());
            Secrets(BTreeMap::from([("s3-secret-access-key", origin)]))
        };
        let read = |secrets: &Secrets| secrets.read("s3-secret-access-key");
        let found = read(&named("PATH")).expect("read");
        assert_eq!(found, env::var("PATH").ok());
        let error = read(&named("NORA_TEST_NEVER_SET")).expect_err("not set");
        assert_eq!(
            error.message,
            "--s3-secret-access-key-env NORA_TEST_NEVER_SET: this variable is not set"
        );
    }

    #[test]
    fn standard_input_holds_one_secret() {
        let stdin = || Origin::File("-".into());
        let one = Secrets(BTreeMap::from([("ssh-private-key", stdin())]));
        one.check_stdin().expect("one");
        let two = BTreeMap::from([("ssh-private-key", stdin()), ("ssh-passphrase", stdin())]);
        let error = Secrets(two).read("ssh-private-key").expect_err("two");
        assert!(
            error.message.contains("--ssh-passphrase-file")
                && error.message.contains("--ssh-private-key-file"),
            "{error}"
        );
    }
}
