//! The keys that wrap data keys, and where they come from: a variable, a file, or a
//! command that asks a KMS or a secret store. A setting has one source; two are a mistake.

use std::path::PathBuf;

use clap::{Args, builder::TypedValueParser as _};
use zeroize::Zeroizing;

use super::{SettingsError, wrong};
use crate::keyring::{KeyEncryptionKey, Keyring};

mod command;
mod file;

const KEY: &str = "NORA_BACKUP_ENCRYPTION_KEY";
const KEY_FILE: &str = "NORA_BACKUP_ENCRYPTION_KEY_FILE";
const KEY_COMMAND: &str = "NORA_BACKUP_ENCRYPTION_KEY_COMMAND";
const PREVIOUS: &str = "NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS";
const PREVIOUS_FILE: &str = "NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS_FILE";
const PREVIOUS_COMMAND: &str = "NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS_COMMAND";
const FORM: &str = "64 hexadecimal digits, for example from `nora-backup key new`";

/// The keys that wrap data keys.
#[derive(Clone, Default, Args)]
#[command(next_help_heading = "Keys")]
pub struct KeySettings {
    /// Key-encryption key that wraps new data keys: 64 hexadecimal digits.
    #[arg(
        long = "encryption-key",
        env = "NORA_BACKUP_ENCRYPTION_KEY",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true,
        value_name = "HEX"
    )]
    pub encryption_key: String,
    /// File that holds that key, instead of NORA_BACKUP_ENCRYPTION_KEY.
    #[arg(
        long = "encryption-key-file",
        env = "NORA_BACKUP_ENCRYPTION_KEY_FILE",
        default_value = "",
        hide_default_value = true,
        value_name = "FILE",
        value_parser = clap::builder::StringValueParser::new().map(PathBuf::from)
    )]
    pub encryption_key_file: PathBuf,
    /// Command that prints that key, instead of NORA_BACKUP_ENCRYPTION_KEY: run once at
    /// the start through `sh -c`, for at most 30 s.
    #[arg(
        long = "encryption-key-command",
        env = "NORA_BACKUP_ENCRYPTION_KEY_COMMAND",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true,
        value_name = "COMMAND"
    )]
    pub encryption_key_command: String,
    /// Key-encryption keys that only read, separated by commas.
    #[arg(
        long = "previous-encryption-keys",
        env = "NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true,
        value_name = "HEX,..."
    )]
    pub previous_encryption_keys: String,
    /// File that holds those keys, one a line, instead of
    /// NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS.
    #[arg(
        long = "previous-encryption-keys-file",
        env = "NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS_FILE",
        default_value = "",
        hide_default_value = true,
        value_name = "FILE",
        value_parser = clap::builder::StringValueParser::new().map(PathBuf::from)
    )]
    pub previous_encryption_keys_file: PathBuf,
    /// Command that prints those keys, one a line, instead of
    /// NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS: run once at the start through `sh -c`, for at
    /// most 30 s.
    #[arg(
        long = "previous-encryption-keys-command",
        env = "NORA_BACKUP_PREVIOUS_ENCRYPTION_KEYS_COMMAND",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true,
        value_name = "COMMAND"
    )]
    pub previous_encryption_keys_command: String,
    /// Keys that only read, beside those that are configured.
    #[arg(skip)]
    pub kept_keys: Vec<String>,
}

impl std::fmt::Debug for KeySettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySettings(..)")
    }
}

impl KeySettings {
    /// Whether a key to write with is set, wherever it comes from.
    pub fn is_set(&self) -> bool {
        self.writing().iter().any(Source::is_set)
    }

    /// The keyring. Reads files and runs commands: to be called once, at the start.
    pub fn keyring(&self) -> Result<Keyring, SettingsError> {
        let mut keys = match one_source(&self.writing())? {
            None => return Err(wrong(KEY, format!("is not set: set it to {FORM}"))),
            Some(source) => (source.variable(), source.read()?),
        };
        let (variable, writing) = (keys.0, keys.1.pop());
        let writing = writing.filter(|_| keys.1.is_empty()).ok_or_else(|| {
            let count = keys.1.len() + usize::from(!keys.1.is_empty());
            wrong(variable, format!("gives {count} keys: one writes"))
        })?;
        let mut previous: Vec<KeyEncryptionKey> = Vec::new();
        let configured = match one_source(&self.previous())? {
            None => Vec::new(),
            Some(source) => source.read()?,
        };
        let kept = self.kept_keys.iter().map(|text| parse(KEY, text));
        for key in configured.into_iter().map(Ok).chain(kept) {
            let key = key?;
            let known = |other: &KeyEncryptionKey| other.id() == key.id();
            if !known(&writing) && !previous.iter().any(known) {
                previous.push(key);
            }
        }
        Ok(Keyring::new(writing, previous))
    }

    fn writing(&self) -> [Source<'_>; 3] {
        [
            Source::Text(KEY, &self.encryption_key),
            Source::File(KEY_FILE, &self.encryption_key_file),
            Source::Command(KEY_COMMAND, &self.encryption_key_command),
        ]
    }

    fn previous(&self) -> [Source<'_>; 3] {
        [
            Source::Text(PREVIOUS, &self.previous_encryption_keys),
            Source::File(PREVIOUS_FILE, &self.previous_encryption_keys_file),
            Source::Command(PREVIOUS_COMMAND, &self.previous_encryption_keys_command),
        ]
    }
}

/// Where keys come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Text(&'static str, &'a str),
    File(&'static str, &'a std::path::Path),
    Command(&'static str, &'a str),
}

