//! The settings of this crate: which database, and how failed work is tried again.

use std::{fmt, path::Path, str::FromStr};

use clap::Args;

/// Which database, and how failed jobs are tried again.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Catalog")]
pub struct CatalogSettings {
    /// Database: sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(
        long,
        env = "NORA_BACKUP_DATABASE_URL",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub database_url: DatabaseUrl,
    /// Connections to the database at the most (SQLite: for reading, beside one for writing)
    #[arg(long, env = "NORA_BACKUP_DATABASE_CONNECTIONS", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub database_connections: u32,
    /// How often a job is tried before it fails for good
    #[arg(long, env = "NORA_BACKUP_MAX_ATTEMPTS", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub max_attempts: u32,
    /// Wait before the second attempt of a job, doubled for each further one, in milliseconds
    #[arg(long, env = "NORA_BACKUP_RETRY_BASE_MS", default_value_t = 2_000,
          value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    pub retry_base_ms: u64,
    /// Longest wait between two attempts of a job, in milliseconds
    #[arg(long, env = "NORA_BACKUP_RETRY_MAX_MS", default_value_t = 60_000,
          value_parser = clap::value_parser!(u64).range(0..=86_400_000))]
    pub retry_max_ms: u64,
}

impl CatalogSettings {
    /// The defaults, for a database.
    pub fn new(database_url: DatabaseUrl) -> Self {
        Self {
            database_url,
            database_connections: 8,
            max_attempts: 3,
            retry_base_ms: 2_000,
            retry_max_ms: 60_000,
        }
    }

    /// The defaults, for an SQLite file; it is made when it is not there.
    pub fn sqlite(path: impl AsRef<Path>) -> Self {
        Self::new(DatabaseUrl(format!("sqlite:{}", path.as_ref().display())))
    }
}

/// A database's URL. Its password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The whole URL, password and all: for the driver only.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is not set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it names an SQLite file.
    pub fn is_sqlite(&self) -> bool {
        self.0.starts_with("sqlite:")
    }

    /// The SQLite file, when it names one (not `sqlite::memory:`).
    pub fn sqlite_path(&self) -> Option<&Path> {
        let rest = self.0.strip_prefix("sqlite:")?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let path = rest.split_once('?').map_or(rest, |(path, _)| path);
        (!path.is_empty() && path != ":memory:").then(|| Path::new(path))
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        if value.trim().is_empty() {
            return Ok(Self(String::new()));
        }
        let known = ["sqlite:", "postgres://", "postgresql://"];
        if !known.iter().any(|scheme| value.starts_with(scheme)) {
            // The value may hold a password: only its beginning is shown.
            let scheme = value.split_once(':').map_or("", |(scheme, _)| scheme);
            return Err(format!(
                "it begins with {scheme:?}; it may be sqlite:<path> or postgres://<user>:<password>@<host>/<database>"
            ));
        }
        let url = Self(value.to_owned());
        if url.is_sqlite() && url.sqlite_path().is_none() {
            return Err("sqlite: must be followed by the path of a file".to_owned());
        }
        Ok(url)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_sqlite() {
            f.write_str(&self.0)
        } else {
            f.write_str("postgres://…")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlite_url_names_its_file() {
        for (url, path) in [
            ("sqlite:/data/catalog.db", "/data/catalog.db"),
            ("sqlite:///data/catalog.db", "/data/catalog.db"),
            ("sqlite:catalog.db?cache=private", "catalog.db"),
        ] {
            let url: DatabaseUrl = url.parse().unwrap();
            assert_eq!(url.sqlite_path(), Some(Path::new(path)));
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let url: DatabaseUrl = "postgres://nora:hunter2@db/nora".parse().unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
        let refused = "mysql://nora:hunter2@db"
            .parse::<DatabaseUrl>()
            .unwrap_err();
        assert!(refused.contains("mysql") && !refused.contains("hunter2"));
    }
}
