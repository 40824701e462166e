//! [`Ledger`]: the whole of it as callers see it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, TransactionBehavior};

use super::error::LedgerError;
use super::query::{self, Filter, Recorded};
use super::reconcile::{ModelErrors, reconcile};
use super::row::Row;
use super::runtime::RuntimeFit;
use super::schema::connect;
use super::stats::{Counts, DropReason, LedgerStats};
use super::writer::{Command, Writer};

/// How a ledger is opened.
#[derive(Clone, PartialEq, Debug)]
pub struct LedgerSettings {
    /// Whether a database is made where there is none, with its folder.
    pub create: bool,
    /// Most rows that are kept; the first recorded go first.
    pub max_rows: u64,
    /// How long a row is kept after its request arrived; for ever where none.
    pub max_age: Option<Duration>,
    /// Rows that may wait to be written.
    pub queue_rows: usize,
    /// How long another process' lock is waited for.
    pub patience: Duration,
    #[cfg(test)]
    pub(super) max_pages: Option<u32>,
}

impl Default for LedgerSettings {
    /// A hundred thousand rows, some 25 MB, of the last half year.
    fn default() -> Self {
        Self {
            create: true,
            max_rows: 100_000,
            max_age: Some(Duration::from_secs(180 * 86_400)),
            queue_rows: 4096,
            patience: Duration::from_secs(5),
            #[cfg(test)]
            max_pages: None,
        }
    }
}

/// An open ledger. Every method may be called from any thread.
pub struct Ledger {
    path: PathBuf,
    patience: Duration,
    counts: Arc<Counts>,
    commands: Mutex<Option<SyncSender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    process: u32,
}

impl Ledger {
    /// Opens the database at `path`, with the thread that writes to it.
    ///
    /// One that is locked or has no space now is opened all the same: the rows to come may find it well again.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`], [`LedgerError::Newer`], [`LedgerError::Foreign`], [`LedgerError::Damaged`], or what the
    /// system refuses. The file is left as it is.
    pub fn open(path: impl Into<PathBuf>, settings: &LedgerSettings) -> Result<Self, LedgerError> {
        let path = path.into();
        if settings.queue_rows == 0 || settings.max_rows == 0 || settings.max_rows > i64::MAX.cast_unsigned() {
            return Err(LedgerError::Setting("rows kept and rows that may wait are at least 1".to_owned()));
        }
        if settings.create
            && let Some(folder) = path.parent()
        {
            std::fs::create_dir_all(folder).map_err(|source| LedgerError::Folder { path: path.clone(), source })?;
        }
        let counts = Arc::new(Counts::default());
        let mut writer = Writer {
            path: path.clone(),
            patience: settings.patience,
            max_rows: settings.max_rows,
            max_age: settings.max_age,
            counts: Arc::clone(&counts),
            opened: None,
            #[cfg(test)]
            max_pages: settings.max_pages,
        };
        match writer.open(settings.create) {
            Err(error) if error.may_pass() => counts.dropped(0, error.drop_reason(), error.to_string()),
            opened => drop(opened?),
        }
        let (commands, received) = sync_channel(settings.queue_rows);
        let thread = std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(move || writer.run(&received))
            .map_err(LedgerError::Thread)?;
        Ok(Self {
            path,
            patience: settings.patience,
            counts,
            commands: Mutex::new(Some(commands)),
            thread: Mutex::new(Some(thread)),
            process: std::process::id(),
        })
    }

