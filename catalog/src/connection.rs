//! The way to the database: SQLite or PostgreSQL, reading and writing.
//!
//! SQLite has one writer at a time. So one connection writes, with `BEGIN
//! IMMEDIATE`, and writers queue up in this process instead of failing with
//! "database is locked"; several others read beside it (WAL). PostgreSQL has one
//! pool for both, and rows that a transaction will change are locked when read;
//! nothing there waits without a limit, or makes others wait without one.

use std::{path::Path, time::Duration};

use migrations::{Migrator, MigratorTrait as _};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbErr,
    RuntimeErr, SqliteTransactionMode, TransactionOptions, TransactionTrait as _,
    sqlx::{
        postgres::PgConnectOptions,
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
    },
};
use tokio::{net::TcpStream, sync::watch};

use crate::{CatalogError, CatalogSettings, DatabaseUrl, error::Doing as _, limits};

/// Attempts at what another process may be doing at the same moment (making the
/// file WAL, migrating), and the wait between two of them.
const CONTENDED_ATTEMPTS_MAX: u32 = 20;
/// One holds the right to change the schema, another changes it.
const MIGRATION_CONNECTIONS: u32 = 2;
const DIAL_LIMIT: Duration = Duration::from_secs(5);
const CONTENDED_WAIT: Duration = Duration::from_millis(100);
/// PostgreSQL's name for the right to change the schema: any number will do that
/// no other program takes in this database.
const MIGRATION_LOCK: i64 = 0x6e6f_7261_6261_636b;

#[derive(Clone, Debug)]
pub(crate) struct Connection {
    read: DatabaseConnection,
    write: DatabaseConnection,
    sqlite: bool,
    url: DatabaseUrl,
    /// Told after each commit that may have made work for the dispatcher.
    work: watch::Sender<()>,
}

impl Connection {
    pub(crate) async fn open(settings: &CatalogSettings) -> Result<Self, CatalogError> {
        let url = &settings.database_url;
        let sqlite = url.is_sqlite();
        if let Some(path) = url.sqlite_path() {
            make_private(path)?;
        }
        let connections = settings.database_connections;
        let (read, write) = if sqlite {
            let write = connect(sqlite_pool(url, 1, false)).await?;
            let read = connect(sqlite_pool(url, connections, true)).await?;
            (read, write)
        } else {
            let pool = connect(postgres_pool(url, connections)).await?;
            (pool.clone(), pool)
        };
        Ok(Self {
            read,
            write,
            sqlite,
            url: url.clone(),
            work: watch::Sender::default(),
        })
    }

    /// For queries outside of a transaction.
    pub(crate) fn read(&self) -> &DatabaseConnection {
        &self.read
    }

