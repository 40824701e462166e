//! The thread that writes rows: takes what has gathered and commits it as one transaction.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, TransactionBehavior};

use super::error::LedgerError;
use super::row::Row;
use super::schema::connect;
use super::stats::Counts;

/// Most rows of one transaction.
const BATCH_ROWS: usize = 256;

/// What the thread is told.
pub(super) enum Command {
    /// Write it.
    Record(Box<Row>),
    /// Answer when all that came before is written or dropped.
    Flush(Sender<()>),
}

/// The thread's own.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) patience: Duration,
    pub(super) max_rows: u64,
    pub(super) max_age: Option<Duration>,
    pub(super) counts: Arc<Counts>,
    pub(super) opened: Option<Opened>,
    /// A full disk is simulated by it.
    #[cfg(test)]
    pub(super) max_pages: Option<u32>,
}

/// A connection, and the file that it is to.
pub(super) struct Opened {
    connection: Connection,
    file: Option<(u64, u64)>,
}

impl Writer {
    /// The thread's work, until nobody can tell it more.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        while let Ok(first) = commands.recv() {
            let mut rows = Vec::new();
            let mut waiting = Vec::new();
            let mut next = Some(first);
            while let Some(command) = next {
                match command {
                    Command::Record(row) => rows.push(row),
                    Command::Flush(answer) => waiting.push(answer),
                }
                next = if rows.len() < BATCH_ROWS { commands.try_recv().ok() } else { None };
            }
            if !rows.is_empty() {
                self.write(&rows);
            }
            for answer in waiting {
                // Nobody listens any more where a flush was given up.
                let _ = answer.send(());
            }
        }
    }

    /// Opens the database where it is not open, or where the file is no longer the one that was opened.
    pub(super) fn open(&mut self, create: bool) -> Result<&mut Connection, LedgerError> {
        let file = identity(&self.path);
        // SQLite would go on writing into a file that was deleted, for nobody to read.
        if self.opened.as_ref().is_some_and(|opened| opened.file != file) {
            self.opened = None;
        }
        if self.opened.is_none() {
            let connection = connect(&self.path, create, self.patience)?;
            #[cfg(test)]
            if let Some(pages) = self.max_pages {
                connection
                    .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
                    .map_err(|error| LedgerError::of_sqlite(&self.path, self.patience, &error))?;
            }
            self.opened = Some(Opened { connection, file: identity(&self.path) });
        }
        match &mut self.opened {
            Some(opened) => Ok(&mut opened.connection),
            None => Err(LedgerError::Closed),
        }
    }

    /// Commits rows, or drops them.
    fn write(&mut self, rows: &[Box<Row>]) {
        let count = rows.len() as u64;
        match self.try_write(rows) {
            Ok(written) => {
                self.counts.written.fetch_add(written, Ordering::Relaxed);
                self.counts.duplicates.fetch_add(count - written, Ordering::Relaxed);
                self.counts.transactions.fetch_add(1, Ordering::Relaxed);
                self.counts.is_well();
            }
            Err(error) => {
                if !error.may_pass() {
                    // Opened anew for the next rows: the trouble may have been this file's.
                    self.opened = None;
                }
                self.counts.dropped(count, error.drop_reason(), error.to_string());
            }
        }
        self.counts.queued.fetch_sub(count, Ordering::Relaxed);
    }

    fn try_write(&mut self, rows: &[Box<Row>]) -> Result<u64, LedgerError> {
        let (max_rows, max_age) = (self.max_rows, self.max_age);
        let (path, patience) = (self.path.clone(), self.patience);
        insert(self.open(true)?, rows, max_rows, max_age)
            .map_err(|error| LedgerError::of_sqlite(&path, patience, &error))
    }
}

/// Inserts the rows that are not there yet, and deletes those that are too many or too old. Returns how many are new.
fn insert(
    connection: &mut Connection,
    rows: &[Box<Row>],
    max_rows: u64,
    max_age: Option<Duration>,
) -> rusqlite::Result<u64> {
    // At once, not with the first row: a lock cannot be waited for once something was read.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut new = 0;
    {
        let columns = Row::COLUMNS.join(", ");
        let places = vec!["?"; Row::COLUMNS.len()].join(", ");
        let mut statement = transaction.prepare_cached(&format!(
            "INSERT INTO requests ({columns}) VALUES ({places}) ON CONFLICT (request_id, arrived_unix_s) DO NOTHING"
        ))?;
        for row in rows {
            new += statement.execute(&row.values()[..])? as u64;
        }
        transaction
            .prepare_cached("DELETE FROM requests WHERE id <= (SELECT max(id) FROM requests) - ?")?
            .execute([max_rows])?;
        if let Some(age) = max_age {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            transaction
                .prepare_cached("DELETE FROM requests WHERE arrived_unix_s < ?")?
                .execute([now.as_secs_f64() - age.as_secs_f64()])?;
        }
    }
    transaction.commit()?;
    Ok(new)
}

/// What tells a file from another one of the same name; none where there is none.
fn identity(path: &PathBuf) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}