    /// The database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands a row to the thread that writes. Never waits: where too many wait already, it is dropped and counted, and
    /// the answer is false.
    ///
    /// # Errors
    /// [`LedgerError::Row`] where it cannot be one, [`LedgerError::Closed`], [`LedgerError::Forked`].
    pub fn record(&self, row: Row) -> Result<bool, LedgerError> {
        row.check()?;
        let commands = self.commands()?;
        // Before it is sent, or the thread could count it off first.
        self.counts.queued.fetch_add(1, Ordering::Relaxed);
        let refused = match commands.try_send(Command::Record(Box::new(row))) {
            Ok(()) => return Ok(true),
            Err(refused) => refused,
        };
        self.counts.queued.fetch_sub(1, Ordering::Relaxed);
        match refused {
            TrySendError::Full(_) => {
                let why = format!("the ledger {} takes rows slower than they come", self.path.display());
                self.counts.dropped(1, DropReason::QueueFull, why);
                Ok(false)
            }
            TrySendError::Disconnected(_) => Err(LedgerError::Closed),
        }
    }

    /// Returns when every row that was taken before is written, or dropped and counted.
    ///
    /// # Errors
    /// [`LedgerError::Closed`], [`LedgerError::Forked`].
    pub fn flush(&self) -> Result<(), LedgerError> {
        let (answer, answered) = channel();
        self.commands()?.send(Command::Flush(answer)).map_err(|_| LedgerError::Closed)?;
        answered.recv().map_err(|_| LedgerError::Closed)
    }

    /// Writes what was taken and ends the thread. Safe to call twice; rows that come later are refused.
    pub fn close(&self) {
        if self.is_forked() {
            return;
        }
        drop(self.commands.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Held while it is waited for: each call returns when all is written.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the ledger's thread failed; what was on its way is lost");
        }
    }

    /// What became of the rows.
    #[must_use]
    pub fn stats(&self) -> LedgerStats {
        let closed = self.is_forked() || self.commands.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        self.counts.read(self.path.clone(), closed)
    }

    /// The last rows of those that are meant, in the order in which they were recorded. Also after closing.
    ///
    /// # Errors
    /// What opening the database raises.
    pub fn latest(&self, filter: &Filter, limit: u64) -> Result<Vec<Recorded>, LedgerError> {
        self.ask(|connection| query::latest(connection, filter, limit))
    }

    /// The first rows that are meant after one, in the order in which they were recorded: for going through all of them.
    ///
    /// # Errors
    /// What opening the database raises.
    pub fn page(&self, filter: &Filter, after_id: i64, limit: u64) -> Result<Vec<Recorded>, LedgerError> {
        self.ask(|connection| query::page(connection, filter, after_id, limit))
    }

    /// Holds what was predicted against what was measured, by model and device, and keeps what the runtime was found to take.
    ///
    /// # Errors
    /// What opening the database raises, and [`LedgerError::Locked`] or [`LedgerError::Full`] where that cannot be kept.
    pub fn reconcile(&self, filter: &Filter) -> Result<Vec<ModelErrors>, LedgerError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.ask(|connection| {
            let reconciled = reconcile(query::page(connection, filter, i64::MIN, u64::MAX)?, now.as_secs_f64());
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for fit in reconciled.iter().filter_map(|model| model.runtime.as_ref()) {
                fit.keep(&transaction)?;
            }
            transaction.commit()?;
            Ok(reconciled)
        })
    }

    /// What the runtime takes for a model on a device, by the last reconciliation that could tell.
    ///
    /// # Errors
    /// What opening the database raises.
    pub fn fitted_runtime(&self, model: &str, device: &str) -> Result<Option<RuntimeFit>, LedgerError> {
        self.ask(|connection| RuntimeFit::kept(connection, model, device))
    }

    /// Asks on a connection of its own, so that a long answer does not hold up the writing.
    fn ask<T>(&self, question: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        if self.is_forked() {
            return Err(LedgerError::Forked);
        }
        let mut connection = connect(&self.path, false, self.patience)?;
        question(&mut connection).map_err(|error| LedgerError::of_sqlite(&self.path, self.patience, &error))
    }

    fn commands(&self) -> Result<SyncSender<Command>, LedgerError> {
        if self.is_forked() {
            return Err(LedgerError::Forked);
        }
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(LedgerError::Closed)
    }

    /// Whether the process was forked since: the thread and its connection belong to the parent.
    fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close();
    }
}
