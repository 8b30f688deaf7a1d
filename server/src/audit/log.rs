//! The audit log's way into the catalog: one writer, many calls in one transaction.
//!
//! A call waits for its row (a little while), so that what was answered is on record; under load
//! one transaction serves all calls that wait. When the catalog can't be written the call is
//! answered all the same: what it did has happened. The row is lost then, is counted, and stands
//! in the process's log.

use std::{sync::Arc, time::Duration};

use catalog::{AuditEntry, Catalog};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Rows that wait for the writer.
const WAITING_MAX: usize = 8_192;
/// Rows of one transaction.
const BATCH: usize = catalog::limits::BATCH_ROWS_MAX as usize;
/// How long a call waits for its row.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a batch is tried, and the wait between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(250);

struct Row {
    entry: AuditEntry,
    written: Option<oneshot::Sender<()>>,
}

/// Takes what is to be written. Clones share one writer.
#[derive(Clone)]
pub struct AuditLog {
    rows: mpsc::Sender<Row>,
}

/// Ends the writer.
pub struct Writer {
    close: CancellationToken,
    running: JoinHandle<()>,
}

impl AuditLog {
    /// Starts the writer.
    pub fn start(catalog: Catalog) -> (Self, Writer) {
        let (rows, waiting) = mpsc::channel(WAITING_MAX);
        let close = CancellationToken::new();
        let running = tokio::spawn(write_all(catalog, waiting, close.clone()));
        (Self { rows }, Writer { close, running })
    }

    /// Writes a row, and waits until it stands; not for long.
    pub async fn write(&self, entry: AuditEntry) {
        let (written, done) = oneshot::channel();
        let row = Row {
            entry,
            written: Some(written),
        };
        match self.rows.try_send(row) {
            Ok(()) => {
                let _ = timeout(PATIENCE, done).await;
            }
            Err(error) => lost(&error.into_inner().entry),
        }
    }

    /// Has a row written, without waiting: for where nothing can wait.
    pub fn note(&self, entry: AuditEntry) {
        let row = Row {
            entry,
            written: None,
        };
        if let Err(error) = self.rows.try_send(row) {
            lost(&error.into_inner().entry);
        }
    }
}

impl Writer {
    /// Writes what waits, and ends; in at most this time.
    pub async fn close(self, limit: Duration) {
        self.close.cancel();
        if timeout(limit, self.running).await.is_err() {
            warn!("the audit log was not written to its end");
        }
    }
}

async fn write_all(catalog: Catalog, mut waiting: mpsc::Receiver<Row>, close: CancellationToken) {
    let mut rows = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            received = waiting.recv_many(&mut rows, BATCH) => {
                if received == 0 {
                    break;
                }
                write(&catalog, std::mem::take(&mut rows)).await;
            }
            // What waits already still comes.
            () = close.cancelled(), if !waiting.is_closed() => waiting.close(),
        }
    }
}

async fn write(catalog: &Catalog, rows: Vec<Row>) {
    let (entries, waiting): (Vec<AuditEntry>, Vec<_>) =
        rows.into_iter().map(|row| (row.entry, row.written)).unzip();
    let mut tries = 0;
    let failed = loop {
        tries += 1;
        match catalog.write_audit(&entries).await {
            Ok(()) => break None,
            Err(error) if error.is_retryable() && tries < TRIES => {
                warn!(%error, rows = entries.len(), "write the audit log");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => break Some(Arc::new(error)),
        }
    };
    match failed {
        None => metrics::counter!("nora_backup_audit_rows_total").increment(entries.len() as u64),
        Some(cause) => {
            error!(error = %cause, rows = entries.len(), "the audit log could not be written");
            entries.iter().for_each(lost);
        }
    }
    for written in waiting.into_iter().flatten() {
        let _ = written.send(());
    }
}

/// The log of the process is the last place where it can stand.
fn lost(entry: &AuditEntry) {
    metrics::counter!("nora_backup_audit_lost_total").increment(1);
    warn!(
        caller_id = entry.caller_id,
        role = entry.role,
        method = entry.method,
        resources = ?entry.resources,
        peer = entry.peer,
        code = entry.code,
        "an audited call is on record only here"
    );
}

#[cfg(test)]
mod tests {
    use catalog::{AuditFilter, CatalogSettings, PageRequest};

    use super::*;

    fn entry(method: &str) -> AuditEntry {
        AuditEntry {
            time_ms: 1_800_000_000_000,
            method: method.to_owned(),
            ..AuditEntry::default()
        }
    }

    #[tokio::test]
    async fn what_waits_is_written_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let settings = CatalogSettings::sqlite(folder.path().join("catalog.db"));
        let catalog = Catalog::connect(&settings).await.unwrap();
        catalog.migrate().await.unwrap();
        let (log, writer) = AuditLog::start(catalog.clone());
        log.write(entry("first")).await;
        let all = || async {
            let (filter, page) = (AuditFilter::default(), PageRequest::first(1_000));
            let found = catalog.list_audit(&filter, &page).await;
            found.unwrap().items.len()
        };
        assert_eq!(all().await, 1, "a call's row stands when the call returns");
        for _ in 0..700 {
            log.note(entry("more"));
        }
        writer.close(Duration::from_secs(20)).await;
        assert_eq!(all().await, 701);
        // Nobody writes any more: nothing hangs.
        log.write(entry("late")).await;
        assert_eq!(all().await, 701);
    }

    #[tokio::test]
    async fn a_catalog_that_is_away_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let settings = CatalogSettings::sqlite(folder.path().join("catalog.db"));
        let catalog = Catalog::connect(&settings).await.unwrap();
        catalog.migrate().await.unwrap();
        let (log, writer) = AuditLog::start(catalog.clone());
        catalog.close().await.unwrap();
        let begun = std::time::Instant::now();
        log.write(entry("unlucky")).await;
        assert!(begun.elapsed() < PATIENCE + Duration::from_secs(3));
        writer.close(Duration::from_secs(20)).await;
    }
}