    /// Begins to write. `doing` names the call, in errors and failpoints.
    pub(crate) async fn begin(&self, doing: &'static str) -> Result<Tx, CatalogError> {
        let options = TransactionOptions {
            sqlite_transaction_mode: self.sqlite.then_some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let inner = self.write.begin_with_options(options).await.doing(doing)?;
        Ok(Tx {
            inner,
            doing,
            work: self.work.clone(),
        })
    }

    pub(crate) async fn migrate(&self) -> Result<(), CatalogError> {
        if self.sqlite {
            return self.migrate_on(&self.write).await;
        }
        // A change of a large table takes as long as it takes: without limits.
        let unlimited = connect(pool(&self.url, MIGRATION_CONNECTIONS)).await?;
        let migrated = self.migrate_on(&unlimited).await;
        unlimited.close().await.doing("migrate")?;
        migrated
    }

    async fn migrate_on(&self, database: &DatabaseConnection) -> Result<(), CatalogError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.migrate_once(database).await {
                // Another process may be at it too; the one that comes second
                // finds its work done.
                Err(error)
                    if attempt < CONTENDED_ATTEMPTS_MAX
                        && !matches!(error, CatalogError::Newer { .. }) =>
                {
                    tokio::time::sleep(CONTENDED_WAIT).await;
                }
                result => return result,
            }
        }
    }

    /// On PostgreSQL, one process at a time: the lock ends with its transaction,
    /// or with its connection.
    async fn migrate_once(&self, database: &DatabaseConnection) -> Result<(), CatalogError> {
        let lock = if self.sqlite {
            None
        } else {
            let tx = database.begin().await.doing("migrate")?;
            let take = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
            tx.execute_unprepared(&take).await.doing("migrate")?;
            Some(tx)
        };
        Migrator::install(database).await.doing("migrate")?;
        let applied = Migrator::get_migration_models(database);
        let known = Migrator::migrations();
        for applied in applied.await.doing("migrate")? {
            if !known.iter().any(|known| known.name() == applied.version) {
                let change = applied.version;
                return Err(CatalogError::Newer { change });
            }
        }
        Migrator::up(database, None).await.doing("migrate")?;
        if let Some(lock) = lock {
            lock.commit().await.doing("migrate")?;
        }
        Ok(())
    }

    pub(crate) async fn ping(&self) -> Result<(), CatalogError> {
        self.read
            .execute_unprepared("SELECT 1")
            .await
            .doing("ping")?;
        Ok(())
    }

    /// What does not end in time, PostgreSQL ends when the process is gone.
    pub(crate) async fn close(self) -> Result<(), CatalogError> {
        let limit = Duration::from_millis(limits::CLOSE_TIMEOUT_MS);
        let closed = tokio::time::timeout(limit, async {
            // Readers first: the last connection to an SQLite file empties its log.
            self.read.close().await.doing("close")?;
            self.write.close().await.doing("close")
        });
        closed.await.unwrap_or_else(|_| {
            tracing::warn!("the database did not end its last calls in time");
            Ok(())
        })
    }

    pub(crate) fn work(&self) -> watch::Receiver<()> {
        self.work.subscribe()
    }
}

/// Looks whether anybody answers at a PostgreSQL URL's address: the pool would
/// go on trying for long, and not say why.
pub(crate) async fn dial(url: &DatabaseUrl) -> Result<(), CatalogError> {
    if url.is_empty() {
        return Err(CatalogError::Settings(
            "is not set: set it to postgres://<user>:<password>@<host>/<database>".to_owned(),
        ));
    }
    if url.is_sqlite() {
        return Ok(());
    }
    let options: PgConnectOptions = url
        .expose()
        .parse()
        .map_err(|_| CatalogError::Settings("is not a URL that PostgreSQL knows".to_owned()))?;
    if options.get_socket().is_some() {
        return Ok(());
    }
    let (host, port) = (options.get_host().to_owned(), options.get_port());
    let dialed = tokio::time::timeout(DIAL_LIMIT, TcpStream::connect((host.as_str(), port)));
    let cause = match dialed.await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", DIAL_LIMIT.as_secs()),
    };
    Err(CatalogError::Unreachable {
        address: format!("{host}:{port}"),
        cause,
    })
}

/// A writing transaction; dropped without a commit, it never was.
pub(crate) struct Tx {
    inner: DatabaseTransaction,
    doing: &'static str,
    work: watch::Sender<()>,
}

impl Tx {
    /// To run statements on.
    pub(crate) fn db(&self) -> &DatabaseTransaction {
        &self.inner
    }

    /// What this transaction is for.
    pub(crate) fn doing(&self) -> &'static str {
        self.doing
    }

    /// Makes it so.
    pub(crate) async fn commit(self) -> Result<(), CatalogError> {
        fail::fail_point!(&format!(
            "catalog-before-commit-{}",
            self.doing.replace(' ', "-")
        ));
        self.inner.commit().await.doing(self.doing)?;
        fail::fail_point!(&format!(
            "catalog-after-commit-{}",
            self.doing.replace(' ', "-")
        ));
        Ok(())
    }

    /// Makes it so, and wakes who waits for work.
    pub(crate) async fn commit_with_work(self) -> Result<(), CatalogError> {
        let work = self.work.clone();
        self.commit().await?;
        work.send_replace(());
        Ok(())
    }
}