impl Source<'_> {
    fn variable(&self) -> &'static str {
        match self {
            Self::Text(variable, _) | Self::File(variable, _) | Self::Command(variable, _) => {
                variable
            }
        }
    }

    fn is_set(&self) -> bool {
        match self {
            Self::Text(_, text) | Self::Command(_, text) => !text.trim().is_empty(),
            Self::File(_, path) => !path.as_os_str().is_empty(),
        }
    }

    fn read(&self) -> Result<Vec<KeyEncryptionKey>, SettingsError> {
        let variable = self.variable();
        let text = match self {
            Self::Text(_, text) => Zeroizing::new((*text).to_owned()),
            Self::File(_, path) => file::read(variable, path)?,
            Self::Command(_, line) => command::read(variable, line)?,
        };
        text.lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(|line| line.split(','))
            .filter(|text| !text.trim().is_empty())
            .map(|text| parse(variable, text))
            .collect()
    }
}

/// The one source that is set, if any.
fn one_source<'a>(sources: &[Source<'a>]) -> Result<Option<Source<'a>>, SettingsError> {
    let mut set = sources.iter().filter(|source| source.is_set());
    match (set.next(), set.next()) {
        (Some(first), Some(second)) => Err(wrong(
            first.variable(),
            format!("is set, and so is {}: keep one of them", second.variable()),
        )),
        (first, _) => Ok(first.copied()),
    }
}

fn parse(variable: &'static str, text: &str) -> Result<KeyEncryptionKey, SettingsError> {
    KeyEncryptionKey::from_hex(text).ok_or_else(|| {
        let length = text.trim().chars().count();
        wrong(
            variable,
            format!("holds {length} characters that are no key: set it to {FORM}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222222222222222222222222222";

    fn id(hex: &str) -> String {
        KeyEncryptionKey::from_hex(hex).expect("a key").id()
    }

    fn ids(settings: &KeySettings) -> Result<String, String> {
        settings
            .keyring()
            .map(|keyring| keyring.ids())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn keys_come_from_variables_files_and_commands() {
        let dir = tempfile::tempdir().expect("folder");
        let (one, both) = (dir.path().join("one"), dir.path().join("both"));
        fs::write(&one, format!("{ONE}\n")).expect("write");
        fs::write(&both, format!("# old keys\n{ONE}\n\n  {TWO}  \n")).expect("write");
        let (a, b) = (id(ONE), id(TWO));
        let text = |text: &str| text.to_owned();
        let cases = [
            (
                KeySettings {
                    encryption_key: text(ONE),
                    ..KeySettings::default()
                },
                a.clone(),
            ),
            (
                KeySettings {
                    encryption_key_file: one.clone(),
                    previous_encryption_keys: format!("{TWO},{ONE}"),
                    ..KeySettings::default()
                },
                format!("{a}, {b}"),
            ),
            (
                KeySettings {
                    encryption_key_command: format!("echo {TWO}"),
                    previous_encryption_keys_file: both.clone(),
                    ..KeySettings::default()
                },
                format!("{b}, {a}"),
            ),
            (
                KeySettings {
                    encryption_key: text(ONE),
                    previous_encryption_keys_command: format!("echo {TWO}; echo {TWO}"),
                    kept_keys: vec![text(TWO), text(ONE)],
                    ..KeySettings::default()
                },
                format!("{a}, {b}"),
            ),
        ];
        for (settings, expected) in cases {
            assert!(settings.is_set());
            assert_eq!(ids(&settings), Ok(expected));
        }
        assert!(!KeySettings::default().is_set());
    }

    #[test]
    fn a_wrong_source_is_named_and_nothing_of_a_key_is_said() {
        let dir = tempfile::tempdir().expect("folder");
        let two = dir.path().join("two");
        fs::write(&two, format!("{ONE}\n{TWO}\n")).expect("write");
        let none = dir.path().join("none");
        let writing = |encryption_key: &str, file: &std::path::Path, command: &str| KeySettings {
            encryption_key: encryption_key.to_owned(),
            encryption_key_file: file.to_owned(),
            encryption_key_command: command.to_owned(),
            ..KeySettings::default()
        };
        let nowhere = PathBuf::new();
        let cases = [
            (
                writing("", &nowhere, ""),
                "NORA_BACKUP_ENCRYPTION_KEY is not set",
            ),
            (
                writing(ONE, &two, ""),
                "NORA_BACKUP_ENCRYPTION_KEY is set, and so is NORA_BACKUP_ENCRYPTION_KEY_FILE",
            ),
            (
                writing("", &two, "echo"),
                "NORA_BACKUP_ENCRYPTION_KEY_FILE is set, and so is NORA_BACKUP_ENCRYPTION_KEY_COMMAND",
            ),
            (
                writing("", &two, ""),
                "NORA_BACKUP_ENCRYPTION_KEY_FILE gives 2 keys: one writes",
            ),
            (
                writing("", &none, ""),
                "NORA_BACKUP_ENCRYPTION_KEY_FILE names a file that cannot be read",
            ),
            (
                writing(&ONE[1..], &nowhere, ""),
                "NORA_BACKUP_ENCRYPTION_KEY holds 63 characters that are no key",
            ),
            (
                writing("", &nowhere, "true"),
                "NORA_BACKUP_ENCRYPTION_KEY_COMMAND gives 0 keys",
            ),
            (
                writing(
                    "",
                    &nowhere,
                    &format!("echo {ONE}; echo the vault is sealed {ONE} >&2; exit 3"),
                ),
                "NORA_BACKUP_ENCRYPTION_KEY_COMMAND ended with exit status: 3 (it said: the vault is sealed [a key])",
            ),
        ];
        for (settings, expected) in cases {
            let error = ids(&settings).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains(&ONE[..20]), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