async fn connect(options: ConnectOptions) -> Result<DatabaseConnection, CatalogError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match Database::connect(options.clone()).await.doing("connect") {
            Err(
                CatalogError::Unavailable { source, .. } | CatalogError::Database { source, .. },
            ) if !options.get_url().starts_with("sqlite") => {
                return Err(refused(&source));
            }
            // Changing to WAL does not wait for SQLite's busy timeout.
            Err(error) if error.is_retryable() && attempt < CONTENDED_ATTEMPTS_MAX => {
                tokio::time::sleep(CONTENDED_WAIT).await;
            }
            result => return result,
        }
    }
}

/// What PostgreSQL says at the door names users and databases, and no password.
fn refused(source: &DbErr) -> CatalogError {
    let said = match source {
        DbErr::Conn(RuntimeErr::SqlxError(error)) => error
            .as_database_error()
            .map(|refusal| refusal.message().to_owned()),
        _ => None,
    };
    match said {
        Some(said) => CatalogError::Settings(format!("the database refused: {said}")),
        None => CatalogError::Unreachable {
            address: "the database".to_owned(),
            cause: "no connection could be made in time, or TLS failed".to_owned(),
        },
    }
}

fn pool(url: &DatabaseUrl, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url.expose());
    options
        .max_connections(connections)
        .min_connections(1)
        .connect_timeout(Duration::from_millis(limits::ACQUIRE_TIMEOUT_MS))
        .acquire_timeout(Duration::from_millis(limits::ACQUIRE_TIMEOUT_MS))
        // Statements hold what tenants wrote: they are not logged.
        .sqlx_logging(false)
        .record_stmt_in_spans(false);
    options
}

fn sqlite_pool(url: &DatabaseUrl, connections: u32, read_only: bool) -> ConnectOptions {
    let mut options = pool(url, connections);
    options
        // A file does not hang up: connections stay.
        .idle_timeout(None::<Duration>)
        .max_lifetime(None::<Duration>)
        .test_before_acquire(false)
        .map_sqlx_sqlite_opts(move |sqlite| sqlite_options(sqlite, read_only));
    options
}

fn postgres_pool(url: &DatabaseUrl, connections: u32) -> ConnectOptions {
    let mut options = pool(url, connections);
    options.map_sqlx_postgres_opts(|postgres| {
        postgres.options([
            ("lock_timeout", limits::LOCK_TIMEOUT_MS),
            ("statement_timeout", limits::STATEMENT_TIMEOUT_MS),
            (
                "idle_in_transaction_session_timeout",
                limits::IDLE_IN_TRANSACTION_TIMEOUT_MS,
            ),
        ])
    });
    options
}

/// The busy timeout is set when the file is opened, before any of these pragmas.
fn sqlite_options(sqlite: SqliteConnectOptions, read_only: bool) -> SqliteConnectOptions {
    let sqlite = sqlite
        .create_if_missing(!read_only)
        .busy_timeout(Duration::from_millis(limits::SQLITE_BUSY_TIMEOUT_MS))
        .journal_mode(SqliteJournalMode::Wal)
        // An acknowledged change outlives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true);
    if read_only {
        sqlite.pragma("query_only", "ON")
    } else {
        sqlite
    }
}

/// Makes the file with mode 0600 when it is not there: it names tenants and
/// what they connect to. SQLite gives its log files the same mode.
fn make_private(path: &Path) -> Result<(), CatalogError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|error| {
            CatalogError::Settings(format!(
                "NORA_BACKUP_DATABASE_URL names {}, which cannot be opened for writing ({error}): make its folder, or name another file",
                path.display()
            ))
        })
}
